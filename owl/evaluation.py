"""What a model says and how sure it is of it: transcripts with their timing, and the teacher-forced divergence from the dense model.

Raw hypotheses are the result; normalising and scoring them (`owl.scoring`) needs no model and can be repeated.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers.modeling_outputs import BaseModelOutput

from owl.data import RATE, Clip
from owl.decoding import Decoder, encode, input_features
from owl.whisper import prompt_tokens, window_samples
from owl.windows import split_at_silences

LOGITS_BYTES = 256_000_000  # of one model for one batch in float32; 16 long clips of a stock vocabulary would be 1.5 GB


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
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> Transcription:
    """What `save` wrote."""
    head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return Transcription([Transcript(**line) for line in lines], head["seconds"])


@torch.inference_mode()
def next_token_logs(model, encoder_output: Tensor, tokens: Tensor, prompt: int) -> Tensor:
    """Log probabilities of every text token and the end token after `tokens` (clips, width), (clips, width − prompt + 1, vocabulary)."""
    states = BaseModelOutput(encoder_output)
    return model(encoder_outputs=states, decoder_input_ids=tokens).logits[:, prompt - 1 :].float().log_softmax(-1)


@torch.inference_mode()
def divergence(dense, pruned, processor, clips: Sequence[Clip], *, language: str | None = None, batch_size: int = 16) -> list[dict]:
    """Teacher-forced KL(dense ‖ pruned) in nats, per clip with text that fits one window: {"id", "kl" (sum over tokens), "tokens"}.

    Both models read prompt + reference text; every position that predicts a text token or the end token counts.
    """
    usable = [clip for clip in clips if clip.text and len(clip.audio) <= window_samples(processor)]
    prompt, limit, end = prompt_tokens(dense, language), dense.config.max_target_positions, dense.config.eos_token_id
    read = [(clip, processor.tokenizer(clip.text, add_special_tokens=False).input_ids[: limit - len(prompt)]) for clip in usable]
    read.sort(key=lambda pair: len(pair[1]))
    rows = []
    for pairs in tqdm(_batches(read, batch_size, len(prompt), dense.config.vocab_size), desc="divergence", unit="batch"):
        part, texts = zip(*pairs)
        width = len(texts[-1])
        device = next(dense.parameters()).device
        tokens = torch.tensor([[*prompt, *text, *[end] * (width - len(text))] for text in texts], device=device)
        features = input_features(dense, processor, [clip.audio for clip in part])
        logs = [next_token_logs(model, encode(model, features), tokens, len(prompt)) for model in (dense, pruned)]
        each = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
        for clip, text, values in zip(part, texts, each):
            count = len(text) + 1
            rows.append({"id": clip.id, "kl": values[:count].sum().item(), "tokens": count})
    return rows


def _batches(read: Sequence, batch_size: int, prompt: int, vocabulary: int) -> list[Sequence]:
    """(clip, text tokens) pairs, shortest first, in batches of `batch_size`, or fewer where their logits would exceed LOGITS_BYTES."""
    batches, start = [], 0
    while start < len(read):
        size = batch_size
        while 4 * vocabulary * len(part := read[start : start + size]) * (prompt + len(part[-1][1])) > LOGITS_BYTES and size > 1:
            size -= 1
        batches.append(part)
        start += size
    return batches
