"""The page of a sweep: `05_comparison` executed and rendered; the notebook writes its tables beside it."""

import os
from pathlib import Path

import owl.quick  # noqa: F401 - before what it makes quick

import nbformat
import papermill

from owl.grid import folder_of, name_of
from owl.paths import ROOT
from owl.report import render_notebook, title_of
from owl.report import write as write_text

NOTEBOOK = ROOT / "notebooks" / "05_comparison.ipynb"


def write(sweep: str) -> Path:
    """Returns the page's path from the repository root."""
    name = name_of(sweep)
    executed, target = folder_of(name) / "05_comparison.ipynb", ROOT / "reports" / f"sweep-{name}"
    target.mkdir(parents=True, exist_ok=True)
    parameters = {"sweep": os.path.abspath(sweep), "tables": str(target)}
    where = str(NOTEBOOK.parent)
    papermill.execute_notebook(str(NOTEBOOK), str(executed), parameters, cwd=where, progress_bar=False, kernel_name="python3")
    notebook = nbformat.read(executed, as_version=4)
    write_text(target / "index.html", render_notebook(notebook, title_of(notebook), ""))
    return (target / "index.html").relative_to(ROOT)
