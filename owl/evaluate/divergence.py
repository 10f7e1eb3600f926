"""Teacher-forced predictions of a model for clips with text, and the divergence of one model's from
another's.

Both read prompt + reference text; every position that predicts a text token or the end token
counts. Kept apart from transcription, so that the dense model's predictions can be made once and
compared with many pruned models.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers.modeling_outputs import BaseModelOutput

from owl.data.load import Clip
from owl.kernels.teacher_forcing import kl_terms, rectangle
from owl.model.decoding import States, encode, input_features
from owl.model.whisper import Whisper, prompt_tokens, window_samples

MOST_BYTES = 64e6  # of one batch's log probabilities in float32; several of them exist at once


@dataclass(frozen=True)
class TextBatch:
    """Clips of similar text length with their token rows, (clips, prompt + text), padded with end
    tokens; `counts` scored positions each.
    """

    clips: list[Clip]
    tokens: Tensor
    counts: list[int]
    prompt: int


# batch → log probabilities of what follows the prompt, (clips, text + 1, vocabulary)
Predictor = Callable[[TextBatch], Tensor]


@dataclass(frozen=True)
class Teacher:
    """The dense model's `predictions` for batches, as `write_predictions` left them in `folder`."""

    batches: list[TextBatch]
    folder: Path

    def divergence(self, predict: Predictor) -> list[dict]:
        """`divergence_from` the dense model."""
        files = (self.folder / f"{index}.safetensors" for index in range(len(self.batches)))
        return divergence_from(self.batches, (load_file(one)["logs"] for one in files), predict)


def write_predictions(dense: Whisper, batches: Sequence[TextBatch], folder: Path) -> None:
    """`predictions` for each batch as a file: all together may be larger than the memory."""
    for index, batch in enumerate(tqdm(batches, desc="dense predictions", unit="batch")):
        save_file({"logs": predictions(dense, batch)}, folder / f"{index}.safetensors")


def text_batches(
    asr: Whisper, clips: Sequence[Clip], *, language: str | None = None, batch_size: int = 16
) -> Iterator[TextBatch]:
    """Every clip that has text and fits one window, shortest text first; smaller batches where the
    vocabulary makes them too large.
    """
    prompt, limit = prompt_tokens(asr.model, language), asr.model.config.max_target_positions
    usable = sorted(
        (clip for clip in clips if clip.text and len(clip.audio) <= window_samples(asr.processor)),
        key=lambda clip: len(clip.text),
    )
    texts = [
        asr.processor.tokenizer(clip.text, add_special_tokens=False).input_ids[
            : limit - len(prompt)
        ]
        for clip in usable
    ]
    start = 0
    while start < len(usable):
        longest = max(len(text) for text in texts[start : start + batch_size]) + 1
        size = max(
            1, min(batch_size, int(MOST_BYTES / (4 * longest * asr.model.config.vocab_size)))
        )
        part = texts[start : start + size]
        tokens, _ = rectangle(prompt, part, limit=limit, end=asr.model.config.eos_token_id)
        counts = [len(text) + 1 for text in part]
        yield TextBatch(usable[start : start + size], tokens, counts, len(prompt))
        start += size


@torch.inference_mode()
def predictions(asr: Whisper, batch: TextBatch, states: States | None = None) -> Tensor:
    """Log probabilities of what follows the prompt, (clips, text + 1, vocabulary), float32, on the
    model's device.

    `states`: what the model's encoder made of the clips already, if it did.
    """
    audio = [clip.audio for clip in batch.clips]
    encoded = states.recall(audio) if states is not None else None
    if encoded is None:
        encoded = encode(asr.model, input_features(asr, audio))
    logits = asr.model(
        encoder_outputs=BaseModelOutput(encoded), decoder_input_ids=batch.tokens.to(encoded.device)
    ).logits
    return logits[:, batch.prompt - 1 :].float().log_softmax(-1)


def predictor(asr: Whisper, states: States | None = None) -> Predictor:
    """`predictions` of a model in PyTorch."""
    return lambda batch: predictions(asr, batch, states)


def divergence_from(
    batches: Sequence[TextBatch], answers: Iterable[Tensor], predict: Predictor
) -> list[dict]:
    """KL(answers ‖ what `predict` says) in nats, per clip: {"id", "kl" (sum over its tokens),
    "tokens"}.

    `answers`: the dense model's `predictions` for each batch, made or read as they are asked for;
    all together may be larger than the memory.
    """
    rows = []
    bar = tqdm(total=sum(len(batch.clips) for batch in batches), desc="divergence", unit="clip")
    for batch, dense in zip(batches, answers):
        other = predict(batch)
        dense = dense.to(other.device)
        each = kl_terms(dense, other).sum(-1)
        rows += [
            {"id": clip.id, "kl": values[:count].sum().item(), "tokens": count}
            for clip, values, count in zip(batch.clips, each, batch.counts)
        ]
        bar.update(len(batch.clips))
    bar.close()
    return rows


def divergence(
    dense: Whisper,
    pruned: Whisper,
    clips: Sequence[Clip],
    *,
    language: str | None = None,
    batch_size: int = 16,
    states: tuple[States | None, States | None] = (None, None),
) -> list[dict]:
    """`divergence_from` of the dense model on clips with text that fits one window.

    `states`: what each of the two encoders made of the clips already.
    """
    batches = list(text_batches(dense, clips, language=language, batch_size=batch_size))
    answers = (predictions(dense, batch, states[0]) for batch in batches)
    return divergence_from(batches, answers, predictor(pruned, states[1]))
