"""Folders a user can ship: an ordinary Hugging Face Whisper with a model card, and what the other
formats' folders share with it.

Each is written to a temporary folder first, reloaded from disk by its caller and measured there;
nothing here evaluates anything.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

STOCK = """from transformers import WhisperForConditionalGeneration, WhisperProcessor

model = WhisperForConditionalGeneration.from_pretrained("path/of/this/folder")
processor = WhisperProcessor.from_pretrained("path/of/this/folder")"""
OWN = """import owl  # layers of different widths, which plain transformers cannot load

model, processor = owl.load("path/of/this/folder")"""


def save_hf(
    model,
    processor,
    folder: Path,
    *,
    dtype: torch.dtype,
    metadata: Mapping,
    metrics: Mapping,
    card: str,
) -> None:
    """Weights (safetensors, cast to `dtype`), configs and processor, `pruning_metadata.json`,
    `metrics.json` and the model card.
    """
    # a tied tensor once
    weights = {name: tensor.detach().to("cpu", dtype) for name, tensor in model.named_parameters()}
    model.save_pretrained(folder, state_dict=weights)
    save_settings(model, processor, folder, dtype=dtype)
    (folder / "pruning_metadata.json").write_text(
        json.dumps(metadata, indent=1) + "\n", encoding="utf-8"
    )
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def save_settings(model, processor, folder: Path, *, dtype: torch.dtype) -> None:
    """Everything but the weights: configs (that say the precision on disk, not the one in memory)
    and the processor's files, as transformers 4 and other runtimes read them too.
    """
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    # other runtimes look for preprocessor_config.json
    processor.feature_extractor.save_pretrained(folder)
    # transformers 4 knows the list by its older name, which 5 reads as well
    file = folder / "tokenizer_config.json"
    names = json.loads(file.read_text(encoding="utf-8"))
    if special := names.pop("extra_special_tokens", None):
        names["additional_special_tokens"] = special
    file.write_text(json.dumps(names, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def float_copy(model):
    """The model in float32 on the CPU, eval mode, no gradients; weights that are so already are
    shared, not copied.
    """
    weights = {
        id(one): nn.Parameter(one.detach().to("cpu", torch.float32), requires_grad=False)
        for one in model.parameters()
    }
    plain = copy.deepcopy(model, weights).to("cpu", torch.float32).eval()
    plain.config.dtype = torch.float32
    return plain


def zeros_on_disk(folder: Path, names: list[str]) -> dict[str, int]:
    """How many entries of each named tensor in the folder's safetensors files are exactly zero."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            found |= {
                name: (tensors.get_tensor(name) == 0).sum().item()
                for name in names
                if name in tensors.keys()
            }
    return found


def model_card(
    *,
    base: str,
    recipe: str,
    source: str,
    targets: Sequence[str],
    sparsity_prunable: float,
    sparsity_model: float,
    results: list[dict],
    recovered: bool = False,
    stock: bool = True,
    smaller: bool = False,
) -> str:
    """The README.md of an exported model. `results`: rows {dataset, clips, words, dense, pruned}
    with WER as fractions.

    `source`: the methods' papers; `targets`: the modules whose linears were pruned; `recovered`:
    kept weights were trained; `smaller`: matrices shrank instead of getting zeros; `stock`: plain
    transformers can load it.
    """
    rows = "\n".join(
        f"| {row['dataset']} | {row['clips']} | {row['words']} | {row['dense']:.2%} | "
        f"{row['pruned']:.2%} |"
        for row in results
    )
    untouched = (
        "embeddings and convolutions are untouched; kept weights, biases and norms were trained"
        if recovered
        else ""
    )
    untouched = untouched or "embeddings, convolutions and norms are untouched"
    state = "recovered" if recovered else "pruned"
    gone = "are gone" if smaller else "are zero"
    size = (
        "The matrices are smaller by them"
        if smaller
        else (
            "The zeros are stored as zeros: this folder is as large as the dense model's and "
            "computes as fast"
        )
    )
    loading = STOCK if stock else OWN
    return f"""---
library_name: transformers
pipeline_tag: automatic-speech-recognition
base_model: {base}
tags: [whisper, pruning, owl]
---

# {base}, pruned

{recipe}. {sparsity_prunable:.1%} of the prunable weights (the linears of {" and ".join(targets)}) {gone}, {sparsity_model:.1%} of
the whole model; {untouched}. {size}. What the pruning costs:

| dataset | clips | words | WER dense | WER {state} |
|---|---|---|---|---|
{rows}

`metrics.json` holds the intervals and counts, `pruning_metadata.json` the allocation and how it was made.

```python
{loading}
```

Method: {source}.
"""
