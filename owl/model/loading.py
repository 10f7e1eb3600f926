"""Any Whisper with weights for PyTorch: a Hub id, a Hugging Face folder, or a compact folder that
the export wrote.
"""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from owl.errors import ModelError
from owl.model import compact, folders, whisper
from owl.model.generation import saved_settings
from owl.model.shapes import kind_of
from owl.model.whisper import Whisper

COMPACT_FILE = "compact.safetensors"
SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json")


def load(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cache_dir: str | None = None,
) -> Whisper:
    """The model on `device`, with its processor. Raises owl.errors.ModelError that names what is
    missing or broken.
    """
    if is_compact(Path(name)):
        return load_compact(Path(name), device, dtype)
    return whisper.load(name, device, dtype, cache_dir)


def is_compact(folder: Path) -> bool:
    """Does the folder hold a compact file?"""
    return (folder / COMPACT_FILE).is_file()


def load_compact(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Whisper:
    """The model on `device`, with its processor. ModelError for a folder that is not whole or
    whose file was changed.
    """
    absent = [name for name in SETTINGS if not (folder / name).is_file()]
    if absent:
        raise ModelError(
            f"'{folder}' is no complete compact Whisper: {', '.join(absent)} missing; export it "
            "again with FORMATS=compact"
        )
    folders.check_pointers(folder)
    try:
        saved = saved_settings(str(folder))
        config = WhisperConfig.from_pretrained(folder)
        model = empty_whisper(folder / "config.json", folder)
        state = {
            name: tensor.to(device, dtype) for name, tensor in compact.read(folder / COMPACT_FILE)
        }
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
        processor = WhisperProcessor.from_pretrained(folder)
    # transformers raises KeyError, AttributeError and more for a file that is not right
    except Exception as error:
        raise ModelError(
            f"cannot load the compact model '{folder}': {error or type(error).__name__}\nCopy the "
            "whole folder again, or export it: FORMATS=compact"
        ) from error
    whisper.settle(str(folder), model, processor, saved)
    model.tie_weights()
    missing = [name for name in missing if name != "proj_out.weight"]
    if missing or unexpected:
        raise ModelError(
            f"'{folder}/{COMPACT_FILE}' does not fit its config.json: "
            f"{(missing or unexpected)[:3]}; export it again with FORMATS=compact"
        )
    model.config.dtype = config.dtype
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Whisper(model.eval(), processor)


def outline(name: str, cache_dir: str | None = None) -> Whisper:
    """What `load` gives, but for the weights, which are on no device: for what needs only sizes,
    settings and processor of a model that was loaded before.
    """
    config = AutoConfig.from_pretrained(name, cache_dir=cache_dir, trust_remote_code=False)
    with torch.device("meta"):
        model = kind_of(config)(config)
    processor = WhisperProcessor.from_pretrained(name, cache_dir=cache_dir)
    whisper.settle(name, model, processor, saved_settings(name, cache_dir))
    return Whisper(model.eval(), processor)


def empty_whisper(config: Path, folder: Path) -> WhisperForConditionalGeneration:
    """The Whisper that the file `config` and the generation config in `folder` describe, without
    its weights.
    """
    with torch.device("meta"):
        settings = WhisperConfig.from_json_file(config)
        model = kind_of(settings)(settings)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()
