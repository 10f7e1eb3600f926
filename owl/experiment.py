"""From a config to things: the model on its device, the clips, the calibration labels. Notebooks call this first, kernels never do."""

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from owl import accelerate
from owl.calibration import Batch, prepare
from owl.config import Config
from owl.data import Clip, DataError, Dataset, check_disjoint, load_dataset
from owl.decoding import torch_decoder
from owl.evaluation import Transcription, read, save, transcribe
from owl.loading import load
from owl.paths import ROOT
from owl.record import Run, acceleration, provenance
from owl.scoring import is_repetitive
from owl.states import States
from owl.whisper import choose_device, choose_dtype, language_of, window_samples

DECODING_MODULES = ("decoding", "evaluation", "prompt", "windows", "whisper")  # a change in one of them makes stored transcripts stale


@dataclass(frozen=True)
class Labels:
    """Calibration clips that have usable text, their text tokens (no prompt, no end), and why the others were dropped."""

    clips: list[Clip]
    tokens: list[list[int]]
    dropped: dict[str, int]
    language: str | None

    def pick(self, chosen: Sequence[int]) -> "Labels":
        """Only the clips with these indices."""
        return replace(self, clips=[self.clips[i] for i in chosen], tokens=[self.tokens[i] for i in chosen])

    def hold_out(self, every: int) -> tuple["Labels", "Labels"]:
        """(the rest, each `every`-th clip); of fewer clips the last is held out, and a single clip is in both."""
        count = len(self.clips)
        away = range(every - 1, count, every) or range(count - 1, count)
        return self.pick([i for i in range(count) if i not in away] or away), self.pick(away)


def load_model(config: Config, folder: Path | None = None, *, accelerated: bool = False):
    """(model, processor) as the config's hardware section says; `folder` instead of the config's model when given. Says what it chose.

    `accelerated`: for transcribing only, compiled and with 2:4 sparse products where config and device allow; dense and pruned alike.
    """
    hardware = config.hardware
    if hardware.cpu_threads:
        torch.set_num_threads(hardware.cpu_threads)
    device = choose_device(hardware.device, hardware.use_mps)
    dtype = choose_dtype(hardware.precision, device)
    if str(dtype) != f"torch.{hardware.precision}":
        print(f"precision {hardware.precision} was asked for; on a CPU we compute in float32")
    model, processor = load(str(folder or config.model.name), device, dtype, config.model.cache_dir)
    if accelerated:
        _accelerate(config, model)
    return model, processor


def _accelerate(config: Config, model) -> None:
    sparse, compiled = acceleration(config)
    if sparse.done:  # linears without a 2:4 pattern, such as all of the dense model's, stay as they are
        taken, all_linears = accelerate.sparsify(model.model.encoder.layers)
        print(f"{sparse.reason}: {taken} of {all_linears}")
    if compiled.done:
        accelerate.compile_parts(model.model.encoder, model.model.decoder, config.optimization.compile.mode)
        print(compiled.reason)


def evaluation_sets(config: Config) -> list[Dataset]:
    """Every evaluation dataset of the config, in order, whole or its first `max_samples` clips, each under a name of its own."""
    entries = tqdm(config.evaluation.datasets, desc="evaluation data", unit="dataset")
    loaded = [load_dataset(**_source(entry, config)) for entry in entries]
    return [replace(dataset, name=name) for dataset, name in zip(loaded, config.evaluation.display_names)]


def calibration_set(config: Config, evaluated: Sequence[Dataset] = ()) -> Dataset:
    """`calibration.samples` clips drawn through a seeded shuffle; DataError where one of them is also an evaluation clip."""
    wanted = config.pruning.calibration
    source = _source(wanted.dataset, config) | {"max_samples": wanted.samples, "shuffle_seed": wanted.seed}
    dataset = load_dataset(**source, require_text=wanted.labels == "reference")
    if len(dataset.clips) < wanted.samples:
        warnings.warn(f"calibration asks for {wanted.samples} clips; {dataset.name} has {len(dataset.clips)}", stacklevel=2)
    check_disjoint(dataset.clips, [clip for other in evaluated for clip in other.clips])
    return dataset


def calibration_labels(config: Config, model, processor, dataset: Dataset) -> Labels:
    """Text tokens per calibration clip: the dense model's own greedy transcript of the first window, or the reference text.

    Dropped and counted: transcripts that hit the token cap, repeat themselves or are empty; references of clips beyond the window.
    DataError when nothing is left.
    """
    by_model = config.pruning.calibration.labels == "model"
    rows = _transcripts(config, model, processor, dataset) if by_model else _references(processor, dataset)
    kept = [(clip, tokens) for clip, tokens, problem in rows if problem is None]
    problems = [problem for _, _, problem in rows if problem is not None]
    if not kept:
        raise DataError(
            f"no calibration clip of '{dataset.name}' has usable text ({problems[0]}); use labels \"reference\", other audio or another model"
        )
    dropped = {name: problems.count(name) for name in sorted(set(problems))}
    return Labels([clip for clip, _ in kept], [tokens for _, tokens in kept], dropped, dataset.language)


def saved_labels(dataset: Dataset, saved: Sequence[dict]) -> Labels:
    """The labels that an earlier notebook saved as [{"id", "tokens"}], for the clips of the same dataset."""
    tokens = {row["id"]: row["tokens"] for row in saved}
    clips = [clip for clip in dataset.clips if clip.id in tokens]
    return Labels(clips, [tokens[clip.id] for clip in clips], {}, dataset.language)


def calibration_batches(config: Config, model, processor, labels: Labels) -> list[Batch]:
    """Fresh batches for one `owl.calibration.walk`, with the config's batch size and treatment of padding."""
    return prepare(
        model,
        processor,
        labels.clips,
        labels.tokens,
        language=labels.language,
        padding=config.pruning.calibration.padding,
        batch_size=config.evaluation.batch_size,
    )


def transcripts(run: Run, name: str, model, processor, dataset: Dataset, states: States | None = None) -> Transcription:
    """Transcribe a dataset and keep it in `runs/<run>/transcripts/`; read what is there if nothing differs that decides text or speed.

    `states` keeps the encoder's outputs where it does transcribe.
    """
    settings = run.config.evaluation
    clips = [(clip.id, clip.text, clip.speaker, clip.digest) for clip in dataset.clips]
    accelerated = [list(one) for one in acceleration(run.config)]
    facts = [dataset.language, settings.batch_size, settings.max_new_tokens, accelerated]
    key = model_digest(model, clips, facts, surroundings(model, processor))
    path = run.folder / "transcripts" / f"{slug(dataset.name)}-{name}-{key}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        decode = torch_decoder(model, processor, language=dataset.language, max_new_tokens=settings.max_new_tokens, states=states)
        decode([dataset.clips[0].audio])  # a first call compiles and allocates; it is not part of the speed
        said = transcribe(decode, processor, dataset.clips, batch_size=settings.batch_size, description=f"{dataset.name}, {name}")
        save(path, said, provenance(run.config))
    return read(path)


def surroundings(model, processor) -> dict:
    """What decides a transcript and its time beside weights, clips and settings: code, packages, device, precision, the model's files."""
    weight = next(model.parameters())
    device = torch.cuda.get_device_name(weight.device) if weight.device.type == "cuda" else weight.device.type
    code = [(ROOT / "owl" / f"{name}.py").read_text(encoding="utf-8") for name in DECODING_MODULES]
    return {
        "code": hashlib.sha256("".join(code).encode()).hexdigest(),
        "packages": [torch.__version__, transformers.__version__],
        "hardware": [device, str(weight.dtype), torch.get_num_threads()],
        "model": [model.config.to_json_string(), model.generation_config.to_json_string()],
        "processor": [processor.feature_extractor.to_json_string(), sorted(processor.tokenizer.get_vocab().items())],
    }


def normalizer_of(config: Config, model, dataset: Dataset) -> str:
    """Whisper's English normaliser for English, basic for other languages, or what the config says."""
    wanted = config.evaluation.normalizer
    if wanted != "auto":
        return wanted
    return "english" if language_of(model, dataset.language) == "en" else "basic"


def _transcripts(config: Config, model, processor, dataset: Dataset) -> list[tuple[Clip, list[int], str | None]]:
    size, rows = config.evaluation.batch_size, []
    decode = torch_decoder(model, processor, language=dataset.language, max_new_tokens=config.evaluation.max_new_tokens)
    for start in tqdm(range(0, len(dataset.clips), size), desc="calibration text", unit="batch"):
        part = dataset.clips[start : start + size]
        for clip, one in zip(part, decode([clip.audio for clip in part])):
            text = processor.tokenizer.decode(one.tokens, skip_special_tokens=True)
            problem = "token cap" if one.capped else "repetition" if is_repetitive(text) else None if text.strip() else "no text"
            rows.append((clip, one.tokens, problem))
    return rows


def _references(processor, dataset: Dataset) -> list[tuple[Clip, list[int], str | None]]:
    limit = window_samples(processor)
    return [
        (
            clip,
            processor.tokenizer(clip.text, add_special_tokens=False).input_ids,
            None if len(clip.audio) <= limit else "longer than the window",
        )
        for clip in dataset.clips
    ]


def slug(name: str) -> str:
    """A dataset's name as a file name; where that loses something, a hash keeps it apart from others."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("-")


def model_digest(model, *facts) -> str:
    """Hash of all weights of a model and some JSON-able facts."""
    hasher = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8)
    for parameter in model.parameters():
        hasher.update(accelerate.dense(parameter.detach()).float().cpu().contiguous().numpy())
    return hasher.hexdigest()


def _source(entry, config: Config) -> dict:
    """Arguments of `load_dataset` for one dataset entry of the config."""
    return {**entry.model_dump(), "cache_dir": config.model.cache_dir}
