"""What a model says and how sure it is of it: transcripts with their timing, and the teacher-forced divergence from the dense model.

Raw hypotheses are the result; normalising and scoring them (`owl.scoring`) needs no model and can be repeated.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from owl.data import RATE, Clip
from owl.decoding import Decoder
from owl.states import States
from owl.teacher import divergence_rows, predictions, text_batches
from owl.whisper import window_samples
from owl.whole import whole_file
from owl.windows import split_at_silences


@dataclass(frozen=True)
class Transcript:
    """One clip's raw outcome; `tokens` counts generated text tokens, `capped` says that a window never reached its end token."""

    id: str
    reference: str | None
    hypothesis: str
    audio_seconds: float
    speaker: str | None
    tokens: int
    capped: bool
    windows: int


@dataclass(frozen=True)
class Transcription:
    """All transcripts of a dataset in its order; `seconds` is wall time from waveform to text."""

    transcripts: list[Transcript]
    seconds: float

    @property
    def rtfx(self) -> float:
        """Seconds of audio transcribed per second of wall time."""
        return sum(one.audio_seconds for one in self.transcripts) / self.seconds if self.seconds else 0.0

    @property
    def cap_hits(self) -> int:
        return sum(one.capped for one in self.transcripts)


def transcribe(
    decode: Decoder, processor, clips: Sequence[Clip], *, batch_size: int = 16, description: str = "transcribe"
) -> Transcription:
    """Transcripts by any runtime's `decode`, batched. Clips of like length share a batch; longer than the window: cut at silences, joined."""
    started = time.perf_counter()
    pieces = [(index, piece) for index, clip in enumerate(clips) for piece in split_at_silences(clip.audio, window_samples(processor))]
    order = sorted(range(len(pieces)), key=lambda position: len(pieces[position][1]))
    decoded = {}
    for start in tqdm(range(0, len(order), batch_size), desc=description, unit="batch"):
        part = order[start : start + batch_size]
        decoded |= zip(part, decode([pieces[position][1] for position in part]))
    transcripts = []
    for index, clip in enumerate(clips):
        parts = [decoded[position] for position, (owner, _) in enumerate(pieces) if owner == index]
        texts = [processor.tokenizer.decode(part.tokens, skip_special_tokens=True).strip() for part in parts]
        transcripts.append(
            Transcript(
                id=clip.id,
                reference=clip.text,
                hypothesis=" ".join(texts),
                audio_seconds=len(clip.audio) / RATE,
                speaker=clip.speaker,
                tokens=sum(len(part.tokens) for part in parts),
                capped=any(part.capped for part in parts),
                windows=len(parts),
            )
        )
    return Transcription(transcripts, time.perf_counter() - started)


def save(path: Path, transcription: Transcription, provenance: Mapping) -> None:
    """Raw JSONL, one clip a line, the wall time and where it all comes from on the first; written whole or not at all."""
    lines = [{"seconds": transcription.seconds, "provenance": provenance}, *(asdict(one) for one in transcription.transcripts)]
    with whole_file(path) as temporary:
        temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read(path: Path) -> Transcription:
    """What `save` wrote."""
    head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return Transcription([Transcript(**line) for line in lines], head["seconds"])


def divergence(
    dense,
    pruned,
    processor,
    clips: Sequence[Clip],
    *,
    language: str | None = None,
    batch_size: int = 16,
    states: tuple[States | None, States | None] = (None, None),
) -> list[dict]:
    """Teacher-forced KL(dense ‖ pruned) in nats, per clip with text that fits one window: {"id", "kl" (sum over tokens), "tokens"}.

    `states`: what each of the two encoders made of the clips already.
    """
    batches = list(text_batches(dense, processor, clips, language=language, batch_size=batch_size))
    rows = []
    for batch in tqdm(batches, desc="divergence", unit="batch"):
        logs = [predictions(model, processor, batch, known) for model, known in zip((dense, pruned), states)]
        rows += divergence_rows(batch, *logs)
    return rows
