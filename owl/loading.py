"""Any Whisper with weights for PyTorch: a Hub id, a Hugging Face folder, or a compact folder that the export wrote."""

from pathlib import Path

import torch

from owl import compact_model, whisper


def load(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, cache_dir: str | None = None):
    """(model in eval mode on `device`, processor). Raises owl.whisper.ModelError that names what is missing or broken."""
    if compact_model.is_compact(Path(name)):
        return compact_model.load(Path(name), device, dtype)
    return whisper.load(name, device, dtype, cache_dir)
