"""What make passes on and what it re-runs, in a copy of the repository where notebooks are only
pretended to run. All of it is behaviour.
"""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # every test runs make

NOTEBOOKS = ["01_outlier_analysis", "02_pruning", "03_evaluation", "04_export"]
PRETENCE = """#!/bin/sh
# owl.run.cache for real; owl.run.execute and owl.report.pages only note their call and make their
# file, but for the notebook that $FAIL names
case "$2" in
  owl.run.cache) exec {python} "$@" ;;
  owl.run.execute)
    name=$(basename "$3" .ipynb); echo "$name" >> calls; [ "$name" != "$FAIL" ] && touch "$4" ;;
  owl.report.pages) echo report >> calls; touch "reports/$3/index.html" ;;
esac
"""


def make(folder, *arguments, **environment):
    """Run make with nothing of this process's make or of the names that a config line may hold in
    its environment.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MODEL", "CONFIG", "RUN")
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["MODEL", "METHOD", "DEVICE", "SPARSITY", "CONFIG", "RUN"])
def test_an_exported_variable_changes_no_run_and_is_named(name):
    plain, exported = ["report", "-n", "PY=true", "MAKE=true"], {name: "somewhere"}
    assert "somewhere" not in make(ROOT, *plain, **exported).stdout
    assert "somewhere" in make(ROOT, *plain, f"{name}=somewhere").stdout
    said = make(ROOT, "report", "PY=true", "MAKE=true", **exported)
    assert f"note: {name} from the environment is not used" in said.stderr
    assert "note:" not in make(ROOT, "report", "PY=true", "MAKE=true", f"{name}=somewhere").stderr


def test_the_interpreter_may_come_from_the_environment():
    """As in the Dockerfile."""
    assert (
        "/some/python -m owl.run.resolve"
        in make(ROOT, "report", "-n", "MAKE=true", PY="/some/python").stdout
    )


@pytest.fixture
def pages(tmp_path):
    """`pages()` builds a run's pages in `pages.folder` and returns (exit code, what was called);
    `pages.change(path)` makes a file newer than everything.
    """
    for name in ("owl", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("runs", "reports"):
        (tmp_path / folder / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.json").write_text("{}")
    (tmp_path / "python").write_text(PRETENCE.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    for path in tmp_path.rglob("*"):
        os.utime(path, (1e9, 1e9))

    def run(fail=""):
        (tmp_path / "calls").write_text("")
        done = make(tmp_path, "pages", "BUILD=mine", "PY=./python", FAIL=fail)
        for path in (tmp_path / "reports").rglob(
            "*.*"
        ):  # as if an hour had passed, for file systems that count whole seconds
            os.utime(path, (path.stat().st_mtime - 3600,) * 2)
        return done.returncode, (tmp_path / "calls").read_text().split()

    def change(path):
        os.utime(tmp_path / path)

    run.folder, run.change = tmp_path, change
    return run


def test_a_second_report_does_nothing(pages):
    assert pages() == (0, [*NOTEBOOKS, "report"])
    assert pages() == (0, [])


def test_a_report_that_stopped_goes_on_where_it_stopped(pages):
    code, called = pages(fail="03_evaluation")
    assert code != 0 and called == NOTEBOOKS[:3]
    assert pages() == (0, [*NOTEBOOKS[2:], "report"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, expected",
    [
        ("owl/evaluate/probes.py", [*NOTEBOOKS[2:], "report"]),
        ("notebooks/04_export.ipynb", ["04_export", "report"]),
        ("runs/mine/config.json", [*NOTEBOOKS, "report"]),
        ("owl/report/pages.py", ["report"]),
    ],
)
# only 03 reaches it; 04 builds on 03
def test_a_change_runs_what_depends_on_it_and_no_more(pages, path, expected):
    pages()
    pages.change(path)
    assert pages() == (0, expected)


@pytest.mark.slow
def test_a_moved_module_stops_make_until_its_importers_follow_and_then_counts_where_it_is(pages):
    pages()
    (pages.folder / "owl/evaluate/probes.py").rename(pages.folder / "owl/model/probes.py")
    pages.change("owl/model/probes.py")
    assert pages() == (2, [])
    for name in ("03_evaluation", "06_streaming"):
        notebook = pages.folder / f"notebooks/{name}.ipynb"
        text = notebook.read_text()
        assert " probes," in text and "from owl.run import" in text
        moved = "from owl.model import probes; from owl.run import"
        notebook.write_text(text.replace(" probes,", "", 1).replace("from owl.run import", moved))
    assert pages() == (0, [*NOTEBOOKS[2:], "report"])
    pages.change("owl/model/probes.py")
    assert pages() == (0, [*NOTEBOOKS[2:], "report"])
