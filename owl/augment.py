"""Cheap changes of a waveform that a teacher can still label: speed, gain, noise. Arrays in, arrays out.

Training by a teacher's own distribution needs no correct text, so any sound that speech could have become is a valid example.
"""

import numpy as np

SPEED, GAIN, NOISE = 0.1, 6.0, (10.0, 40.0)  # ± share, ± dB, signal-to-noise ratio in dB
NOISY = 0.5  # share of the clips that get noise


def augment(audio: np.ndarray, draw: np.random.Generator, limit: int) -> np.ndarray:
    """`audio` (samples,) at a speed of ±10 % (pitch moves along; never beyond `limit` samples), ±6 dB, and half the time with white noise."""
    length = round(len(audio) / draw.uniform(1 - SPEED, 1 + SPEED))
    if length > max(limit, len(audio)):
        length = max(limit, len(audio))
    changed = np.interp(np.linspace(0, len(audio) - 1, length), np.arange(len(audio)), audio)
    changed *= 10 ** (draw.uniform(-GAIN, GAIN) / 20)
    ratio, noise = draw.uniform(*NOISE), draw.standard_normal(length)
    if draw.random() < NOISY:
        changed += noise * np.sqrt(np.mean(changed**2)) * 10 ** (-ratio / 20)
    return changed.astype(np.float32)
