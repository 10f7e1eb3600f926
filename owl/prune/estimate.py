"""How long a report will take on this machine, said before it begins.

One window through the encoder and one clip through transcription are timed on the model itself; a
step is so many of them. How many windows' worth the other steps take was measured on OpenAI's
tiny.en (two threads). Half to twice of it is to be expected: clips differ in length, processors in
what a batch gains.
"""

import time
from collections.abc import Callable, Sequence

from owl.config.formats import FORMATS, PEERS
from owl.config.load import Config
from owl.data.load import RATE, Dataset
from owl.kernels.records import SOLVERS
from owl.model.decoding import encode, input_features, torch_decoder
from owl.model.whisper import Block, Whisper, window_samples
from owl.prune.sensitivity import CLIPS

# windows' worth of the encoder, per calibration window: sums of every input; Gram matrices, with
# every block run twice; forward and backward
SUMS, GRAMS, BACKWARD = 2.0, 2.5, 4.0
SHORT = 0.4  # of a full window's time: a short one, heard beside it
PRUNINGS = 5.0  # what the measured allocation costs
STARTING = 10.0  # seconds for Python, torch and transformers to start, each notebook or format


def steps(
    config: Config,
    asr: Whisper,
    every: Sequence[Block],
    calibration: Dataset,
    evaluated: Sequence[Dataset],
) -> dict[str, float]:
    """Seconds of a report's long steps, by name, in order; two windows and two clips are run.
    `every`: all blocks, with the targeted linears.
    """
    settings, recovery = config.pruning, config.pruning.recovery
    window, clip = _pace(asr, calibration)
    length, clips = window_samples(asr.processor) / RATE, len(calibration.clips)
    packed = 1 + int(sum(one.seconds for one in calibration.clips) / length)
    windows = min(clips, packed) if settings.calibration.windows == "packed" else clips
    heard = clip * sum(1 + one.seconds // length for data in evaluated for one in data.clips)
    prune = windows * GRAMS * window + _solving(settings.method, asr.model.config, every, window)
    short = config.evaluation.window == "speech"
    # in short windows clip by clip, however they are packed for the solver
    training = recovery.epochs * (SHORT * clips if short else windows) * BACKWARD * window
    others = sum(not FORMATS[name].published for name in config.formats)
    # each is heard, and reads the references
    peers = len(PEERS) * (STARTING + 2 * heard) if config.output.peers else 0
    seconds = {
        "calibration text": clips * clip if settings.calibration.labels == "model" else 0,
        "statistics": windows * SUMS * window,
        "allocation": {
            "fisher": min(CLIPS, clips) * BACKWARD * window,
            "measured": PRUNINGS * prune,
        }.get(settings.allocation, 0),
        "pruning": settings.schedule.iterations * prune,
        "recovery": {
            "blockwise": training,
            "distill": training + 60 * recovery.minutes,
            "norms": (2 + recovery.epochs) * clips * window,
        }.get(recovery.method, 0),
        "transcripts": 2 * heard * (1 + SHORT * short),
        "formats": STARTING * len(config.formats) + heard * others + peers,
        "starting": 4 * STARTING,
    }
    return {name: one for name, one in seconds.items() if one}


def sentence(seconds: dict[str, float]) -> str:
    """What `steps` found, for a reader."""
    each = ", ".join(f"{name} {spoken(one)}" for name, one in seconds.items())
    return f"The report will take about {spoken(sum(seconds.values()))} here: {each}."


def spoken(seconds: float) -> str:
    """In the unit that fits: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _pace(asr: Whisper, data: Dataset) -> tuple[float, float]:
    """Seconds of one window through the encoder and of one clip transcribed."""
    sound = [data.clips[0].audio[: window_samples(asr.processor)]]
    features, decode = input_features(asr, sound), torch_decoder(asr, language=data.language)
    return _second(lambda: encode(asr.model, features).cpu()), _second(lambda: decode(sound))


def _second(work: Callable) -> float:
    """How long the second of two calls takes: a first one allocates."""
    for _ in range(2):
        started = time.perf_counter()
        work()
    return time.perf_counter() - started


def _solving(method: str, shape, every: Sequence[Block], window: float) -> float:
    """Seconds of a solver, by the multiplications per second of the encoder's `window`."""
    frames, width = shape.max_source_positions, shape.d_model
    sides = [linear.module.weight.shape for block in every for linear in block.linears]
    encoder = 12 * width**2 + 2 * frames * width
    rate = shape.encoder_layers * frames * encoder / window
    return SOLVERS[method].work * sum(n**3 + rows * n**2 for rows, n in sides) / rate
