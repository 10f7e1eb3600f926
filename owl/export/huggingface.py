"""Folders with weights for PyTorch: an ordinary Hugging Face Whisper with a model card, and the
compact format (`owl.model.compact` describes its file) beside the same configs; and what the other
formats' folders share with them.

Each is written to a temporary folder first, reloaded from disk by its caller and measured there;
nothing here evaluates anything.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open
from torch import nn

from owl.errors import CompactError, UnsupportedFormat
from owl.model import compact
from owl.model.loading import COMPACT_FILE
from owl.model.shapes import is_stock
from owl.model.whisper import Whisper, blocks

CARD = Path(__file__).with_name("model_card.md.j2")
EMBEDDING = "model.decoder.embed_tokens.weight"


def save_hf(
    asr: Whisper,
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
    weights = {
        name: tensor.detach().to("cpu", dtype) for name, tensor in asr.model.named_parameters()
    }
    asr.model.save_pretrained(folder, state_dict=weights)
    save_settings(asr, folder, dtype=dtype)
    for name, content in (("pruning_metadata", metadata), ("metrics", metrics)):
        text = json.dumps(content, indent=1) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def loads_in(model) -> str:
    """What loads an ordinary folder of such a model."""
    return "transformers" if is_stock(model.config) else "owl.load"


def export_compact(asr: Whisper, folder: Path, *, int8: bool = False, bits: int = 16) -> int:
    """Write `model`, as it is, into `folder`; returns the bytes of the tensor file.

    `owl.load` gives it back bit for bit as float16; linears and token embedding are rounded to 8
    `bits` with `int8`, or to 5 or 4. UnsupportedFormat for a weight beyond float16, or for rows
    that are no multiple of 32 in 5 or 4 bits.
    """
    linears = [f"{linear.path}.weight" for block in blocks(asr.model) for linear in block.linears]
    rounded = dict.fromkeys([*linears, EMBEDDING], 8 if int8 else bits)
    try:
        # a tied tensor is named once
        tensors = dict(asr.model.named_parameters())
        size = compact.write(folder / COMPACT_FILE, tensors, bits=rounded)
    except CompactError as error:
        raise UnsupportedFormat(str(error)) from error
    save_settings(asr, folder, dtype=torch.float16)
    _shorten(folder / "tokenizer.json")
    return size


def _shorten(file: Path) -> None:
    """The same JSON without blanks between its tokens."""
    content = json.loads(file.read_text(encoding="utf-8"))
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    file.write_text(text, encoding="utf-8")


def save_settings(asr: Whisper, folder: Path, *, dtype: torch.dtype) -> None:
    """Everything but the weights: configs (that say the precision on disk, not the one in memory)
    and the processor's files, as transformers 4 and other runtimes read them too.
    """
    config = copy.deepcopy(asr.model.config)
    config.dtype = dtype
    config.save_pretrained(folder)
    asr.model.generation_config.save_pretrained(folder)
    asr.processor.save_pretrained(folder)
    # other runtimes look for preprocessor_config.json
    asr.processor.feature_extractor.save_pretrained(folder)
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
    with WER as fractions, and broken, what `owl.kernels.texts.broken` says of the pruned
    model; where it is CER, words says "… characters" and by is "CER ".

    `source`: the methods' papers; `targets`: the modules whose linears were pruned; `recovered`:
    kept weights were trained; `smaller`: matrices shrank instead of getting zeros; `stock`: plain
    transformers can load it.
    """
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        base_model=base,
        tags=["whisper", "pruning", "owl"],
    )
    return ModelCard.from_template(
        head,
        template_path=str(CARD),
        base=base,
        recipe=recipe,
        source=source,
        targets=targets,
        sparsity_prunable=sparsity_prunable,
        sparsity_model=sparsity_model,
        results=results,
        recovered=recovered,
        stock=stock,
        smaller=smaller,
    ).content
