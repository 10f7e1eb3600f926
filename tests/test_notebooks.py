"""The rules that notebooks keep, read from their source: nothing is executed here (nbval does
that). All of it is behaviour.
"""

import ast
import json

import nbformat
import pytest

from owl.config.load import OVERRIDES, load
from owl.run.cache import closure, notebook_source
from tests.conftest import ROOT

TAGS = {"parameters", "remove-cell", "hide-input", "nbval-check-output", "keep_output"}
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPORT = [path for path in PATHS if path.stem[:2] in ("01", "02", "03", "04")]


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def tree(cell):
    return ast.parse(cell.source)


def test_the_four_notebooks_of_the_report_are_there():
    assert [path.stem for path in REPORT] == [
        "01_outlier_analysis",
        "02_pruning",
        "03_evaluation",
        "04_export",
    ]


def test_every_notebook_opens_with_a_question_and_says_what_goes_in_and_out(notebook):
    first = notebook.cells[0].source
    assert first.startswith("# ") and first.splitlines()[0].endswith("?")
    assert "**In:**" in first and "**Out:**" in first


def test_there_is_one_parameters_cell_of_typed_commented_literals(notebook):
    (cell,) = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    for statement in tree(cell).body:
        assert isinstance(statement, ast.AnnAssign)
        ast.literal_eval(statement.value)
    assert all("  # " in line for line in cell.source.splitlines())


def test_tags_come_from_the_closed_vocabulary_and_checked_cells_keep_their_output(notebook):
    for cell in code_cells(notebook):
        assert tags(cell) <= TAGS
        assert ("nbval-check-output" in tags(cell)) == ("keep_output" in tags(cell))
        assert bool(cell.outputs) == ("keep_output" in tags(cell)), cell.source
        # without a count nbval compares nothing
        assert cell.execution_count is not None or not cell.outputs


def test_every_notebook_has_two_to_five_checked_cells(notebook):
    assert 2 <= sum("nbval-check-output" in tags(cell) for cell in code_cells(notebook)) <= 5


def test_checked_outputs_are_plain_text_without_paths_or_devices(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type == "stream" and output.name == "stdout"
            assert not any(word in output.text for word in ("/", "\\", "cpu", "cuda", "mps"))
        if "nbval-check-output" in tags(cell):
            assert not cell.source.rstrip().endswith(";")


def test_no_definitions_shell_or_swallowed_errors(notebook):
    for cell in code_cells(notebook):
        assert not cell.source.lstrip().startswith(("!", "%"))
        for node in ast.walk(tree(cell)):
            assert not isinstance(
                node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Try, ast.While)
            ), cell.source


def test_cells_are_short(notebook):
    cells = [
        cell for cell in code_cells(notebook) if not cell.source.startswith(("import ", "from "))
    ]
    lengths = sorted(len(cell.source.splitlines()) for cell in cells)
    assert lengths[len(lengths) // 2] <= 7


def test_every_figure_is_followed_by_how_to_read_it(notebook):
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None]):
        if cell.cell_type == "code" and "plt.subplots" in cell.source:
            assert following.cell_type == "markdown", cell.source


def test_every_notebook_ends_with_checks_what_we_saw_and_provenance(notebook):
    headings = [
        cell.source.splitlines()[0] for cell in notebook.cells if cell.cell_type == "markdown"
    ]
    assert headings.index("## Checks") < headings.index("## What we saw")
    assert "provenance" in notebook.cells[-1].source


@pytest.mark.parametrize("path", REPORT, ids=lambda path: path.stem)
def test_what_papermill_passes_is_a_parameter(path):
    """papermill only logs an unknown parameter; owl.execute passes `run`, readers pass `config` and
    `overrides`.
    """
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    names = {statement.target.id for statement in tree(cell).body}
    assert {"config", "run", "overrides"} <= names
    assert "record.open_run(config, run, overrides)" in notebook_source(path)


def test_defaults_are_the_demo_run():
    for path in REPORT:
        assert 'config: str = "configs/demo.json"' in notebook_source(path)
        assert 'run: str = ""' in notebook_source(path)


def test_every_make_override_is_an_override_of_the_config():
    makefile = (ROOT / "Makefile").read_text()
    (line,) = [line for line in makefile.splitlines() if line.startswith("OVERRIDES :=")]
    assert {name.lower() for name in line.split(":=")[1].split()} == set(OVERRIDES)
    # empty means not overridden
    load(ROOT / "configs" / "demo.json", {name: "" for name in OVERRIDES})


def test_a_later_notebook_names_the_one_whose_artefact_it_needs():
    for path, needed in zip(REPORT[1:], ("01_outlier_analysis", "02_pruning", "03_evaluation")):
        assert f'made_by="{needed}"' in notebook_source(path)


def test_the_import_closure_reaches_kernels_through_other_modules():
    """Make re-runs a notebook when a module in its closure changes; scoring reaches 04 only through
    others.
    """
    found = closure(notebook_source(REPORT[3]))
    assert {
        "owl.export.formats",
        "owl.kernels.scoring",
        "owl.data.load",
        "owl.data.hub",
        "owl.export.onnx_graphs",
    } <= found
    assert not found & {"owl.kernels.solvers", "owl.report.pages"}
    assert {"owl.kernels.solvers", "owl.kernels.allocation"} <= closure(notebook_source(REPORT[1]))


def test_notebooks_are_valid_json_with_ids(notebook):
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    json.dumps(notebook)
