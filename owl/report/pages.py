"""The pages a reader opens: every executed notebook as HTML, summary.json, and one index page over
them.

`python -m owl.report.pages RUN` reads `reports/<run>/*.ipynb` and `runs/<run>/*.json`. Pages open
offline: no script, nothing fetched. Nothing is computed here that a notebook did not; summary.json
and index.html come last, so a report that has them is complete.
"""

import base64
import json
import sys
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from owl import ROOT, setup
from owl.export.advice import Row, table
from owl.kernels.patterns import SMALLER
from owl.kernels.records import SOLVERS
from owl.kernels.texts import broken
from owl.run import provenance
from owl.run.files import whole_file

TEMPLATES = Path(__file__).parent / "templates"
SCHEMA_VERSION = 1
STEP = "step: "  # how the tag of a cell begins that is timed


def main(run: str) -> None:
    """Write all pages of `run`."""
    setup(models=False)  # before this import
    import nbformat

    source, target = ROOT / "runs" / run, ROOT / "reports" / run
    notebooks = {
        path.stem: nbformat.read(path, as_version=4) for path in sorted(target.glob("0*.ipynb"))
    }
    pages = [
        {
            "file": f"{stem}.html",
            "title": title_of(notebook),
            "seconds": seconds_of(notebook),
            "steps": steps_of(notebook),
        }
        for stem, notebook in notebooks.items()
    ]
    for page, notebook in zip(pages, notebooks.values()):
        write(
            target / page["file"],
            render_notebook(notebook, page["title"], navigation(pages, page["file"])),
        )
    artefacts = {
        name: json.loads((source / f"{name}.json").read_text())
        for name in ("outliers", "pruning", "evaluation", "export")
    }
    seconds = {stem: seconds_of(notebook) for stem, notebook in notebooks.items()}
    steps = {stem: steps_of(notebook) for stem, notebook in notebooks.items()}
    summary = summarise(run, artefacts, seconds) | {"steps": steps}
    write(target / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    figures = {
        name: base64.b64encode((source / f"{name}.png").read_bytes()).decode()
        for name in ("layer_allocation", "deployment")
    }
    write(
        target / "index.html",
        render_index(run, summary, artefacts["pruning"]["seconds"], figures, pages),
    )


def summarise(run: str, artefacts: dict, seconds: dict[str, float]) -> dict:
    """The machine-readable result of a run; every value comes from an artefact."""
    facts = artefacts["export"]["provenance"]
    settings, pruning = facts["config"]["pruning"], artefacts["pruning"]
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "model": facts["config"]["model"]["name"],
        "method": settings["method"],
        "allocation": artefacts["outliers"]["allocation"],
        "pattern": artefacts["outliers"]["pattern"],
        "recovery": settings["recovery"]["method"],
        "recovery_result": pruning["recovery"],
        "target_sparsity": settings["sparsity"],
        "sparsity_prunable": pruning["sparsity_prunable"],
        "sparsity_model": pruning["sparsity_model"],
        "seconds": seconds,
        "expected_seconds": artefacts["outliers"]["expected_seconds"],
        "peak_rss_bytes": max(artefact["peak_rss_bytes"] for artefact in artefacts.values()),
        "blocks": artefacts["outliers"]["blocks"],
        "notes": artefacts["outliers"]["notes"],
        "datasets": artefacts["evaluation"]["datasets"],
        "exports": artefacts["export"]["exports"],
        "dense_exports": artefacts["export"]["dense"],
        "not_exported": artefacts["export"]["not_exported"],
        "recommendation": artefacts["export"]["recommendation"],
        "provenance": facts,
    }


def render_notebook(notebook, title: str, links: str) -> str:
    """One executed notebook as a page; cells and inputs are hidden by their tags, progress bars
    (stderr) and sections that show nothing are left out.
    """
    from nbconvert import HTMLExporter
    from nbformat import NotebookNode
    from traitlets.config import Config as Traits

    settings = Traits()
    settings.TagRemovePreprocessor.remove_cell_tags = {"remove-cell"}
    settings.TagRemovePreprocessor.remove_input_tags = {"hide-input", "injected-parameters"}
    settings.TagRemovePreprocessor.enabled = True
    exporter = HTMLExporter(
        template_name="notebook", extra_template_basedirs=[str(TEMPLATES)], config=settings
    )
    exporter.register_preprocessor("nbconvert.preprocessors.TagRemovePreprocessor", enabled=True)
    resources = {
        "report_title": title,
        "report_style": (TEMPLATES / "style.css").read_text(),
        "report_navigation": links,
    }
    cells = [cell for part in sections(notebook) if shows(part) for cell in part]
    told = NotebookNode(notebook | {"cells": cells})
    return exporter.from_notebook_node(told, resources=resources)[0]


def sections(notebook) -> list[list]:
    """The notebook's cells, split before every heading of the second level."""
    parts = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            parts.append([])
        parts[-1].append(cell)
    return parts


def shows(section: list) -> bool:
    """Is there something to read about? Not where all code of a section is hidden and none of it
    showed anything: it belongs to a feature that the run does not use.
    """
    code = [cell for cell in section if cell.cell_type == "code"]
    hidden = all("hide-input" in cell.metadata.get("tags", []) for cell in code)
    said = [out for cell in code for out in cell.outputs if out.get("name") != "stderr"]
    return not (code and hidden) or bool(said)


def render_index(
    run: str, summary: dict, prune_seconds: float, figures: dict[str, str], pages: list[dict]
) -> str:
    """The first page: headline, house figure, tables and links."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    return environment.get_template("index.html.j2").render(
        run=run,
        summary=summary,
        counted=counted(summary),
        model=provenance.model_label(summary["model"]),
        figures=figures,
        deployment=deployment_table(summary),
        pages=pages,
        prune_seconds=prune_seconds,
        total_seconds=sum(summary["seconds"].values()),
        expected_seconds=sum(summary["expected_seconds"].values()),
        style=(TEMPLATES / "style.css").read_text(),
        navigation=navigation(pages, "index.html"),
        provenance=[("run", run), *provenance.rows(summary["provenance"])],
        broken=broken,
        smaller=SMALLER,
        percent=lambda share: f"{100 * share:.2f} %",
        signed=lambda share: f"{100 * share:+.2f} %",
    )


def counted(summary: dict) -> str:
    """How near the realised sparsity comes to its target, in words."""
    if summary["pattern"] in SMALLER:
        return "to the nearest whole group or rank"
    if summary["pattern"].startswith("N:"):
        return "as near as whole numbers N come"
    fixed = summary["pattern"] != "unstructured"
    return "met exactly" if fixed else SOLVERS[summary["method"]].counts


def deployment_table(summary: dict) -> str:
    """The deployment table as HTML, the same as in 04_export; empty where nothing was exported or
    refused.
    """
    if not summary["exports"] and not summary["not_exported"]:
        return ""
    dense, exported = (
        [Row.read(row, dense=dense) for row in summary[key]]
        for key, dense in (("dense_exports", True), ("exports", False))
    )
    return table([*dense, *exported]).to_html()


def navigation(pages: list[dict], here: str) -> str:
    """Links to all pages, the present one in bold."""
    names = [
        ("index.html", "Summary"),
        *((page["file"], page["file"].removesuffix(".html").replace("_", " ")) for page in pages),
    ]
    return "".join(
        f"<b>{escape(text)}</b>" if file == here else f'<a href="{file}">{escape(text)}</a>'
        for file, text in names
    )


def title_of(notebook) -> str:
    """The notebook's first heading."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def seconds_of(notebook) -> float:
    """How long papermill took to execute it, seconds."""
    return notebook.metadata["papermill"]["duration"]


def steps_of(notebook) -> dict[str, float]:
    """Seconds of its long steps, in order: of the cells tagged "step: NAME"; and of the rest, which
    is starting Python, importing, reading and drawing.
    """
    steps = {
        tag.removeprefix(STEP): cell.metadata["papermill"]["duration"]
        for cell in notebook.cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith(STEP)
    }
    return steps | {"the rest": max(0.0, seconds_of(notebook) - sum(steps.values()))}


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
