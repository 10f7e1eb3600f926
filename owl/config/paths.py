"""Paths in a config: absolute inside; where recorded, relative to the repository, so that nothing
names the machine.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PlainSerializer

from owl import ROOT

PORTABLE = "portable"  # context of a dump with paths relative to ROOT


@dataclass(frozen=True)
class Origin:
    """Context of a validation: where relative paths start, where `model.name` does (the make line
    may give it), and whether a model folder must exist.
    """

    base: Path = ROOT
    model_base: Path = ROOT
    models_exist: bool = False


def find(path: str, base: Path) -> tuple[str, bool]:
    """(absolute path, is it written as only a path can be?)"""
    whole = os.path.abspath(os.path.join(base, os.path.expanduser(path)))
    return whole, path.startswith((".", "/", "~"))


def _folder(path: str, info) -> str:
    return find(path, (info.context or Origin()).base)[0]


def _model(name: str, info) -> str:
    """An absolute path, or a Hub id."""
    origin = info.context or Origin()
    path, sure = find(name, origin.model_base if info.field_name == "name" else origin.base)
    if not (sure or name.count("/") > 1 or os.path.exists(path)):
        return name
    if origin.models_exist and not os.path.isdir(path):
        problem = "is a file, not a model folder" if os.path.exists(path) else "does not exist"
        raise ValueError(
            f"{path} {problem}; give a Whisper folder or a Hub id such as openai/whisper-tiny "
            "(make demo-model builds models/demo)"
        )
    return path


def _recorded(path: str, info) -> str:
    short = info.context == PORTABLE and os.path.isabs(path)
    return os.path.relpath(path, ROOT) if short else path


Text = Annotated[str, Field(pattern=r"\S", description="must be a non-empty string")]
Folder = Annotated[Text, AfterValidator(_folder), PlainSerializer(_recorded)]
ModelName = Annotated[Text, AfterValidator(_model), PlainSerializer(_recorded)]
