"""A folder with a Whisper in the compact format: `compact.safetensors` beside its configs and the
processor's files.

`load` gives back a plain WhisperForConditionalGeneration, bit for bit the model cast to float16
(with int8: its linears and its token embedding rounded). The file itself is described in
`owl.model.compact`.
"""

from pathlib import Path

import torch
from transformers import WhisperForConditionalGeneration

from owl.errors import CompactError, UnsupportedFormat
from owl.export.huggingface import save_settings
from owl.model import compact
from owl.model.loading import COMPACT_FILE
from owl.model.whisper import blocks

EMBEDDING = "model.decoder.embed_tokens.weight"


def export_compact(
    model: WhisperForConditionalGeneration, processor, folder: Path, *, int8: bool = False
) -> int:
    """Write `model`, as it is, into `folder`; `int8` rounds linears and token embedding. Returns
    the bytes of the tensor file.

    UnsupportedFormat for a weight beyond float16.
    """
    rounded = (
        {
            EMBEDDING,
            *(f"{linear.path}.weight" for block in blocks(model) for linear in block.linears),
        }
        if int8
        else set()
    )
    try:
        # a tied tensor is named once
        size = compact.write(folder / COMPACT_FILE, dict(model.named_parameters()), int8=rounded)
    except CompactError as error:
        raise UnsupportedFormat(str(error)) from error
    save_settings(model, processor, folder, dtype=torch.float16)
    return size


def bound_bytes(model: WhisperForConditionalGeneration) -> int:
    """The least that the format can take for `model`: 1 bit per weight and 2 bytes per kept one in
    the linears, 2 bytes for the rest.
    """
    half = {name: tensor.detach().half() for name, tensor in model.named_parameters()}
    kept, counts = (
        {name: count(tensor) for name, tensor in half.items()}
        for count in (torch.count_nonzero, torch.numel)
    )
    linears = {f"{linear.path}.weight" for block in blocks(model) for linear in block.linears}
    return compact.bound_bytes(
        {name: int(number) for name, number in kept.items()}, counts, linears
    )
