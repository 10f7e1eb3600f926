"""The page of a sweep: `05_comparison` executed and rendered; the notebook writes its tables beside
it.

`python -m owl.report.comparison SWEEP`, after the jobs of `owl.sweep.jobs`.
"""

import os
import sys
from pathlib import Path

from owl import ROOT, setup
from owl.report.pages import render_notebook, title_of
from owl.report.pages import write as write_text
from owl.run.execute import execute
from owl.sweep.grid import folder_of, name_of

NOTEBOOK = ROOT / "notebooks" / "05_comparison.ipynb"


def write(sweep: str) -> Path:
    """Returns the page's path from the repository root."""
    setup(models=False)  # before this import
    import nbformat

    name = name_of(sweep)
    executed, target = folder_of(name) / "05_comparison.ipynb", ROOT / "reports" / f"sweep-{name}"
    target.mkdir(parents=True, exist_ok=True)
    parameters = {"sweep": os.path.abspath(sweep), "folder": str(target)}
    execute(NOTEBOOK, executed, parameters)
    notebook = nbformat.read(executed, as_version=4)
    write_text(target / "index.html", render_notebook(notebook, title_of(notebook), ""))
    return (target / "index.html").relative_to(ROOT)


if __name__ == "__main__":
    print(f"report: {write(sys.argv[1])}")
