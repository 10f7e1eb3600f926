"""What a user gets who loads one exported folder: the function that a fresh process runs, and
nothing that knows the run it belongs to.

All formats are given the same clips, batch size, settings and number of passes. Memory and times
are of the whole process, libraries included.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from owl import setup
from owl.config.formats import Format
from owl.config.load import Config
from owl.data.load import Dataset
from owl.evaluate.transcribe import Transcription, transcribe
from owl.model import accelerate
from owl.model.decoding import Decoder, torch_decoder
from owl.model.loading import outline
from owl.model.windows import Window
from owl.run.experiment import load_model
from owl.run.record import peak_rss_bytes

# passes over datasets of less audio than SHORT (seconds) together, whose one pass is easily
# disturbed
PASSES, SHORT = 3, 120.0
FIRST_TOKENS = 5  # times that the first token of one clip is awaited; the median counts


class Measurement(NamedTuple):
    """Raw results of one model: transcripts per dataset, seconds, bytes; None where nothing was
    measured, or no PyTorch model loaded.
    """

    runtime: str
    window: Window
    device: str  # "cpu" for runtimes other than PyTorch
    said: list[Transcription]
    load_seconds: float | None
    first_token_seconds: float | None
    idle_rss_bytes: int | None
    peak_rss_bytes: int | None
    weights: str | None
    parameters: int | None


def measure(
    wanted: Format,
    folder: str | None,
    config: Config,
    datasets: Sequence[Dataset],
    stored: torch.dtype,
    heard: Mapping[str, Sequence[Transcription]],
    window: Window,
) -> Measurement:
    """Load `folder` (None: the config's own, dense model), await a first token, transcribe every
    dataset.

    `stored` is the precision on disk, in which weights are compared. `heard`: what is known
    already, by the `weights_digest` in float32 of the PyTorch model that said it; the same model is
    not asked again in the config's windows where one pass is enough.
    """
    setup()
    load, idle = loader(wanted.runtime, config, window), peak_rss_bytes()
    started = time.perf_counter()
    processor, decoder, model = load(Path(folder) if folder else None)
    load_seconds = time.perf_counter() - started
    cap = config.evaluation.max_new_tokens
    decoders = [decoder(processor, dataset.language, cap) for dataset in datasets]
    clip, first = datasets[0].clips[0].audio, decoder(processor, datasets[0].language, 1)
    # a first call allocates; it is not part of the speed
    waited = [_seconds(first, clip) for _ in range(FIRST_TOKENS + 1)][1:]
    exact = weights_digest(model, torch.float32) if model is not None else None
    seconds = sum(clip.seconds for dataset in datasets for clip in dataset.clips)
    passes = PASSES if seconds < SHORT else 1
    known = heard if passes == 1 and window == config.evaluation.window else {}
    said = list(known.get(exact, []))
    if said:  # one batch, for the memory
        size = config.evaluation.batch_size
        decoders[0]([clip.audio for clip in datasets[0].clips[:size]])
    for dataset, decode in zip(datasets[len(said) :], decoders):
        decode([dataset.clips[0].audio])
        options = {
            "batch_size": config.evaluation.batch_size,
            "description": f"{dataset.name}, {wanted.name}",
        }
        tries = [transcribe(decode, processor, dataset.clips, **options) for _ in range(passes)]
        said.append(min(tries, key=lambda one: one.seconds))  # all say the same
    peak, weights, parameters, device = peak_rss_bytes(), None, None, "cpu"
    if model is not None:
        weights, device = weights_digest(model, stored), model.device.type
        parameters = sum(one.numel() for one in model.parameters())
    return Measurement(
        wanted.runtime,
        window,
        device,
        said,
        load_seconds,
        statistics.median(waited),
        idle,
        peak,
        weights,
        parameters,
    )


def loader(runtime: str, config: Config, window: Window) -> Callable:
    """A function from a folder to (processor, maker of decoders, PyTorch model or None); what it
    needs is imported already.
    """
    threads = config.hardware.cpu_threads
    if runtime == "onnxruntime":
        from owl.export.onnx import OnnxWhisper, onnx_decoder

        make = partial(onnx_decoder, window=window)
        return lambda folder: _opened(OnnxWhisper(folder, threads), make, folder)
    if runtime == "ctranslate2":
        from owl.export.ct2 import Ct2Whisper, ct2_decoder

        make = partial(ct2_decoder, window=window)
        return lambda folder: _opened(Ct2Whisper(folder, threads), make, folder)
    if runtime == "whisper.cpp":
        from owl.export.whispercpp import CppWhisper, cpp_decoder

        # what a pruned model has of its original and the file has no place for
        name, cache_dir = config.model.name, config.model.cache_dir
        return lambda folder: _opened(
            CppWhisper(folder, outline(name, cache_dir), threads, window), cpp_decoder
        )

    def load(folder: Path | None):
        # as 03_evaluation transcribes
        asr = load_model(config, folder, accelerated=True)
        make = lambda processor, language, cap: torch_decoder(
            asr, language=language, max_new_tokens=cap, window=window
        )
        return asr.processor, make, asr.model

    return load


def windows(config: Config) -> list[Window]:
    """Full ones, then the config's if they are short."""
    return list(dict.fromkeys(["full", config.evaluation.window]))


def weights_digest(model, dtype: torch.dtype) -> str:
    """Hash of all weights of a model as `dtype` holds them."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(accelerate.dense(parameter.detach()).to("cpu", dtype).float().numpy())
    return digest.hexdigest()


def _opened(whisper, make: Callable, folder: Path | None = None):
    """`folder`: where the processor lies, if not with `whisper`."""
    from transformers import WhisperProcessor

    return (
        WhisperProcessor.from_pretrained(folder) if folder else whisper.settings.processor,
        lambda processor, language, cap: make(
            whisper, processor, language=language, max_new_tokens=cap
        ),
        None,
    )


def _seconds(decode: Decoder, audio) -> float:
    started = time.perf_counter()
    decode([audio])
    return time.perf_counter() - started


def in_fresh_process(function: Callable, *arguments):
    """What `function` (of a module, not of a notebook) returns; what it raises is raised here.
    RuntimeError if the process was killed.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"the process that ran {function.__name__} was killed, most likely for want of memory; "
            "use fewer clips"
        ) from error
