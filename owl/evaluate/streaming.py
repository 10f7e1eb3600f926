"""A clip as a live stream: heard step by step through a growing buffer, words confirmed when two
successive hypotheses agree, and when that was. In scripts without spaces between words, or where
the config counts characters, a character is a word.

The stream's clock is simulated. After every step there is one hypothesis; it begins when its audio
is there and the one before it is done, and takes the seconds that the model takes on this machine.
So the text repeats from run to run, and a machine that is too slow falls behind.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from owl.data.load import RATE, Clip
from owl.evaluate.compare import RATES
from owl.kernels.agreement import settled, word_ends
from owl.kernels.byte_letters import BYTE_OF
from owl.kernels.scoring import score
from owl.model.decoding import torch_listener
from owl.model.following import follow
from owl.model.whisper import Whisper, window_samples
from owl.model.windows import Listener, Window


class Word(NamedTuple):
    """A confirmed word, or a character where words have no spaces between them: when its audio
    ended, by even spacing of characters over the clip, and when it was confirmed, in seconds of the
    stream.
    """

    text: str
    ended: float
    confirmed: float

    @property
    def latency(self) -> float:
        return self.confirmed - self.ended


@dataclass
class Streamed:
    """What came of one clip; seconds of work beside seconds of audio."""

    clip: Clip
    confirmed: list[tuple[str, float]] = field(default_factory=list)  # text, when
    encoder_seconds: float = 0.0
    decoder_seconds: float = 0.0
    unit: str = "words"  # or "characters"

    @property
    def hypothesis(self) -> str:
        return " ".join("".join(text for text, _ in self.confirmed).split())

    @property
    def words(self) -> list[Word]:
        split = str.split if self.unit == "words" else _characters
        said = [(word, when) for text, when in self.confirmed for word in split(text)]
        ends = word_ends([word for word, _ in said], self.clip.seconds)
        return [Word(word, end, when) for (word, when), end in zip(said, ends)]


def stream(
    asr: Whisper,
    clips: Sequence[Clip],
    window: Window,
    *,
    step: float,
    language: str | None = None,
    unit: str = "words",
) -> list[Streamed]:
    """Every clip as a stream in steps of `step` seconds, with an encoder that reads full windows or
    speech alone; `unit` (of `owl.kernels.texts.unit_of`) is what is confirmed.
    """
    listen = torch_listener(asr, window)
    listen([np.zeros(RATE, np.float32)])  # a first call allocates; it is not part of the speed
    bar = tqdm(clips, desc=f"stream, {window}", unit="clip")
    return [one_stream(asr, listen, clip, step=step, language=language, unit=unit) for clip in bar]


def one_stream(
    asr: Whisper,
    listen: Listener,
    clip: Clip,
    *,
    step: float,
    language: str | None = None,
    unit: str = "words",
) -> Streamed:
    """One clip. A buffer that is full is settled as it stands and begun anew."""
    begins = _begins_word if unit == "words" else _begins_character
    begins, result = partial(begins, asr.processor.tokenizer), Streamed(clip, unit=unit)
    size, most = round(step * RATE), window_samples(asr.processor)
    start, before, now, stands, said = 0, 0, 0.0, [], []

    def confirm(count: int) -> list[int]:
        if text := asr.processor.tokenizer.decode(said[len(stands) : count]):
            result.confirmed.append((text, now))
        return said[:count]

    for heard in [*range(size, len(clip.audio), size), len(clip.audio)] if len(clip.audio) else []:
        if heard - start > most:
            confirm(len(said))
            start, stands, said = before, [], []
        begun = time.perf_counter()
        states = listen([clip.audio[start:heard]])
        states[0, -1, -1].item()  # a GPU has only been told to begin
        encoded = time.perf_counter()
        previous = said
        said = follow(asr.model, states, stands, said[len(stands) :], language=language).tokens
        done = time.perf_counter()
        result.encoder_seconds += encoded - begun
        result.decoder_seconds += done - encoded
        now = max(now, heard / RATE) + done - begun
        stands, before = confirm(max(len(stands), settled(previous, said, begins))), heard
    confirm(len(said))
    return result


def _begins_word(tokenizer, token: int) -> bool:
    return tokenizer.decode([token]).startswith(" ")


def _begins_character(tokenizer, token: int) -> bool:
    """Some tokens begin with later bytes of a character, 10xxxxxx in UTF-8."""
    letter = tokenizer.convert_ids_to_tokens(token)[:1]
    return BYTE_OF.get(letter, 0) & 0b1100_0000 != 0b1000_0000


def _characters(text: str) -> list[str]:
    return list("".join(text.split()))


def summary(streamed: Sequence[Streamed], normalizer: str) -> dict:
    """The rate after confirmation ("wer", of characters "cer"), latency of the words in seconds
    (median, 90th percentile), encoder and decoder seconds per second of audio; latency is NaN where
    no word was said.
    """
    audio = sum(one.clip.seconds for one in streamed)
    latency = pd.Series([word.latency for one in streamed for word in one.words], dtype=float)
    texts = [one.clip.text or "" for one in streamed], [one.hypothesis for one in streamed]
    rate = RATES[streamed[0].unit]
    return {
        rate: getattr(score(*texts, normalizer), rate),
        "words": len(latency),
        "latency": latency.median(),
        "latency_90": latency.quantile(0.9),
        "encoder": sum(one.encoder_seconds for one in streamed) / audio,
        "decoder": sum(one.decoder_seconds for one in streamed) / audio,
    }
