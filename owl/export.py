"""Folders a user can ship: an ordinary Hugging Face Whisper with a model card, and (owl.onnx_model) its ONNX form.

Each is written to a temporary folder first, reloaded from disk by its caller and measured there; nothing here evaluates anything.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def save_hf(model, processor, folder: Path, *, dtype: torch.dtype, metadata: Mapping, metrics: Mapping, card: str) -> None:
    """Weights (safetensors, cast to `dtype`), configs and processor, `pruning_metadata.json`, `metrics.json` and the model card."""
    weights = {name: tensor.detach().to("cpu", dtype) for name, tensor in model.named_parameters()}  # a tied tensor once
    model.save_pretrained(folder, state_dict=weights)
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.save_pretrained(folder)  # says the precision on disk, not that of the model in memory
    processor.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)  # other runtimes look for preprocessor_config.json
    (folder / "pruning_metadata.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def zeros_on_disk(folder: Path, names: list[str]) -> dict[str, int]:
    """How many entries of each named tensor in the folder's safetensors files are exactly zero."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            found |= {name: (tensors.get_tensor(name) == 0).sum().item() for name in names if name in tensors.keys()}
    return found


def model_card(*, base: str, recipe: str, sparsity_prunable: float, sparsity_model: float, results: list[dict], recovered: bool = False) -> str:
    """The README.md of an exported model; `recovered` says that kept weights were trained. `results`: rows {dataset, clips, words, dense, pruned} with WER as fractions."""
    rows = "\n".join(
        f"| {row['dataset']} | {row['clips']} | {row['words']} | {row['dense']:.2%} | {row['pruned']:.2%} |" for row in results
    )
    untouched = "embeddings and convolutions are untouched; kept weights, biases and norms were trained" if recovered else ""
    untouched = untouched or "embeddings, convolutions and norms are untouched"
    state = "recovered" if recovered else "pruned"
    return f"""---
library_name: transformers
pipeline_tag: automatic-speech-recognition
base_model: {base}
tags: [whisper, pruning, owl]
---

# {base}, pruned

{recipe}. {sparsity_prunable:.1%} of the prunable weights (the linears of the encoder and decoder blocks) are zero, {sparsity_model:.1%} of
the whole model; {untouched}. The zeros are stored as zeros: this folder is as large as the dense
model's and computes as fast. What the pruning costs:

| dataset | clips | words | WER dense | WER {state} |
|---|---|---|---|---|
{rows}

`metrics.json` holds the intervals and counts, `pruning_metadata.json` the allocation and how it was made.

```python
from transformers import WhisperForConditionalGeneration, WhisperProcessor

model = WhisperForConditionalGeneration.from_pretrained("path/of/this/folder")
processor = WhisperProcessor.from_pretrained("path/of/this/folder")
```

Method: Outlier Weighed Layerwise sparsity, Yin et al., arXiv 2310.05175.
"""
