"""Encoder outputs of clips that a model has just transcribed, so that its divergence on them needs no second pass of the encoder."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MOST_BYTES = 512e6  # that one model's outputs may take; what comes later is not kept and is encoded again


class States:
    """Encoder outputs (frames, d) by waveform: the very array, not an equal one."""

    def __init__(self, most_bytes: float = MOST_BYTES):
        self._kept: dict[int, tuple[np.ndarray, Tensor]] = {}  # the array is held too, so that its id stays its own
        self._room = most_bytes

    def keep(self, audio: Sequence[np.ndarray], outputs: Tensor) -> None:
        """Remember one batch, outputs (clips, frames, d) in the order of `audio`, as long as there is room."""
        for waveform, output in zip(audio, outputs, strict=True):
            if id(waveform) not in self._kept and output.nbytes <= self._room:
                self._kept[id(waveform)] = waveform, output
                self._room -= output.nbytes

    def recall(self, audio: Sequence[np.ndarray]) -> Tensor | None:
        """The outputs (clips, frames, d) of these waveforms, None unless all were kept."""
        if any(id(waveform) not in self._kept for waveform in audio):
            return None
        return torch.stack([self._kept[id(waveform)][1] for waveform in audio])
