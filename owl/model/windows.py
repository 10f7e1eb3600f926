"""Short windows: the encoder reads the speech and a little silence, the decoder also what the
encoder makes of the end of a window that is all silence.

A Whisper is trained on whole windows, and its encoder's time is theirs, however little of it is
speech. Cut short behind the speech, its decoder does not stop: it has learnt to stop where it sees
a window end in silence. So the model is asked once what it makes of a silent window, and the last
second of that is put behind every shorter one. Nothing is trained, and any runtime that lets the
encoder's output be handed to the decoder can do it.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from owl.model.whisper import SAMPLES_PER_FRAME, followed

Window = Literal["full", "speech"]
SECOND = 50  # encoder frames; windows are whole seconds, so that clips share a pass
MARGIN = 12  # frames of silence, at least, that the encoder reads behind the speech

SILENCE = np.zeros(SAMPLES_PER_FRAME, np.float32)  # a clip whose window holds nothing

Listener = Callable[[Sequence[np.ndarray]], Tensor]


def listener(features: Listener, encode: Callable[[Tensor], Tensor], window: Window) -> Listener:
    """How waveforms (at most one window each) become what the decoder attends to, (clips, frames,
    d), from `features`, log-mel of whole windows (clips, mel bins, 2·frames), and `encode`, which
    takes any even number of mel frames.

    "speech": each clip's own window, what the others of its batch need beyond that filled with
    silence's output, and the end of that behind. A clip nearly as long as the window gets the whole
    one.
    """
    if window == "full":
        return lambda audio: encode(features(audio))
    (silence,) = encode(features([SILENCE]))

    def listen(audio: Sequence[np.ndarray]) -> Tensor:
        mel, windows = features(audio), [speech_window(len(one), len(silence)) for one in audio]
        longest = max(windows)
        states = silence[:longest].repeat(len(audio), 1, 1)
        for frames in sorted(set(windows)):
            rows = [row for row, own in enumerate(windows) if own == frames]
            states[rows, :frames] = encode(mel[rows, :, : 2 * frames])
        return followed(states, end_of(silence, longest))

    return listen


def end_of(silence: Tensor, frames: int) -> Tensor:
    """What the decoder attends to behind a window of so many frames: the last second of a silent
    window's output (most, d), or what is left of it; nothing behind a whole window.
    """
    return silence[max(frames, len(silence) - SECOND) :]


def speech_window(samples: int, most: int) -> int:
    """Encoder frames for speech of so many samples: it and `MARGIN`, in whole seconds, `most` the
    model's window.
    """
    return window_of(-(-samples // SAMPLES_PER_FRAME), most)


def window_of(frames: int, most: int) -> int:
    """The same for speech of so many encoder frames."""
    return min(-(-(frames + MARGIN) // SECOND) * SECOND, most)
