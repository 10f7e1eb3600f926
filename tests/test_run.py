"""Runs and reports: artefacts whole or absent, provenance, pages that open offline. All of it is
behaviour.
"""

import json
import re
import sys

import nbformat
import pytest

from owl.config.load import load
from owl.errors import MissingArtefact
from owl.report import pages
from owl.run import execute, files, provenance, record
from tests.conftest import ROOT


@pytest.fixture
def run(tmp_path):
    return record.Run("mine", tmp_path, load(ROOT / "configs" / "demo.json"))


def test_an_artefact_carries_its_provenance_and_is_read_back(run):
    run.write("thing", {"value": 0.25})
    read = run.read("thing", made_by="01_outlier_analysis")
    assert read["value"] == 0.25 and read["peak_rss_bytes"] > 10**7
    facts = read["provenance"]
    assert (
        facts["packages"]["torch"].startswith("2.13.0")
        and facts["seed"] == 0
        and facts["device"] == "cpu"
    )
    assert facts["config"]["model"]["name"] == "models/demo"  # no path of a machine
    assert facts["git_commit"] is None or re.fullmatch(
        r"[0-9a-f]{40}(\+changes)?", facts["git_commit"]
    )


def test_a_value_that_is_not_json_leaves_no_file(run):
    with pytest.raises(ValueError):
        run.write("thing", {"value": float("nan")})
    assert not list(run.folder.iterdir())


def test_a_missing_artefact_names_itself_and_the_notebook_that_makes_it(run):
    with pytest.raises(
        MissingArtefact,
        match="runs/mine/outliers.json is not there: run the notebook 01_outlier_analysis",
    ):
        run.read("outliers", made_by="01_outlier_analysis")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with files.whole_folder(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.whole_folder(target) as folder:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt
    assert (target / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with files.whole_folder(target) as folder:
        (folder / "other").write_text("new")
    assert [path.name for path in target.iterdir()] == ["other"]
    assert record.folder_bytes(target) == 3


def test_tensorboard_is_written_only_where_the_config_asks(run):
    record.log_tensorboard(run, {"wer": 0.1})
    assert not (run.folder / "tensorboard").exists()
    asked = record.Run("mine", run.folder, load(ROOT / "configs" / "demo.json"))
    output = asked.config.output.model_copy(update={"log_to_tensorboard": True})
    asked = record.Run("mine", run.folder, asked.config.model_copy(update={"output": output}))
    record.log_tensorboard(asked, {"wer": 0.1})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert events.Scalars("wer")[0].value == pytest.approx(0.1)


@pytest.fixture
def page():
    notebook = nbformat.v4.new_notebook(metadata={"papermill": {"duration": 2.5}})
    shown = nbformat.v4.new_code_cell("print('<script>')", metadata={"tags": []})
    shown.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="<script>alert(1)</script>"),
        nbformat.v4.new_output("stream", name="stderr", text="transcribe: 50%"),
    ]
    hidden = nbformat.v4.new_code_cell("helper_input = 1", metadata={"tags": ["hide-input"]})
    gone = nbformat.v4.new_code_cell("never_shown = 1", metadata={"tags": ["remove-cell"]})
    notebook.cells = [nbformat.v4.new_markdown_cell("# What now?\n\ntext"), shown, hidden, gone]
    return pages.render_notebook(notebook, pages.title_of(notebook), "<b>links</b>")


def test_a_notebooks_seconds_are_those_of_its_steps_and_the_rest():
    cells = [
        nbformat.v4.new_code_cell(metadata={"tags": tags, "papermill": {"duration": seconds}})
        for tags, seconds in ((["step: listen"], 1.5), ([], 0.25), (["step: solve"], 0.5))
    ]
    notebook = nbformat.v4.new_notebook(metadata={"papermill": {"duration": 4.0}}, cells=cells)
    assert pages.steps_of(notebook) == {"listen": 1.5, "solve": 0.5, "the rest": 2.0}


def test_a_page_hides_by_tag_and_leaves_out_progress_bars(page):
    assert "helper_input" not in page and "never_shown" not in page and "50%" not in page
    assert "<title>What now?</title>" in page and "<b>links</b>" in page


def test_a_page_leaves_out_a_section_whose_hidden_code_showed_nothing():
    notebook = nbformat.v4.new_notebook()
    said = nbformat.v4.new_output("stream", name="stdout", text="a table")
    progress = nbformat.v4.new_output("stream", name="stderr", text="50%")
    for name, tags, outputs in (
        ("silent", ["hide-input"], [progress]),
        ("showing", ["hide-input"], [said]),
        ("listed", [], [progress]),
    ):
        cell = nbformat.v4.new_code_cell("x", metadata={"tags": tags}, outputs=outputs)
        notebook.cells += [nbformat.v4.new_markdown_cell(f"## About {name}"), cell]
        notebook.cells.append(nbformat.v4.new_markdown_cell(f"after {name}"))
    notebook.cells.append(nbformat.v4.new_markdown_cell("## About prose"))
    text = pages.render_notebook(notebook, "title", "")
    assert "About silent" not in text and "after silent" not in text
    assert all(f"About {name}" in text for name in ("showing", "listed", "prose"))
    assert len(notebook.cells) == 10  # the notebook itself is as it was


def test_a_page_escapes_text_and_fetches_nothing(page):
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert (
        not re.search(r'(src|href)="(https?:)?//', page)
        and "@import" not in page
        and "url(" not in page
    )


def test_the_index_escapes_dataset_names_and_states_the_computed_values():
    one = {
        "wer": 0.1,
        "cer": 0.05,
        "wer_interval": [0.05, 0.15],
        "insertions": 1,
        "deletions": 2,
        "substitutions": 3,
        "rtfx": 9.0,
        "cap_hits": 0,
        "repeats": 0,
        "insertions_looping": 0,
    }
    dataset = {
        "name": "<script>x</script>",
        "clips": 3,
        "words": 60,
        "dense": one,
        "pruned": one
        | {"wer": 0.25, "cer_interval": [0.1, 0.2]}
        | {"insertions": 9, "repeats": 2, "insertions_looping": 7},
        "difference": 0.15,
    }
    dataset |= {"difference_interval": [0.1, 0.2], "kl": 0.0123}
    export = {
        "format": "hf",
        "runtime": "pytorch",
        "path": "mine/hf",
        "bytes": 1234567,
        "ratio": 1.04,
        "wer": 0.25,
        "rtfx": 8.0,
        "loads_in": "<b>",
    }
    dense_export = {
        "format": "dense fp16",
        "runtime": "pytorch",
        "bytes": 2345678,
        "ratio": 1.0,
        "wer": 0.1,
        "rtfx": 9.0,
    }
    others = {
        "dense_exports": [dense_export],
        "not_exported": [{"format": "ct2", "reason": "<i>heads</i>"}],
        "recommendation": ["<u>ship</u>"],
    }
    facts = {
        "git_commit": None,
        "packages": {"torch": "2"},
        "python": "3",
        "platform": "p",
        "device": "cpu",
        "seed": 0,
        "config": {"evaluation": {"window": "speech"}},
    }
    summary = {
        "model": "m",
        "sparsity_prunable": 0.4957,
        "sparsity_model": 0.4,
        "target_sparsity": 0.5,
        "method": "wanda",
        "allocation": "owl",
    }
    summary |= {
        "recovery": "none",
        "pattern": "unstructured",
        "seconds": {"01": 1.0, "02": 2.0},
        "expected_seconds": {"pruning": 5.0},
        "peak_rss_bytes": 2e9,
        "datasets": [dataset],
    }
    figures = {"layer_allocation": "", "deployment": ""}
    by_characters = {"name": "zh", "unit": "characters", "characters": 400}
    by_characters["dense"] = one | {"cer": 0.031, "cer_interval": [0.02, 0.04]}
    summary["datasets"].append(dataset | by_characters)
    text = pages.render_index(
        "mine",
        summary | others | {"exports": [export], "provenance": facts},
        1.5,
        figures,
        [{"file": "a.html", "title": "A?", "seconds": 1, "steps": {"listen": 1}}],
    )
    assert "<script" not in text and "&lt;script&gt;x" in text
    by_word, by_character = re.findall(r'<p class="headline">.*?</p>', text, re.S)
    assert "word error rate" in by_word and "characters" not in by_word
    assert "character error rate" in by_character and "3.10 %" in by_character
    assert "by characters" in by_character and "400 characters" in text and "CER 3.10 %" in text
    assert all(
        words in text
        for words in (
            "10.00 %",
            "25.00 %",
            "+15.00 %",
            "49.57 %",
            "1,234,567 bytes",
            "0.0123",
            "2.00 GB",
            "3 s for the whole report (5 s were expected)",
            "Both models listen to short windows",
        )
    )
    assert all(words in text for words in ("dense fp16", "2,345,678", "&lt;u&gt;ship", "&lt;b&gt;"))
    assert "2 of 3 clips loop and end there; 7 of 9 insertions are theirs." in by_word
    assert "<td>1 → 9</td><td>0 → 7</td><td>0 → 2</td><td>0 → 0</td>" in text
    assert "one-shot" in text and "WER pruned" in text and "recovered" not in text
    result = {"minutes": 4.26, "held_out_kl_before": 0.49, "held_out_kl_after": 0.08}
    summary |= {
        "recovery": "distill",
        "recovery_result": result,
        "exports": [],
        "provenance": facts,
    }
    text = pages.render_index("mine", summary | others, 1.5, figures, [])
    assert "one-shot" not in text and "WER pruned" not in text
    assert all(
        words in text
        for words in (
            "WER recovered",
            "recovered by distill",
            "4.3 min",
            "0.4900 before, 0.0800 after",
        )
    )


def test_every_committed_config_is_json_that_people_can_copy():
    for path in (ROOT / "configs").glob("*.json"):
        assert json.loads(path.read_text())["model"]["name"]


def test_a_folder_of_others_files_carries_its_provenance_beside_them(tmp_path, run):
    provenance.write_provenance(tmp_path, run.config)
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert (
        facts == json.loads(json.dumps(provenance.collect(run.config)))
        and facts["config"]["model"]["name"] == "models/demo"
    )


@pytest.fixture
def notebook_of(tmp_path, monkeypatch):
    """`notebook_of(source)` executes a one-cell notebook of a run in a repository at tmp_path;
    returns (exit code, its output path).
    """
    monkeypatch.setattr(execute, "ROOT", tmp_path)

    def go(source: str):
        path, output = tmp_path / "01_some.ipynb", tmp_path / "reports" / "mine" / "01_some.ipynb"
        output.parent.mkdir(parents=True)
        (output.parent / "index.html").write_text("an earlier claim")
        cell = nbformat.v4.new_code_cell(
            "config: str = ''\nrun: str = ''", metadata={"tags": ["parameters"]}
        )
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        nbformat.write(
            nbformat.v4.new_notebook(
                cells=[cell, nbformat.v4.new_code_cell(source)], metadata=kernel
            ),
            path,
        )
        return execute.main(path, output, "mine", "1/1"), output

    return go


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, words",
    [
        ("import os; os._exit(137)", "its kernel died.*memory.*SAMPLES.*batch_size"),
        ("raise ValueError('that will not do')", "ValueError: that will not do"),
    ],
    ids=["a dead kernel", "an error"],
)
def test_a_notebook_that_stops_says_why_in_one_last_line_and_leaves_no_claim(
    notebook_of, capfd, source, words
):
    code, output = notebook_of(source)
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert code == 1 and re.match(f"error: 01_some stopped: .*{words}", last)
    assert not list(output.parent.iterdir())


@pytest.mark.slow
def test_a_notebook_that_ends_well_is_at_its_place(notebook_of):
    code, output = notebook_of("print(run)")
    assert code == 0 and "mine" in nbformat.read(output, 4).cells[-1].outputs[0].text


def test_a_notebook_runs_in_this_interpreter_whatever_kernels_jupyter_finds(
    notebook_of, tmp_path, monkeypatch
):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(spec.parents[1]))
    code, output = notebook_of("import sys\nprint(sys.executable)")
    assert code == 0
    assert nbformat.read(output, 4).cells[-1].outputs[0].text.strip() == sys.executable
