"""The rules that notebooks keep, read from their source (nbval executes them), and one run of the
report's four, twice in one kernel, on a tiny model. All of it is behaviour.
"""

import ast
import base64
import json
import shutil
import uuid
from collections import Counter

import nbformat
import pytest

from owl.config.load import OVERRIDES, load
from owl.report import pages
from owl.run.cache import closure, notebook_source
from tests import tiny
from tests.conftest import ROOT

TAGS = {"parameters", "remove-cell", "hide-input", "nbval-check-output", "keep_output"}
PATHS = [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "owl" / "sweep" / "job.ipynb"]
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


def test_tags_come_from_the_closed_vocabulary_and_say_which_outputs_are_kept(notebook):
    for cell in code_cells(notebook):
        steps = {tag for tag in tags(cell) if tag.startswith(pages.STEP)}
        assert len(steps) <= 1 and tags(cell) - steps <= TAGS
        assert "keep_output" in tags(cell) or "nbval-check-output" not in tags(cell)
        assert bool(cell.outputs) == ("keep_output" in tags(cell)), cell.source
        # without a count nbval compares nothing
        assert cell.execution_count is not None or not cell.outputs


@pytest.mark.parametrize("path", PATHS[1:6], ids=lambda path: path.stem)
def test_committed_notebooks_carry_their_figures(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    # a figure under a condition belongs to a feature that the demo run does not use
    drawn = [
        cell
        for cell in cells
        if "plt.subplots" in cell.source and not cell.source.startswith("if ")
    ]
    assert drawn and all("keep_output" in tags(cell) for cell in drawn)
    for cell in drawn:
        (output,) = cell.outputs
        assert len(base64.b64decode(output.data["image/png"])) < 80_000, cell.source


def test_the_figures_of_all_notebooks_together_are_small():
    assert sum(path.stat().st_size for path in PATHS) < 2_500_000


def test_every_notebook_has_two_to_five_checked_cells(notebook):
    assert 2 <= sum("nbval-check-output" in tags(cell) for cell in code_cells(notebook)) <= 5


def test_checked_outputs_are_plain_text_without_paths_or_devices(notebook):
    for cell in code_cells(notebook):
        if "nbval-check-output" in tags(cell):
            assert not cell.source.rstrip().endswith(";")
            for output in cell.outputs:
                assert output.output_type == "stream" and output.name == "stdout"
                assert not any(word in output.text for word in ("/", "\\", "cpu", "cuda", "mps"))


def test_no_definitions_shell_or_swallowed_errors(notebook):
    for cell in code_cells(notebook):
        assert not cell.source.lstrip().startswith(("!", "%"))
        for node in ast.walk(tree(cell)):
            assert not isinstance(
                node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Try, ast.While)
            ), cell.source


def test_lines_are_at_most_100_columns_wide(notebook):
    for cell in notebook.cells:
        assert max(len(line) for line in cell.source.splitlines()) <= 100, cell.source


def test_cells_can_run_twice_and_in_any_sensible_order(notebook):
    """A name is bound in one cell only (figures aside), so no parameter is bound again, a loop's
    variable is no cell's result, and what another cell made is not changed in place.
    """
    bound, looped = Counter(), set()
    for cell in code_cells(notebook):
        assigned = assigned_names(tree(cell))
        bound.update(assigned)
        for node in ast.walk(tree(cell)):
            if isinstance(node, ast.For):
                looped |= names_in(node.target)
            if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                assert root_name(node) in assigned, cell.source
            if isinstance(node, ast.AugAssign):
                assert before_augmented(cell, root_name(node.target)), cell.source
    again = {name for name, count in bound.items() if count > 1}
    assert again <= {"figure", "ax", "axes"}, again
    assert not looped & set(bound) - {"ax"}, looped & set(bound)


def assigned_names(module) -> set[str]:
    """Names that a cell's own statements bind: imports and assignments."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= set().union(*(names_in(target) for target in targets))
    return names


def names_in(target) -> set[str]:
    """Names that an assignment to `target` binds."""
    found = [node for node in ast.walk(target) if isinstance(node, ast.Name)]
    return {node.id for node in found if isinstance(node.ctx, ast.Store)}


def root_name(node) -> str | None:
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return getattr(node, "id", None)


def before_augmented(cell, name) -> bool:
    """Does a plain assignment in the cell make what is augmented?"""
    plain = [node for node in ast.walk(tree(cell)) if isinstance(node, ast.Assign)]
    return any(name in assigned_names(ast.Module([node], [])) for node in plain)


def test_every_figure_is_followed_by_how_to_read_it(notebook):
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None]):
        if cell.cell_type == "code" and "plt.subplots" in cell.source:
            assert following.source.startswith("How to read it:"), cell.source
            assert following.cell_type == "markdown", cell.source


def test_every_notebook_ends_with_checks_what_we_saw_and_provenance(notebook):
    headings = [
        cell.source.splitlines()[0] for cell in notebook.cells if cell.cell_type == "markdown"
    ]
    assert headings.index("## Checks") < headings.index("## What we saw")
    assert "provenance" in notebook.cells[-1].source


@pytest.mark.parametrize("path", REPORT, ids=lambda path: path.stem)
def test_what_papermill_passes_is_a_parameter(path):
    """papermill only logs an unknown parameter; owl.run.execute passes `run`, readers pass `config`
    and `overrides`.
    """
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    names = {statement.target.id for statement in tree(cell).body}
    assert {"config", "run", "overrides"} <= names
    assert "this_run = record.open_run(config, run, overrides)" in notebook_source(path)


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
    assert not found & {"owl.prune.pipeline", "owl.report.pages"}
    assert {"owl.kernels.solvers", "owl.kernels.allocation"} <= closure(notebook_source(REPORT[1]))


def test_notebooks_are_valid_json_with_ids(notebook):
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    json.dumps(notebook)


@pytest.fixture
def tiny_config(tmp_path):
    """A tiny model and four noise clips each way: the path of a config whose name is its own."""
    tiny.save(tmp_path, 4)
    calibration = {"dataset": {"name": "c", "path": "calibration"}, "samples": 4}
    path = tmp_path / f"test-{uuid.uuid4().hex}.json"
    path.write_text(
        json.dumps(
            {
                "model": {"name": "model"},
                "pruning": {"calibration": calibration | {"labels": "reference"}},
                "evaluation": {
                    "datasets": [{"name": "e", "path": "evaluation"}],
                    "max_new_tokens": 4,
                },
                "output": {"dir": str(tmp_path / "out"), "formats": ["hf"]},
            }
        )
    )
    yield path
    for left in (ROOT / "runs").glob(f"{path.stem}-*"):
        shutil.rmtree(left)


@pytest.mark.slow
def test_the_reports_notebooks_run_twice_in_one_kernel_and_say_the_same(tiny_config):
    from nbclient import NotebookClient

    parameters = f"config = {str(tiny_config)!r}\noverrides = {{'sparsity': 0.5}}"
    parts = [nbformat.read(path, as_version=4) for path in REPORT]
    cells = []
    for cell in [cell for _ in (1, 2) for part in parts for cell in part.cells]:
        cells.append(nbformat.from_dict(cell))
        if "parameters" in tags(cell):
            cells.append(nbformat.v4.new_code_cell(parameters))
    for cell in cells:
        cell.id = uuid.uuid4().hex
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, kernel_name="python3", resources=dict(metadata=dict(path=ROOT))
    ).execute()
    first, second = cells[: len(cells) // 2], cells[len(cells) // 2 :]
    for one, other in zip(first, second):
        if one.cell_type == "code" and "nbval-check-output" in tags(one):
            assert one.outputs and one.outputs == other.outputs, one.source
    # what the pages of 01 to 03 tell, without their code and provenance
    told = [
        cell | ({"source": ""} if cell.cell_type == "code" else {})
        for cell in first[: sum(len(part.cells) + 1 for part in parts[:3])]
        if "provenance" not in cell.source
    ]
    page = pages.render_notebook(nbformat.from_dict(notebook | {"cells": told}), "", "").lower()
    assert "checks" in page and "image/png" in page
    unused = ("recover", "training", "heads and neurons", "one unit at a time")
    assert not [word for word in unused if word in page]
