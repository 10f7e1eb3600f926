"""The file that whisper.cpp loads: which tensors a model of given sizes has in it, and reading one
to see that it is whole.

Little endian: magic, eleven sizes (int32), mel filters, the vocabulary as bytes, then the tensors
under OpenAI's names. Convolutions are float16, vectors and positions float32, all other matrices,
the embedding included, of one type. As whisper.cpp's `models/convert-h5-to-ggml.py`,
`examples/quantize` and `whisper_model_load` have it.

Nothing here knows PyTorch: sizes and names in, shapes and types out.
"""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, quants

from owl.errors import ModelError

MAGIC = 0x67676D6C  # "ggml"
QUANTISED = 2000  # is added to the file type of a quantised file: version 2 of the blocks
GRIDS = ("f16", "q8_0", "q5_0", "q4_0")  # types of the matrices; all of them have an exact zero
BLOCK = 32  # weights of a row that share one scale
F32, F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16
FREQUENCIES = 201  # of a mel filter: a Fourier transform of 400 samples
MOST_BYTES = 1024  # that one token has; what is longer is no vocabulary


@dataclass(frozen=True)
class Sizes:
    """The hyper-parameters of a file, in its order; `file_type` as ggml counts them."""

    vocabulary: int
    audio_positions: int
    audio_width: int
    audio_heads: int
    audio_layers: int
    text_positions: int
    text_width: int
    text_heads: int
    text_layers: int
    mel_bins: int
    file_type: int


class Tensor(NamedTuple):
    """Shape, the slowest dimension first, and type of one tensor; `type` is gguf's."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType

    @property
    def bytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape) // block * size


def file_type(grid: str) -> int:
    """The number by which a file says of what type its matrices are."""
    plain = LlamaFileType[f"MOSTLY_{grid.upper()}"]
    return int(plain) if grid == "f16" else QUANTISED + plain


def layout(sizes: Sizes) -> dict[str, Tensor]:
    """The tensors, by OpenAI's names, that whisper.cpp makes room for in a model of these sizes.
    KeyError for a file type that is none of GRIDS.
    """
    grid = {file_type(name): name for name in GRIDS}[sizes.file_type]
    matrix, width = GGMLQuantizationType[grid.upper()], sizes.audio_width

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.{part}": Tensor((width,), F32) for part in ("weight", "bias")}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, Tensor]:
        weight = {f"{name}.weight": Tensor((outputs, inputs), matrix)}
        return weight | ({f"{name}.bias": Tensor((outputs,), F32)} if bias else {})

    def convolution(name: str, inputs: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": Tensor((width, inputs, 3), F16),
            f"{name}.bias": Tensor((width, 1), F32),
        }

    def attention(name: str) -> dict[str, Tensor]:
        parts = norm(f"{name}_ln")
        for part in ("query", "key", "value", "out"):
            parts |= linear(f"{name}.{part}", width, width, bias=part != "key")
        return parts

    def blocks(stack: str, count: int, attentions: tuple[str, ...]) -> dict[str, Tensor]:
        found = {}
        for block in (f"{stack}.blocks.{index}" for index in range(count)):
            for name in attentions:
                found |= attention(f"{block}.{name}")
            found |= norm(f"{block}.mlp_ln")
            found |= linear(f"{block}.mlp.0", width, 4 * width)
            found |= linear(f"{block}.mlp.2", 4 * width, width)
        return found

    return {
        **convolution("encoder.conv1", sizes.mel_bins),
        **convolution("encoder.conv2", width),
        "encoder.positional_embedding": Tensor((sizes.audio_positions, width), F32),
        **blocks("encoder", sizes.audio_layers, ("attn",)),
        **norm("encoder.ln_post"),
        "decoder.token_embedding.weight": Tensor((sizes.vocabulary, width), matrix),
        "decoder.positional_embedding": Tensor((sizes.text_positions, width), F32),
        **blocks("decoder", sizes.text_layers, ("attn", "cross_attn")),
        **norm("decoder.ln"),
    }


_NAMES = {
    r"\.layers\.": ".blocks.",
    r"encoder_attn": "cross_attn",
    r"self_attn": "attn",
    r"attn_layer_norm": "attn_ln",
    r"q_proj": "query",
    r"k_proj": "key",
    r"v_proj": "value",
    r"out_proj": "out",
    r"fc1": "mlp.0",
    r"fc2": "mlp.2",
    r"final_layer_norm": "mlp_ln",
    r"^encoder\.layer_norm": "encoder.ln_post",
    r"^decoder\.layer_norm": "decoder.ln",
    r"embed_positions\.weight": "positional_embedding",
    r"embed_tokens": "token_embedding",
}


def openai_name(name: str) -> str:
    """ "decoder.blocks.0.attn.query.weight" of "model.decoder.layers.0.self_attn.q_proj.weight"."""
    name = name.removeprefix("model.")
    for pattern, ours in _NAMES.items():
        name = re.sub(pattern, ours, name)
    return name


def write_head(file: BinaryIO, sizes: Sizes, filters: np.ndarray, words: list[bytes]) -> None:
    """All before the tensors. `filters`: (mel bins, frequencies); `words`: the tokens' bytes, those
    of special tokens left out.
    """
    file.write(_integers(MAGIC, *astuple(sizes), *filters.shape))
    file.write(filters.astype("<f4").tobytes())
    file.write(_integers(len(words)))
    for word in words:
        file.write(_integers(len(word)) + word)


def write_tensor(file: BinaryIO, name: str, tensor: Tensor, data: np.ndarray) -> None:
    """One tensor, packed already."""
    raw = name.encode()
    file.write(_integers(len(tensor.shape), len(raw), tensor.type, *reversed(tensor.shape)))
    file.write(raw)
    file.write(memoryview(np.ascontiguousarray(data)).cast("B"))


def _integers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def check(path: Path) -> Sizes:
    """The sizes of a whole file. ModelError for one that is not ours, truncated or damaged in its
    structure: whisper.cpp does not ask, and may end the process.
    """
    return _opened(path)[0]


def read(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(OpenAI's name, values in float32) of every tensor of a whole file, multiplied out.
    ModelError as for `check`.
    """
    sizes, places = _opened(path)
    data, wanted = np.memmap(path, np.uint8, "r"), layout(sizes)
    for name, place in places.items():
        tensor = wanted[name]
        raw = data[place : place + tensor.bytes]
        yield name, quants.dequantize(raw, tensor.type).reshape(tensor.shape)


def turn(path: Path, name: str, rows: int) -> None:
    """Move the last `rows` rows of a float32 tensor of a whole file before its others, in place.
    ModelError as for `check`.
    """
    sizes, places = _opened(path)
    values = np.memmap(path, "<f4", "r+", places[name], layout(sizes)[name].shape)
    values[:] = np.roll(values, rows, axis=0)
    values.flush()


def _opened(path: Path) -> tuple[Sizes, dict[str, int]]:
    """The sizes of a whole file, and where each tensor's values begin."""
    try:
        with path.open("rb") as file:
            return _check(file, path.stat().st_size)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"'{path}' is no whole ggml Whisper: {error}; export it again with FORMATS=ggml (and "
            "WINDOW=speech for a folder …-speech)"
        ) from error


def _check(file: BinaryIO, size: int) -> tuple[Sizes, dict[str, int]]:
    def claim(count: int) -> int:
        """Where the next `count` bytes end."""
        if not 0 <= count <= size - file.tell():
            raise ValueError(f"it ends at {size:,} bytes, inside of what begins at {file.tell():,}")
        return file.tell() + count

    def skip(count: int) -> None:
        file.seek(claim(count))

    def take(count: int) -> bytes:
        claim(count)
        return file.read(count)

    def integers(count: int) -> list[int]:
        return list(struct.unpack(f"<{count}i", take(4 * count)))

    if integers(1) != [MAGIC]:
        raise ValueError("it does not begin as one")
    sizes = Sizes(*integers(len(fields(Sizes))))
    if sizes.file_type not in map(file_type, GRIDS):
        raise ValueError(
            f"its file type is {sizes.file_type}, none of {', '.join(GRIDS)} "
            f"({', '.join(str(file_type(name)) for name in GRIDS)})"
        )
    if min(astuple(sizes)) < 1 or max(astuple(sizes)) > size:
        raise ValueError(f"its sizes make no sense: {sizes}")
    if sizes.text_width != sizes.audio_width or any(
        sizes.audio_width % heads for heads in (sizes.audio_heads, sizes.text_heads)
    ):
        raise ValueError(f"its width and heads do not fit together: {sizes}")
    if (found := integers(2)) != [sizes.mel_bins, FREQUENCIES]:
        raise ValueError(f"its mel filters are {found[0]} × {found[1]}")
    skip(4 * sizes.mel_bins * FREQUENCIES)
    (words,) = integers(1)
    if not 0 < words <= sizes.vocabulary:
        raise ValueError(f"it has {words} words for a vocabulary of {sizes.vocabulary}")
    for _ in range(words):
        (length,) = integers(1)
        if not 0 <= length <= MOST_BYTES:
            raise ValueError(f"a word of {length} bytes lies at {file.tell():,}")
        skip(length)
    wanted, places = layout(sizes), {}
    while file.tell() < size:
        dimensions, length, kind = integers(3)
        if not (1 <= dimensions <= 3 and 0 < length <= MOST_BYTES):
            raise ValueError(f"what lies at {file.tell():,} is no tensor")
        shape = tuple(reversed(integers(dimensions)))
        name = take(length).decode(errors="replace")
        if name not in wanted:
            raise ValueError(f"it has a tensor '{name}' too many")
        if (shape, kind) != wanted[name]:
            raise ValueError(f"{name} has the shape {shape} and type {kind}, not {wanted[name]}")
        places[name] = file.tell()
        skip(wanted.pop(name).bytes)
    if wanted:
        raise ValueError(f"{len(wanted)} tensors are missing, such as {next(iter(wanted))}")
    return sizes, places
