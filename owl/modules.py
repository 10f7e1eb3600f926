"""Which modules a notebook or a result is made from: the closure of its imports inside `owl`, as make rules and as a digest.

`python -m owl.modules RUN` prints one rule per notebook, "reports/RUN/01_….ipynb: owl/a.py owl/b.py", so that a changed kernel re-runs just the
notebooks that reach it. Reads source text only: nothing is imported.
"""

import ast
import hashlib
import json
import sys
from functools import cache
from pathlib import Path

from owl.paths import ROOT


def closure(source: str) -> set[str]:
    """Names of all modules of `owl` that the Python text `source` imports, directly or through another."""
    found, waiting = set(), _imported(source)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting |= _imported(_source(name))
    return found


@cache
def code_digest(module: str) -> str:
    """Hash of the text of `owl.<module>` and of every module that it reaches: results kept under it are made anew when code changes."""
    sources = {name: _source(name) for name in sorted({module} | closure(_source(module)))}
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def notebook_source(path: Path) -> str:
    """All code cells of a notebook as one text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _source(name: str) -> str:
    return (ROOT / "owl" / f"{name}.py").read_text(encoding="utf-8")


def _imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "owl":
            names |= {node.module.split(".")[1]} if "." in node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("owl.")}
    return {name for name in names if (ROOT / "owl" / f"{name}.py").exists()}


if __name__ == "__main__":
    for notebook in sorted((ROOT / "notebooks").glob("0[1-4]_*.ipynb")):
        modules = " ".join(f"owl/{name}.py" for name in sorted(closure(notebook_source(notebook))))
        print(f"reports/{sys.argv[1]}/{notebook.name}: {modules}")
