"""Training examples of recovery: which clips share a batch, and a batch as padded tensors.

Every draw depends on the seed and the step alone, so an interrupted training goes on with the batch
that it would have had.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from owl.kernels import teacher_forcing
from owl.model.decoding import input_features
from owl.model.whisper import Whisper, prompt_tokens, valid_frames, window_samples
from owl.prune.calibration_text import spaced

# frames of a cropped window per frame of its longest clip: a model attends to some padding at
# inference too
MARGIN = 1.25
POOL = 4  # batches that are sorted by length together
# how often an example gets another one behind it, and that one a further one, while the window
# holds them
JOINED = 0.5


@dataclass(frozen=True)
class Example:
    """One clip: `audio` (samples,) at most one window, `tokens` of its text without prompt and
    end.
    """

    audio: np.ndarray
    tokens: list[int]


@dataclass(frozen=True)
class Padded:
    """A batch on the model's device."""

    features: Tensor  # (clips, mel bins, 2·frames)
    frames: Tensor  # (clips, frames) bool: frames that hold audio
    tokens: Tensor  # (clips, width) prompt + text, padded
    counted: Tensor  # (clips, width) bool: positions that predict a text token or the end token


def order(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """One pass over all examples as batches of at most `size` indices, of like length, in random
    order.
    """
    draw = np.random.default_rng((seed, epoch))
    shuffled = draw.permutation(len(lengths))
    pools = [
        shuffled[start : start + POOL * size] for start in range(0, len(shuffled), POOL * size)
    ]
    ranked = [pool[np.argsort(np.asarray(lengths)[pool], kind="stable")] for pool in pools]
    batches = [
        pool[start : start + size].tolist()
        for pool in ranked
        for start in range(0, len(pool), size)
    ]
    return [batches[index] for index in draw.permutation(len(batches))]


def batches_per_pass(count: int, size: int) -> int:
    """How many batches `order` makes of `count` examples."""
    return -(-count // size)


def altered(
    examples: Sequence[Example], others: Sequence[Example], processor, seed: int, step: int
) -> list[Example]:
    """The examples with some of `others` joined on and augmented audio; seed, step and place in the
    batch decide how.
    """
    limit = window_samples(processor)
    draws = [np.random.default_rng((seed, step, index)) for index in range(len(examples))]
    longer = [lengthened(one, others, processor, draw) for one, draw in zip(examples, draws)]
    return [
        Example(augment(one.audio, draw, limit), one.tokens) for one, draw in zip(longer, draws)
    ]


def lengthened(
    one: Example, others: Sequence[Example], processor, draw: np.random.Generator
) -> Example:
    """`one` with drawn examples behind it, audio after audio and text after text: a few clips make
    many contexts for each word.
    """
    while draw.random() < JOINED:
        other = others[draw.integers(len(others))]
        if len(one.audio) + len(other.audio) > window_samples(processor):
            break
        tokens = [*one.tokens, *spaced(processor.tokenizer, other.tokens)]
        one = Example(np.concatenate([one.audio, other.audio]), tokens)
    return one


def pad(asr: Whisper, examples: Sequence[Example], *, language: str | None, crop: bool) -> Padded:
    """A batch of tensors. `crop` leaves out what lies beyond the longest clip and a margin: several
    times cheaper for short clips.
    """
    prompt, device = prompt_tokens(asr.model, language), next(asr.model.parameters()).device
    tokens, counted = teacher_forcing.rectangle(
        prompt,
        [one.tokens for one in examples],
        limit=asr.model.config.max_target_positions,
        end=asr.model.config.eos_token_id,
    )
    counted[:, : len(prompt) - 1] = False
    features = input_features(asr, [one.audio for one in examples])
    valid = [valid_frames(len(one.audio), asr.model) for one in examples]
    window = features.shape[2] // 2
    if crop:
        window = min(int(MARGIN * max(valid)) + 1, window)
    return Padded(
        features=features[:, :, : 2 * window],
        frames=teacher_forcing.first(valid, window).to(device),
        tokens=tokens.to(device),
        counted=counted.to(device),
    )


SPEED, GAIN, NOISE = 0.1, 6.0, (10.0, 40.0)  # ± share, ± dB, signal-to-noise ratio in dB
NOISY = 0.5  # share of the clips that get noise


def augment(audio: np.ndarray, draw: np.random.Generator, limit: int) -> np.ndarray:
    """`audio` (samples,) at a speed of ±10 % (pitch moves along; never beyond `limit` samples), ±6
    dB, and half the time with white noise.
    """
    length = round(len(audio) / draw.uniform(1 - SPEED, 1 + SPEED))
    if length > max(limit, len(audio)):
        length = max(limit, len(audio))
    changed = np.interp(np.linspace(0, len(audio) - 1, length), np.arange(len(audio)), audio)
    changed *= 10 ** (draw.uniform(-GAIN, GAIN) / 20)
    ratio, noise = draw.uniform(*NOISE), draw.standard_normal(length)
    if draw.random() < NOISY:
        changed += noise * np.sqrt(np.mean(changed**2)) * 10 ** (-ratio / 20)
    return changed.astype(np.float32)
