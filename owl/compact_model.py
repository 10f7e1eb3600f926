"""A folder with a Whisper in the compact format: `compact.safetensors` beside its configs and the processor's files.

`load` gives back a plain WhisperForConditionalGeneration, bit for bit the model cast to float16 (with int8: its linears and its token
embedding rounded). The file itself is described in `owl.compact`.
"""

from pathlib import Path

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

from owl import compact
from owl.export import UnsupportedFormat, empty_whisper, save_settings
from owl.whisper import ModelError, blocks

FILE = "compact.safetensors"
SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json")
EMBEDDING = "model.decoder.embed_tokens.weight"


def is_compact(folder: Path) -> bool:
    """Does the folder hold a compact file?"""
    return (folder / FILE).is_file()


def export_compact(model: WhisperForConditionalGeneration, processor, folder: Path, *, int8: bool = False) -> int:
    """Write `model`, as it is, into `folder`; `int8` rounds linears and token embedding. Returns the bytes of the tensor file.

    UnsupportedFormat for a weight beyond float16.
    """
    rounded = {EMBEDDING, *(f"{linear.path}.weight" for block in blocks(model) for linear in block.linears)} if int8 else set()
    try:
        size = compact.write(folder / FILE, dict(model.named_parameters()), int8=rounded)  # a tied tensor is named once
    except compact.CompactError as error:
        raise UnsupportedFormat(str(error)) from error
    save_settings(model, processor, folder, dtype=torch.float16)
    return size


def bound_bytes(model: WhisperForConditionalGeneration) -> int:
    """The least that the format can take for `model`: 1 bit per weight and 2 bytes per kept one in the linears, 2 bytes for the rest."""
    half = {name: tensor.detach().half() for name, tensor in model.named_parameters()}
    kept, counts = ({name: count(tensor) for name, tensor in half.items()} for count in (torch.count_nonzero, torch.numel))
    linears = {f"{linear.path}.weight" for block in blocks(model) for linear in block.linears}
    return compact.bound_bytes({name: int(number) for name, number in kept.items()}, counts, linears)


def load(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
    """(model in eval mode on `device`, processor). ModelError for a folder that is not whole or whose file was changed."""
    absent = [name for name in SETTINGS if not (folder / name).is_file()]
    if absent:
        raise ModelError(f"'{folder}' is no complete compact Whisper: {', '.join(absent)} missing; export it again with FORMATS=compact")
    try:
        config = WhisperConfig.from_pretrained(folder)
        model = empty_whisper(folder / "config.json", folder)
        state = {name: tensor.to(device, dtype) for name, tensor in compact.read(folder / FILE)}
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
        processor = WhisperProcessor.from_pretrained(folder)
    except (compact.CompactError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"cannot load the compact model '{folder}': {error}\nCopy the whole folder again, or export it: FORMATS=compact"
        ) from error
    model.tie_weights()
    missing = [name for name in missing if name != "proj_out.weight"]
    if missing or unexpected:
        raise ModelError(
            f"'{folder}/{FILE}' does not fit its config.json: {(missing or unexpected)[:3]}; export it again with FORMATS=compact"
        )
    model.config.dtype = config.dtype
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval(), processor
