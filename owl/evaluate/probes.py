"""Clips without words, to see what a model invents: silence and noise. Deterministic."""

import numpy as np

from owl.data.load import RATE, Clip

LEVELS = {"quiet noise": 0.003, "loud noise": 0.1}  # RMS, full scale 1


def clips(seconds: float, seed: int = 0) -> list[Clip]:
    """Digital silence, white noise at two levels, and noise whose power falls with frequency
    (brown); each `seconds` long, text "".
    """
    count = int(seconds * RATE)
    white = np.random.default_rng(seed).standard_normal(count)
    brown = np.cumsum(white - white.mean())
    sounds = {"silence": np.zeros(count), "brown noise": 0.1 * brown / brown.std()}
    sounds |= {name: level * white for name, level in LEVELS.items()}
    return [
        Clip(name, audio.astype(np.float32), "", None, f"probe {name}")
        for name, audio in sounds.items()
    ]
