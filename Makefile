# make report SPARSITY=0.5   the main job; `make` alone lists everything
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
PY ?= .venv/bin/python
DEMO := configs/demo.json
export PYTHONPATH := $(CURDIR)
export TOKENIZERS_PARALLELISM := false
export PYTHONWARNINGS := ignore:IProgress

# a setting counts on the make line only: an exported MODEL must not change a result in silence
said = $(if $(filter command,$(firstword $(origin $(1)))),$($(1)))
ignored = echo "note: $(name) from the environment is not used;" \
  "write make report $(name)=… if it is meant" >&2;
OVERRIDES := SPARSITY METHOD ALLOCATION PATTERN MODEL SAMPLES DEVICE FORMATS RECOVERY MINUTES WINDOW
SPOKEN := $(if $(shell command -v espeak-ng),$(if $(shell command -v flite),00_demo_model))
STREAMED := $(or $(call said,LIVE),$(wildcard reports/$(call said,BUILD)/06_streaming.ipynb))
NOTEBOOKS := $(notdir $(basename $(sort $(wildcard notebooks/0[1-4]_*.ipynb)))) \
  $(if $(STREAMED),06_streaming)
KERNEL := --ExecutePreprocessor.kernel_manager_class=owl.run.kernel.Kernel
SWEPT := owl/sweep/job.ipynb notebooks/05_comparison.ipynb
EXECUTED = $(patsubst %,notebooks/%.ipynb,$(SPOKEN) $(NOTEBOOKS) 06_streaming) $(SWEPT)
QUICK := configs/sweeps/quick.json
SWEEP_FILE = $(or $(call said,SWEEP),configs/sweeps/default.json)
BENCHED = $(or $(call said,BENCH_CONFIG),$(call said,CONFIG),$(DEMO))
NBVAL := --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval.cfg \
  --override-ini addopts= -q
TEMPLATES := $(shell find owl/report/templates -type f)

.PHONY: help setup report streaming pages check style test lab demo-model sweep bench golden clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | \
	awk -F'|' '{printf "  %-18s %s\n", $$1, $$2}'
	@echo "  on the report line: CONFIG=configs/….json RUN=… $(OVERRIDES:%=%=…)"

# PY=python on the make line uses the interpreter of an environment that is there (conda, Docker)
MADE := $(if $(filter command line environment,$(origin PY)),,.venv/ready)
setup: $(MADE) ## Make the environment in .venv (every other target does it first)

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "error: Python 3.11 or newer is needed; name one with PYTHON=…" >&2; exit 1; }
	@echo "making the environment in .venv (a few minutes, about 2 GB)"
	@$(PYTHON) -m venv .venv || \
	{ echo "error: cannot make a virtual environment; on Debian or Ubuntu:" \
	"apt-get install python3-venv" >&2; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(PY) -c 'import site; print(site.getsitepackages()[0])' | \
	{ read -r packages && echo "$(CURDIR)" > "$$packages/whisper-owl.pth"; }
	@touch $@

report: setup ## Analyse, prune, evaluate, export: writes reports/<run>/index.html
	@$(foreach name,CONFIG RUN $(OVERRIDES),\
	  $(if $(filter environment,$(firstword $(origin $(name)))),$(ignored)))
	@run=$$($(PY) -m owl.run.resolve --config "$(or $(call said,CONFIG),$(DEMO))" \
	  $(if $(call said,RUN),--run "$(RUN)") \
	  $(foreach name,$(OVERRIDES),$(name)="$(call said,$(name))")) && \
	$(MAKE) --no-print-directory pages BUILD="$$run" LIVE=$(LIVE) && \
	echo "report: reports/$$run/index.html"

streaming: LIVE := yes
streaming: report ## The report, and what both models do live, clips played as streams

check: style ## Style and the fast tests, in under a minute: the inner loop
	$(PY) -m pytest tests -m "not slow"

style: setup
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

test: style ## Style, all unit tests, a quick sweep, then the notebooks under nbval
	$(PY) -m pytest tests
	$(PY) -m owl.sweep.jobs $(QUICK) --jobs 2
	$(PY) -m pytest $(NBVAL) $(EXECUTED)

lab: setup ## Open JupyterLab on the notebooks
	$(PY) -m jupyterlab notebooks

golden: setup ## Re-run the notebooks in place and keep their figures and checked outputs
	@$(PY) -m owl.sweep.jobs $(QUICK) --jobs 2
	@for notebook in $(EXECUTED); do \
	  $(PY) -m jupyter nbconvert --to notebook --execute --inplace $(KERNEL) $$notebook && \
	  $(PY) -m nbstripout --keep-count --extra-keys "metadata.papermill cell.metadata.execution" \
	    $$notebook || exit 1; \
	done

demo-model: setup ## Re-create models/demo and data/demo from scratch: hours on two cores, resumable
	@mkdir -p runs/demo-model
	$(PY) -c 'import pathlib, sys; from owl.run.execute import execute; \
	execute(pathlib.Path("notebooks/00_demo_model.ipynb"), \
	  pathlib.Path("runs/demo-model/00_demo_model.ipynb"), \
	  dict(target="models/demo", clips="data/demo", work="runs/demo-model", \
	    evaluation_clips=160, calibration_clips=128, \
	    training_clips=12000, steps=11000, second_steps=1600), sys.stderr)'

sweep: setup ## The grid of methods, then the comparison: SWEEP=….json JOBS=2 SCHEDULER=tcp://…
	@$(PY) -m owl.sweep.jobs $(SWEEP_FILE) --jobs $(or $(call said,JOBS),1) \
	  $(if $(call said,SCHEDULER),--scheduler $(SCHEDULER)) && \
	$(PY) -m owl.report.comparison $(SWEEP_FILE)

bench: setup ## Speed, memory and choices side by side: BENCH_CONFIG=…, LINEARS=1, GROWTH=1 by model size
ifneq ($(call said,GROWTH),)
	$(PY) -m benchmarks.growth $(call said,SHAPE)
else ifneq ($(call said,LINEARS),)
	$(PY) -m benchmarks.linears $(BENCHED)
else
	$(PY) -m benchmarks.bench $(BENCHED)
	$(PY) -m benchmarks.narrow $(BENCHED)
endif

clean: ## Remove what runs generated (runs/, reports/); the environment stays
	rm -rf runs reports

ifneq ($(call said,BUILD),)
pages: reports/$(BUILD)/index.html

runs/$(BUILD)/modules.mk: $(shell find owl -name '*.py') $(wildcard notebooks/*.ipynb)
	@$(PY) -m owl.run.cache "$(BUILD)" > $@

include runs/$(BUILD)/modules.mk

# $(1) notebook, $(2) the executed notebook before it, $(3) "2/4"
define execute
reports/$(BUILD)/$(1).ipynb: notebooks/$(1).ipynb runs/$(BUILD)/config.json \
  owl/plots/owl.mplstyle $(2)
	@$$(PY) -m owl.run.execute $$< $$@ "$(BUILD)" $(3)
endef
previous :=
count :=
$(foreach name,$(NOTEBOOKS),\
  $(eval count += x)\
  $(eval $(call execute,$(name),$(previous),$(words $(count))/$(words $(NOTEBOOKS))))\
  $(eval previous := reports/$(BUILD)/$(name).ipynb))

reports/$(BUILD)/04_export.ipynb: owl/export/model_card.md.j2

reports/$(BUILD)/index.html: $(NOTEBOOKS:%=reports/$(BUILD)/%.ipynb) \
  $(wildcard owl/report/*.py) $(TEMPLATES)
	@$(PY) -m owl.report.pages "$(BUILD)"
endif
