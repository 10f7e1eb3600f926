"""Is a folder one that transformers can load a Whisper from? Asked before anything is loaded, so
that what people have instead is named for what it is, with the way from there to here.

Only files and names are looked at; whether what they say fits together is `owl.model.agreement`'s.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from owl.data.pointers import POINTER_BYTES, PULL, is_pointer, target_of
from owl.errors import ModelError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
AUDIO = ("preprocessor_config.json", "processor_config.json")
# what people have instead of WEIGHTS (the first pattern that matches): what it is, and what to do
OTHERS = {
    "pytorch_model*.bin*": (
        "weights as Python pickles, which can run any code while they are read; if you trust them, "
        'convert them once: python -c "from transformers import WhisperForConditionalGeneration '
        "as W; W.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}')\""
    ),
    "model-*-of-*.safetensors": (
        f"one of several parts, and the index of them is missing; copy {INDEX} too"
    ),
    "adapter_model.*": "an adapter's weights alone; merge it into its base model first",
    "ggml-*.bin": "a whisper.cpp model; give the folder that it was converted from",
    "*.gguf": "a GGUF model; give the folder that it was converted from",
    "model.bin": "a CTranslate2 model; give the folder that it was converted from",
    "*.onnx": "an ONNX model; give the folder that it was exported from",
    "onnx/*.onnx": "an ONNX model; give the folder that it was exported from",
    "global_step*": (
        "a DeepSpeed checkpoint; make it one file with the script that lies beside it: python "
        "zero_to_fp32.py '{folder}' '{folder}' --safe_serialization"
    ),
    # not a trainer's optimizer.pt, scheduler.pt, rng_state.pt
    "*.pt": (
        "a PyTorch pickle, as OpenAI's own; convert it with transformers' "
        "models/whisper/convert_openai_to_hf.py"
    ),
    "flax_model*.msgpack": "Flax weights; load them with from_flax=True in transformers 4 and save",
    "tf_model*.h5": "TensorFlow weights; load them with from_tf=True in transformers 4 and save",
    "*.safetensors": f"safetensors under another name; rename it to {WEIGHTS}",
}
TRAINERS = ("optimizer", "scheduler", "rng_state", "training_args")
CACHED = ("models--*/snapshots/*", "hub/models--*/snapshots/*", "snapshots/*")  # as the Hub's cache
MERGE = (
    "merge it into its base model and save that: WhisperForConditionalGeneration.from_pretrained"
    "('{base}'), PeftModel.from_pretrained(base, '{folder}').merge_and_unload()"
    ".save_pretrained(…), and the processor beside it"
)


def check(name: str) -> None:
    """ModelError that names what the folder is, or which file it lacks, and the fix. Nothing for
    what is no folder here and may be a Hub id.
    """
    folder = Path(name)
    if not folder.exists() and (name.count("/") > 1 or "\\" in name or name[:1] in "./~"):
        raise ModelError(
            f"cannot load the model '{name}': there is no such folder (seen from {Path.cwd()}); "
            "correct the path, or give a Hub id such as openai/whisper-tiny"
        )
    if folder.is_file():
        raise ModelError(f"'{folder}' is a file; give the folder that it is in: {folder.parent}")
    if folder.is_dir():
        for problem in _problems(folder):
            raise ModelError(f"cannot load the model '{folder}': {problem}")


def check_pointers(folder: Path) -> None:
    """ModelError for a file that Git left as a pointer."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < POINTER_BYTES:
            text = path.read_bytes()
            if is_pointer(text):
                raise ModelError(
                    f"'{path}' is a Git LFS pointer of {len(text)} bytes{target_of(text)}: {PULL}; "
                    "or download the folder again"
                )


def processor_files(folder: Path) -> dict[str, str]:
    """The files that transformers reads tokenizer and feature extractor from: {"tokenizer": …,
    "feature_extractor": …}.
    """
    nested = "feature_extractor" in _json(folder / AUDIO[1])
    found = [files[0] for files in TOKENIZERS if (folder / files[0]).is_file()]
    return {
        "tokenizer": [*found, TOKENIZERS[0][0]][0],
        "feature_extractor": AUDIO[1] if nested else AUDIO[0],
    }


def _problems(folder: Path) -> Iterator[str]:
    """What keeps transformers from loading the folder, the most telling first."""
    check_pointers(folder)
    names = {path.name for path in folder.iterdir()}
    for path in sorted(folder.iterdir()):
        if not path.exists() and path.suffix in (".json", ".txt", ".safetensors"):
            yield f"{path.name} is a link to '{os.readlink(path)}', which is not there; copy it"
    weights = names & {WEIGHTS, INDEX}
    adapter = any(name.startswith("adapter_model.") for name in names)
    if "adapter_config.json" in names and (adapter or not weights):
        base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
        fix = MERGE.format(base=base or "the base model", folder=folder)
        yield f"it holds an adapter (adapter_config.json, base model '{base}'); {fix}"
    if not weights:
        yield from _instead(folder, names)
    if "config.json" not in names:
        yield "config.json is missing; copy it from the model that it was trained from"
    for name in sorted(names & {"config.json", INDEX}):
        if not _json(folder / name):
            yield f"{name} is broken: it holds no JSON object; copy it again"
    config = _json(folder / "config.json")
    if config.get("model_type", "whisper") != "whisper":
        return  # its files are another model's: the loader says which
    if quantized := config.get("quantization_config"):
        yield (
            f"config.json says that its weights are quantised ({quantized.get('quant_method')}); "
            "pruning needs the weights from before that"
        )
    parts = {WEIGHTS}
    if WEIGHTS not in names:
        table = _json(folder / INDEX).get("weight_map")
        if not isinstance(table, dict):
            yield f"{INDEX} is broken: it has no weight_map; copy it again"
            return
        parts = set(map(str, table.values()))
        if absent := sorted(parts - names):
            yield f"{INDEX} names {', '.join(absent[:3])}, missing here; copy all parts again"
    for part in sorted(parts):
        try:
            with safe_open(folder / part, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{part} is cut off or damaged ({error}); copy it again"
    if not any(names.issuperset(files) for files in TOKENIZERS):
        has = " (tokenizer_config.json alone is no tokenizer)"
        yield (
            f"it has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt"
            f"{has if 'tokenizer_config.json' in names else ''}; {_copy(folder, 'tokenizer.json')}"
        )
    if not names & set(AUDIO):
        yield f"preprocessor_config.json is missing; {_copy(folder, AUDIO[0])}"


def _instead(folder: Path, names: set[str]) -> Iterator[str]:
    """What a folder without weights in safetensors holds instead."""
    inner = [
        path.parent for where in ("*", *CACHED) for path in folder.glob(f"{where}/config.json")
    ]
    if "config.json" in names:
        inner = [one for one in inner if any((one / file).exists() for file in (WEIGHTS, INDEX))]
    whispers = [one for one in inner if _json(one / "config.json").get("model_type") == "whisper"]
    if inner:
        newest = max(
            whispers or inner,
            key=lambda path: ([int(n) for n in re.findall(r"\d+", path.name)], path),
        )
        yield f"it holds no model itself, but '{newest}' looks like one; give that folder"
    for pattern, what in OTHERS.items():
        found = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
        if found := [name for name in found if not name.startswith(TRAINERS)]:
            yield f"{WEIGHTS} is missing; '{found[0]}' is {what.format(folder=folder)}"
    yield (
        f"{WEIGHTS} is missing; give a folder with config.json, {WEIGHTS} and the processor's "
        "files, or a Hub id such as openai/whisper-tiny"
    )


def _copy(folder: Path, name: str) -> str:
    if (folder.parent / name).is_file():
        return (
            f"copy the tokenizer's and the processor's files from '{folder.parent}', which has it"
        )
    return (
        "copy the tokenizer's and the processor's files from the model that it was trained from: "
        "WhisperProcessor.from_pretrained('openai/whisper-…').save_pretrained(…)"
    )


def _json(path: Path) -> dict:
    """What a JSON file says; {} where it holds no object, or is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
