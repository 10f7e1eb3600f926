"""What the decoder reads while calibration clips run through the model: text tokens per clip, and
which clips have none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from owl.config.load import Config
from owl.data.load import Clip, Dataset
from owl.errors import DataError
from owl.model.decoding import at_once, torch_decoder
from owl.model.whisper import Whisper, window_samples
from owl.prune.calibration import Batch, prepare

HELD_OUT_EVERY = 8  # one calibration clip in so many judges what was made of the others
PROBLEMS = {"end": None, "cap": "token cap", "loop": "repetition"}  # how text ends → why it goes


@dataclass(frozen=True)
class Labels:
    """Calibration clips that have usable text, their text tokens (no prompt, no end), and why the
    others were dropped.
    """

    clips: list[Clip]
    tokens: list[list[int]]
    dropped: dict[str, int]
    language: str | None

    def saved(self) -> list[dict]:
        """What `saved_labels` reads, JSON types."""
        return [{"id": clip.id, "tokens": ids} for clip, ids in zip(self.clips, self.tokens)]

    def pick(self, chosen: Sequence[int]) -> "Labels":
        """Only the clips with these indices."""
        return replace(
            self, clips=[self.clips[i] for i in chosen], tokens=[self.tokens[i] for i in chosen]
        )

    def by_length(self) -> "Labels":
        """The same, the shortest clip first."""
        lengths = [len(clip.audio) for clip in self.clips]
        return self.pick(sorted(range(len(lengths)), key=lengths.__getitem__))

    def hold_out(self, every: int = HELD_OUT_EVERY) -> tuple["Labels", "Labels"]:
        """(the rest, each `every`-th clip); of fewer clips the last is held out, and a single clip
        is in both.
        """
        count = len(self.clips)
        away = range(every - 1, count, every) or range(count - 1, count)
        return self.pick([i for i in range(count) if i not in away] or away), self.pick(away)


def calibration_labels(config: Config, asr: Whisper, dataset: Dataset) -> Labels:
    """Text tokens per calibration clip: the dense model's own greedy transcript of the first
    window, or the reference text.

    Dropped and counted: transcripts that hit the token cap, loop or are empty; references of clips
    beyond the window. DataError when nothing is left.
    """
    by_model = config.pruning.calibration.labels == "model"
    rows = _transcripts(config, asr, dataset) if by_model else _references(asr.processor, dataset)
    kept = [(clip, tokens) for clip, tokens, problem in rows if problem is None]
    problems = [problem for _, _, problem in rows if problem is not None]
    if not kept:
        raise DataError(
            f"no calibration clip of '{dataset.name}' has usable text ({problems[0]}); use labels "
            '"reference", other audio or another model'
        )
    dropped = {name: problems.count(name) for name in sorted(set(problems))}
    return Labels(
        [clip for clip, _ in kept], [tokens for _, tokens in kept], dropped, dataset.language
    )


def saved_labels(dataset: Dataset, saved: Sequence[dict]) -> Labels:
    """The labels that an earlier notebook saved as [{"id", "tokens"}], for the clips of the same
    dataset.
    """
    tokens = {row["id"]: row["tokens"] for row in saved}
    clips = [clip for clip in dataset.clips if clip.id in tokens]
    return Labels(clips, [tokens[clip.id] for clip in clips], {}, dataset.language)


def calibration_batches(
    config: Config, asr: Whisper, labels: Labels, batch_size: int | None = None
) -> list[Batch]:
    """Fresh batches for one `owl.prune.calibration.walk`, with the config's treatment of windows
    and padding and, unless another is given, as many windows as an encoder best takes at once.
    """
    settings, device = config.pruning.calibration, asr.model.device
    if settings.windows == "packed":
        labels = packed(labels, asr.processor)
    return prepare(
        asr,
        labels.clips,
        labels.tokens,
        language=labels.language,
        padding=settings.padding,
        batch_size=batch_size or at_once(device, config.evaluation.batch_size),
    )


def packed(labels: Labels, processor) -> Labels:
    """Windows in place of clips: several clips each, audio after audio and text after text, so that
    hardly an encoder frame is padding. Each goes where it first fits, the longest first.
    """
    limit, windows = window_samples(processor), []
    pairs = [(clip.audio[:limit], ids) for clip, ids in zip(labels.clips, labels.tokens)]
    for audio, tokens in sorted(pairs, key=lambda pair: -len(pair[0])):
        fits = (one for one in windows if sum(map(len, one[0])) + len(audio) <= limit)
        sounds, text = next(fits, ([], []))
        if not sounds:
            windows.append((sounds, text))
        sounds.append(audio)
        text += spaced(processor.tokenizer, tokens) if text else tokens
    clips = [
        Clip(f"window {number}", np.concatenate(sounds), None, None, "")
        for number, (sounds, _) in enumerate(windows, start=1)
    ]
    return replace(labels, clips=clips, tokens=[text for _, text in windows])


def spaced(tokenizer, tokens: Sequence[int]) -> list[int]:
    """The tokens of a text that goes on behind another one: with a blank before it."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    if text.startswith(" "):  # as a model says it
        return list(tokens)
    return tokenizer(" " + text, add_special_tokens=False).input_ids


def _transcripts(
    config: Config, asr: Whisper, dataset: Dataset
) -> list[tuple[Clip, list[int], str | None]]:
    size, rows = config.evaluation.batch_size, []
    decode = torch_decoder(
        asr, language=dataset.language, max_new_tokens=config.evaluation.max_new_tokens
    )
    bar = tqdm(total=len(dataset.clips), desc="calibration text", unit="clip")
    for start in range(0, len(dataset.clips), size):
        part = dataset.clips[start : start + size]
        for clip, one in zip(part, decode([clip.audio for clip in part])):
            text = asr.processor.tokenizer.decode(one.tokens, skip_special_tokens=True)
            problem = PROBLEMS[one.ended] or (None if text.strip() else "no text")
            rows.append((clip, one.tokens, problem))
        bar.update(len(part))
    bar.close()
    return rows


def _references(processor, dataset: Dataset) -> list[tuple[Clip, list[int], str | None]]:
    limit = window_samples(processor)
    return [
        (
            clip,
            processor.tokenizer(clip.text, add_special_tokens=False).input_ids,
            None if len(clip.audio) <= limit else "longer than the window",
        )
        for clip in dataset.clips
    ]
