"""The formats of an export, one record each: what a config may name, and what writing, measuring
and the deployment table need to know. The code of a format is in `owl.export`; it is named here and
imported when it is used: runtimes take seconds to import, and a config needs none of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

INT8 = "int8"
BITS = {INT8: 8, "q8_0": 8, "q5_0": 5, "q4_0": 4}  # of the grids


@dataclass(frozen=True)
class Format:
    """One format; a function is named as "module:function".

    `save`: (model with processor, folder, **options) writes the folder, UnsupportedFormat where it
    cannot hold the model. `loads_in`: what loads the folder, in words, or the function of the model
    that says it.
    """

    name: str
    runtime: str  # "pytorch", "onnxruntime", "ctranslate2" or "whisper.cpp"
    save: str
    loads_in: str
    # the float format that this one rounds, and to what: `save` is given int8=True, in ggml
    # grid="…", in fewer bits otherwise bits=…
    rounds: str | None = None
    grid: str = INT8
    # as models are published: in the precision of what was pruned, with card, metadata and metrics;
    # `save` is given dtype and these
    published: bool = False
    # formats in which the dense model is measured beside it: its own, the float form of a runtime
    # that is not PyTorch's, and for compact the one that is smaller without zeros
    dense: tuple[str, ...] = ()
    # rounded with the calibration clips' error feedback (`owl.prune.rounding`), not plainly
    calibrated: bool = False
    # what short windows need beside the folder (given to this function), if the runtime's decoder
    # cannot be handed an encoder's output
    short: str | None = None


CALIBRATED = "-calibrated"  # behind the name of the format that rounds the same plainly
_HF, _ONNX, _CT2 = "owl.export.huggingface", "owl.export.onnx", "owl.export.ct2"
_IN_GGML = "whisper.cpp", "owl.export.ggml:export_ggml", "whisper.cpp"
_SHORT_GGML = "owl.export.ggml:export_short"
_COMPACT = "pytorch", f"{_HF}:export_compact", "owl.load"
_IN_ONNX = "onnxruntime", f"{_ONNX}:export_onnx", "onnxruntime"
_IN_CT2 = "ctranslate2", f"{_CT2}:export_ct2", f"{_CT2}:loads_in"

_PLAIN = {
    one.name: one
    for one in (
        Format("hf", "pytorch", f"{_HF}:save_hf", f"{_HF}:loads_in", published=True),
        Format("compact", *_COMPACT, dense=("compact-int8",)),
        Format("compact-int8", *_COMPACT, rounds="compact", dense=("compact-int8",)),
        *(
            Format(f"compact-int{bits}", *_COMPACT, "compact", grid, dense=(f"compact-int{bits}",))
            for bits, grid in ((5, "q5_0"), (4, "q4_0"))
        ),
        Format("onnx", *_IN_ONNX, dense=("onnx",)),
        Format("onnx-int8", *_IN_ONNX, rounds="onnx", dense=("onnx", "onnx-int8")),
        Format("ct2", *_IN_CT2, dense=("ct2",)),
        Format("ct2-int8", *_IN_CT2, rounds="ct2", dense=("ct2", "ct2-int8")),
        Format("ggml", *_IN_GGML, dense=("ggml",), short=_SHORT_GGML),
        *(
            Format(
                f"ggml-{grid}",
                *_IN_GGML,
                "ggml",
                grid,
                dense=("ggml", f"ggml-{grid}"),
                short=_SHORT_GGML,
            )
            for grid in ("q8_0", "q5_0", "q4_0")
        ),
    )
}


FORMATS = _PLAIN | {
    f"{name}{CALIBRATED}": replace(_PLAIN[name], name=f"{name}{CALIBRATED}", calibrated=True)
    for name in _PLAIN
    if name.startswith(("compact-", "ggml-"))
}

# what people take instead, the dense model in one command: measured where `output.peers` asks
PEERS = ("ggml", "ggml-q8_0", "ggml-q5_0", "ggml-q4_0", "ct2-int8", "onnx-int8")


def short_folder(folder: Path) -> Path:
    """Beside the `folder` of a format of whisper.cpp: the file that it reads in short windows."""
    return folder.with_name(f"{folder.name}-speech")


def with_calibrated(names: Sequence[str], bits: int) -> list[str]:
    """`names`, each followed by its forms of so many bits, rounded plainly and calibrated.
    ValueError where none of them has one.
    """
    found = []
    for name in names:
        base = FORMATS[name].rounds or name
        forms = [
            form.name
            for form in FORMATS.values()
            if form.calibrated and form.rounds == base and BITS[form.grid] == bits
        ]
        plain = [form.removesuffix(CALIBRATED) for form in forms]
        found += [name, *(one for pair in zip(plain, forms) for one in pair)]
    if found == list(names):
        raise ValueError(
            f"none of {', '.join(names)} has a form of {bits} bits that can be calibrated; add "
            "compact or ggml to output.formats (FORMATS=)"
        )
    return list(dict.fromkeys(found))


def with_int8(names: Sequence[str]) -> list[str]:
    """`names`, each followed by its 8-bit form; ONNX's is added where none of them has one."""
    forms = {one.rounds: one.name for one in _PLAIN.values() if one.rounds and BITS[one.grid] == 8}
    both = [form for name in names for form in (name, forms.get(name)) if form]
    rounded = any(FORMATS[name].rounds for name in both)
    return list(dict.fromkeys(both if rounded else [*both, "onnx-int8"]))
