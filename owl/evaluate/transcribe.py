"""What a model says: transcripts of clips with their timing, by any runtime; audio beyond the
window is cut at its silences.

Raw hypotheses are the result; normalising and scoring them (`owl.kernels.scoring`) needs no model
and can be repeated.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from tqdm import tqdm

from owl.data.load import RATE, Clip
from owl.model.decoding import Decoder, Ending
from owl.model.whisper import window_samples

FRAME = 320  # samples, 20 ms at 16 kHz
ENDINGS = get_args(Ending)  # from good to bad


def split_at_silences(audio: np.ndarray, limit: int) -> list[np.ndarray]:
    """`audio` (samples,) as consecutive pieces of at most `limit` samples, cut at the quietest 20
    ms of each window's second half.
    """
    pieces = []
    while len(audio) > limit:
        frames = audio[: limit // FRAME * FRAME].reshape(-1, FRAME)
        # a lone quiet frame inside a word is no silence
        energy = np.convolve((frames**2).mean(axis=1), np.ones(5) / 5, mode="same")
        half = len(energy) // 2
        cut = (
            int((half + energy[half:-2].argmin()) * FRAME + FRAME // 2)
            if len(energy) > 8
            else limit
        )
        pieces.append(audio[:cut])
        audio = audio[cut:]
    return [*pieces, audio]


@dataclass(frozen=True)
class Transcript:
    """One clip's raw outcome; `tokens` counts generated text tokens, `ended` says how its worst
    window ended, of ENDINGS.
    """

    id: str
    reference: str | None
    hypothesis: str
    audio_seconds: float
    speaker: str | None
    tokens: int
    ended: Ending
    windows: int


@dataclass(frozen=True)
class Transcription:
    """All transcripts of a dataset in its order; `seconds` is wall time from waveform to text."""

    transcripts: list[Transcript]
    seconds: float

    @property
    def rtfx(self) -> float:
        """Seconds of audio transcribed per second of wall time."""
        return (
            sum(one.audio_seconds for one in self.transcripts) / self.seconds
            if self.seconds
            else 0.0
        )

    @property
    def cap_hits(self) -> int:
        """Clips that never reached the end token, and do not loop."""
        return sum(one.ended == "cap" for one in self.transcripts)

    @property
    def repeats(self) -> int:
        """Clips that loop."""
        return sum(one.ended == "loop" for one in self.transcripts)


def transcribe(
    decode: Decoder,
    processor,
    clips: Sequence[Clip],
    *,
    batch_size: int = 16,
    description: str = "transcribe",
) -> Transcription:
    """Transcripts by any runtime's `decode`, batched. Clips of like length share a batch; longer
    than the window: cut at silences, joined.
    """
    started = time.perf_counter()
    pieces = [
        (index, piece)
        for index, clip in enumerate(clips)
        for piece in split_at_silences(clip.audio, window_samples(processor))
    ]
    order = sorted(range(len(pieces)), key=lambda position: len(pieces[position][1]))
    decoded = {}
    with tqdm(total=len(order), desc=description, unit="clip") as bar:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            decoded |= zip(part, decode([pieces[position][1] for position in part]))
            bar.update(len(part))
    transcripts = []
    for index, clip in enumerate(clips):
        parts = [decoded[position] for position, (owner, _) in enumerate(pieces) if owner == index]
        texts = [
            processor.tokenizer.decode(part.tokens, skip_special_tokens=True).strip()
            for part in parts
        ]
        transcripts.append(
            Transcript(
                id=clip.id,
                reference=clip.text,
                hypothesis=" ".join(texts),
                audio_seconds=len(clip.audio) / RATE,
                speaker=clip.speaker,
                tokens=sum(len(part.tokens) for part in parts),
                ended=max((part.ended for part in parts), key=ENDINGS.index),
                windows=len(parts),
            )
        )
    return Transcription(transcripts, time.perf_counter() - started)
