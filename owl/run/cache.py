"""What a kept result depends on, as one key: the model, the clips, the settings and the code that
made it.

Code is read, not imported: the closure of a module's imports inside `owl`. `python -m owl.run.cache
RUN` prints the same closures as make rules, "reports/RUN/01_….ipynb: owl/kernels/outliers.py …", so
that a changed module re-runs just the notebooks that reach it.
"""

import ast
import hashlib
import json
import symtable
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from owl import ROOT

PACKAGES = ("torch", "transformers", "numpy")  # that compute; another version is another result


def key(model, clips: Sequence, settings: object, code: str) -> str:
    """16 hex digits for all that a result depends on.

    `model`: its weights, precision, device and configs; None for a result whose `settings` name it.
    `clips`: `owl.data.load.Clip`s with their texts. `settings`: whatever else decides, as JSON
    types. `code`: the dotted name of the module that makes the result.
    """
    heard = [(clip.id, clip.digest, clip.text, clip.speaker) for clip in clips]
    packages = [version(name) for name in PACKAGES]
    hasher = hashlib.blake2b(
        json.dumps([heard, settings, packages, code_digest(code)]).encode(), digest_size=8
    )
    if model is not None:
        # torch takes a second to import, and make rules need none
        from owl.model.accelerate import dense

        weight = next(model.parameters())
        asked = [
            model.config.to_json_string(),
            model.generation_config.to_json_string(),
            str(weight.dtype),
            str(weight.device),
        ]
        hasher.update(json.dumps(asked).encode())
        for parameter in model.parameters():
            hasher.update(dense(parameter.detach()).float().cpu().contiguous().numpy())
    return hasher.hexdigest()


@cache
def code_digest(module: str) -> str:
    """Hash of the text of the module and of every module of `owl` that it reaches.
    ModuleNotFoundError if one of them is not there.
    """
    sources = {
        name: _file(name).read_text(encoding="utf-8")
        for name in sorted(closure(f"import {module}"))
    }
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def closure(source: str) -> set[str]:
    """Dotted names of all modules of `owl` that the Python text `source` imports, directly or
    through another.
    """
    found, waiting = set(), _imported(source)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting |= _imported(_file(name).read_text(encoding="utf-8"))
    return found


def notebook_source(path: Path) -> str:
    """All code cells of a notebook as one text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _imported(source: str) -> set[str]:
    """Modules of `owl` that one text imports: in `from owl.room import name` the name is a module
    of the room, or else one that the room itself binds. Relative imports are ruff's to refuse.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {_holder(node.module, alias.name) for alias in node.names}
    return {name for name in names if _ours(name)}


def _holder(module: str, name: str) -> str:
    """The module that `from module import name` reads: the name's own, or that which binds it."""
    dotted = f"{module}.{name}"
    if not _ours(module) or name == "*":
        return module
    if _path(dotted):
        return dotted
    room = _file(module)
    if room.name != "__init__.py":
        return module
    table = symtable.symtable(room.read_text(encoding="utf-8"), module, "exec")
    symbols = [symbol for symbol in table.get_symbols() if symbol.get_name() == name]
    bound = any(symbol.is_assigned() or symbol.is_imported() for symbol in symbols)
    return module if bound else dotted


def _ours(module: str) -> bool:
    return module.split(".")[0] == "owl"


def _file(module: str) -> Path:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(
            f"'{module}' is imported but is no module of owl: results that depend on it cannot be "
            "told apart"
        )
    return path


def _path(module: str) -> Path | None:
    """The file of a module or of a package's `__init__`; None if there is none."""
    plain = ROOT.joinpath(*module.split("."))
    return next(
        (path for path in (plain.with_suffix(".py"), plain / "__init__.py") if path.is_file()), None
    )


if __name__ == "__main__":
    for notebook in sorted((ROOT / "notebooks").glob("0[1-46]_*.ipynb")):
        files = (
            _file(name).relative_to(ROOT).as_posix()
            for name in sorted(closure(notebook_source(notebook)))
        )
        print(f"reports/{sys.argv[1]}/{notebook.name}: {' '.join(files)}")
