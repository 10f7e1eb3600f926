"""Cut audio that is longer than a model's window at its silences: arrays in, arrays out."""

import numpy as np

FRAME = 320  # samples, 20 ms at 16 kHz


def split_at_silences(audio: np.ndarray, limit: int) -> list[np.ndarray]:
    """`audio` (samples,) as consecutive pieces of at most `limit` samples, cut at the quietest 20 ms of each window's second half."""
    pieces = []
    while len(audio) > limit:
        frames = audio[: limit // FRAME * FRAME].reshape(-1, FRAME)
        energy = np.convolve((frames**2).mean(axis=1), np.ones(5) / 5, mode="same")  # a lone quiet frame inside a word is no silence
        half = len(energy) // 2
        cut = int((half + energy[half:-2].argmin()) * FRAME + FRAME // 2) if len(energy) > 8 else limit
        pieces.append(audio[:cut])
        audio = audio[cut:]
    return [*pieces, audio]
