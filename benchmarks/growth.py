"""How the cost of pruning grows with the model: random Whispers in the shapes of tiny, small and
large-v3-turbo, clips of noise.

`make bench GROWTH=1 [SHAPE=tiny]`, or `python -m benchmarks.growth [SHAPE …] [--blocks N] [--clips
N]`. Each job has a process of its own, so its peak memory is its own. Random weights cost what
trained ones cost; what comes out means nothing. The weights exist once: pruning works in place, and
nothing keeps the dense ones. `--blocks N` prunes the first N blocks of each stack and says what all
of them would take.
"""

import argparse
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from owl.data.load import RATE, Clip
from owl.export.measure import in_fresh_process
from owl.model import whisper
from owl.model.whisper import Whisper
from owl.prune import calibration
from owl.run import record

METHODS = ("wanda", "sparsegpt")
TOKENS, SPARSITY = 40, 0.5  # text tokens a clip
SHAPES = {
    "tiny": dict(d_model=384, heads=6, layers=(4, 4), vocab_size=51865, num_mel_bins=80),
    "small": dict(d_model=768, heads=12, layers=(12, 12), vocab_size=51865, num_mel_bins=80),
    "large-v3-turbo": dict(
        d_model=1280, heads=20, layers=(32, 4), vocab_size=51866, num_mel_bins=128
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("shapes", nargs="*", help=", ".join(SHAPES))
    parser.add_argument("--blocks", type=int, help="of each stack; default all")
    parser.add_argument("--clips", type=int, default=8, help="of 30 s")
    options = parser.parse_args()
    if unknown := set(options.shapes) - set(SHAPES):
        parser.error(f"unknown shape {', '.join(sorted(unknown))}; use {', '.join(SHAPES)}")
    print(
        f"{options.clips} clips of 30 s, sparsity {SPARSITY}, {torch.get_num_threads()} threads; "
        "weights in float32"
    )
    columns = ("encoder s/block", "decoder s/block", "all blocks s", "peak GB", "peak/weights")
    print(
        f"{'shape':15s} {'method':10s} {'weights GB':>11s}"
        + "".join(f"{name:>17s}" for name in columns)
    )
    for shape in options.shapes or SHAPES:
        for method in METHODS:
            in_fresh_process(job, shape, method, options.blocks, options.clips)


def job(shape: str, method: str, most: int | None, clips: int) -> None:
    """Prune one random model and print its row."""
    model = random_whisper(**SHAPES[shape])
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    every = [
        block
        for block in whisper.blocks(model)
        if most is None or int(block.name.split(".")[1]) < most
    ]
    batches, starts = noise(model, clips), {}
    for block in every:
        block.module.register_forward_pre_hook(partial(note_start, starts, block.name))
    weights.prune(
        model, every, batches, weights.spread(every, [SPARSITY] * len(every)), method=method
    )
    times = np.diff([*starts.values(), time.perf_counter()])
    mean = {
        stack: times[[name.startswith(stack) for name in starts]].mean()
        for stack in ("encoder", "decoder")
    }
    total, peak = (
        sum(count * mean[stack] for count, stack in zip(SHAPES[shape]["layers"], mean)),
        record.peak_rss_bytes(),
    )
    print(
        f"{shape:15s} {method:10s} {weights / 1e9:11.2f}"
        + "".join(
            f"{value:17.2f}"
            for value in (mean["encoder"], mean["decoder"], total, peak / 1e9, peak / weights)
        )
        + (f"   ({len(every)} of {sum(SHAPES[shape]['layers'])} blocks run)" if most else ""),
        flush=True,
    )


def note_start(starts: dict[str, float], name: str, *_) -> None:
    """A hook: when a block first ran."""
    starts.setdefault(name, time.perf_counter())


def random_whisper(
    d_model: int, heads: int, layers: tuple[int, int], vocab_size: int, num_mel_bins: int
):
    """A Whisper of the stock proportions, initialised at random."""
    sizes = dict(d_model=d_model, vocab_size=vocab_size, num_mel_bins=num_mel_bins)
    for stack, depth in zip(("encoder", "decoder"), layers):
        sizes |= {
            f"{stack}_layers": depth,
            f"{stack}_attention_heads": heads,
            f"{stack}_ffn_dim": 4 * d_model,
        }
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes))
    model.generation_config = GenerationConfig(
        is_multilingual=False, no_timestamps_token_id=vocab_size - 1
    )
    return model.requires_grad_(False).eval()


def noise(model, clips: int) -> list[calibration.Batch]:
    """Calibration clips of noise that fill the window, with random text."""
    draw = np.random.default_rng(0)
    sounds = [(0.1 * draw.standard_normal(30 * RATE)).astype(np.float32) for _ in range(clips)]
    texts = [draw.integers(0, 50000, TOKENS).tolist() for _ in range(clips)]
    processor = SimpleNamespace(
        feature_extractor=WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    )
    made = [Clip(str(index), sound, None, None, str(index)) for index, sound in enumerate(sounds)]
    return calibration.prepare(
        Whisper(model, processor), made, texts, language=None, padding="exclude", batch_size=4
    )


if __name__ == "__main__":
    main()
