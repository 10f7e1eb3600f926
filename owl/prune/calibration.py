"""Run calibration clips through a Whisper block by block and keep, per input of its linears, what
pruning needs to know of it.

`walk` is a generator: it hands over a block with its statistics, and whatever the caller does to
the block's weights before asking for the next one is what the next block's inputs are made with. A
dense pass and a sequential prune are the same loop. Rows are token rows: encoder frames with audio
in them (padding left out unless asked for), and text positions (padding always left out).
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from owl.data.load import Clip
from owl.kernels import teacher_forcing
from owl.kernels.gram import centred
from owl.model.decoding import input_features
from owl.model.whisper import (
    Block,
    Whisper,
    embed_audio,
    embed_text,
    finish_encoder,
    prompt_tokens,
    run_block,
    valid_frames,
)


@dataclass
class Statistics:
    """Of one input over all token rows: `total` (in,) sum, `gram` (in, in) = XᵀX or None, and per
    clip what a subset of clips needs.

    Batches are multiplied in the model's precision (at least float32) and added up in float64 where
    the device has it.
    """

    total: Tensor
    gram: Tensor | None
    clip_rows: list[Tensor]  # (clips,) counted token rows, one tensor per batch
    clip_squares: list[Tensor]  # (clips, in) sums of squares, one tensor per batch

    @property
    def rows(self) -> int:
        """Token rows counted."""
        return int(sum(rows.sum().item() for rows in self.clip_rows))

    @property
    def centred(self) -> Tensor:
        """The Gram matrix of the inputs minus their mean, (in, in)."""
        return centred(self.gram, self.total, self.rows)

    def about(self, point: Tensor) -> Tensor:
        """The Gram matrix of the inputs minus a `point` (in,)."""
        crossed = torch.outer(point, self.total)
        return self.gram - crossed - crossed.T + self.rows * torch.outer(point, point)

    @property
    def rms(self) -> Tensor:
        """Root mean square of every input feature per token row, (in,)."""
        return self.rms_of(slice(None))

    def rms_of(self, clips) -> Tensor:
        """The same over some of the clips: an index, in the order in which they were given to
        `prepare`.
        """
        rows, squares = torch.cat(self.clip_rows)[clips], torch.cat(self.clip_squares)[clips]
        return (squares.sum(0) / rows.sum().clamp(min=1)).sqrt()

    def add(self, inputs: Tensor, counted: Tensor) -> None:
        """Add a batch, (clips, positions, in), of which the `counted` (clips, positions) positions
        are token rows.
        """
        rows, owner = inputs[counted].float(), counted.nonzero()[:, 0]
        squares = torch.zeros(len(inputs), rows.shape[1], device=rows.device).index_add_(
            0, owner, rows.square()
        )
        self.clip_rows.append(counted.sum(1))
        self.clip_squares.append(squares.to(self.total))
        self.total += rows.sum(0)
        if self.gram is not None:
            self.gram += rows.T @ rows  # added up in float64


@dataclass
class Batch:
    """Some calibration clips on the model's device: states to run on and which of their rows
    count.
    """

    audio: Tensor  # (clips, frames, d) states in the encoder, its output later
    audio_rows: Tensor  # (clips, frames) bool
    text: Tensor  # (clips, tokens, d) states in the decoder
    text_rows: Tensor  # (clips, tokens) bool


@torch.inference_mode()
def prepare(
    asr: Whisper,
    clips: Sequence[Clip],
    texts: Sequence[Sequence[int]],
    *,
    language: str | None,
    padding: str,
    batch_size: int,
) -> list[Batch]:
    """Batches of clips with their text tokens, (clips, tokens) as prompt + `texts`; what exceeds
    the window or the token limit is cut.

    `padding` "exclude" counts only encoder frames that hold audio, "include" counts them all.
    """
    prompt, device = prompt_tokens(asr.model, language), next(asr.model.parameters()).device
    limit, frames = asr.model.config.max_target_positions, asr.model.config.max_source_positions
    batches = []
    for start in range(0, len(clips), batch_size):
        sounds = [clip.audio for clip in clips[start : start + batch_size]]
        tokens, text_rows = teacher_forcing.rectangle(
            prompt,
            texts[start : start + batch_size],
            limit=limit,
            end=asr.model.config.eos_token_id,
        )
        valid = [
            frames if padding == "include" else valid_frames(len(sound), asr.model)
            for sound in sounds
        ]
        batches.append(
            Batch(
                audio=embed_audio(asr.model, input_features(asr, sounds)),
                audio_rows=teacher_forcing.first(valid, frames).to(device),
                text=embed_text(asr.model, tokens.to(device)),
                text_rows=text_rows.to(device),
            )
        )
    return batches


def walk(
    model,
    every: Sequence[Block],
    batches: Sequence[Batch],
    *,
    gram: bool,
    modified: bool,
    description: str | None,
) -> Iterator[tuple[Block, dict[str, Statistics]]]:
    """Yield each block with {linear name: statistics of its input}; linears that share an input
    share the one `Statistics`.

    With `gram` false only sums are kept. Without a `description` there is no progress bar, and no
    warning of too few rows. `modified` says that the caller changes weights in
    between: the block is then run again before the next one. One block's statistics exist at a
    time, beside those of the encoder's output, which all decoder blocks share. The states in
    `batches` are consumed: prepare new ones for another walk. Decoder blocks alone start from
    states that an encoder is done with.
    """
    encoder_output: Statistics | None = None
    bar = tqdm(every, desc=description, unit="block", disable=description is None)
    for index, block in enumerate(bar):
        if block.in_decoder and not every[index - 1].in_decoder:
            _finish_encoder(model, batches)
            encoder_output = None
        collected = {name: _empty(linear, gram) for name, linear in _inputs(block).items()}
        if encoder_output is not None and "encoder output" in collected:
            collected["encoder output"] = encoder_output
        for batch in batches:
            output = _observe(block, batch, collected, skip_encoder=encoder_output is not None)
            if not modified:
                store(block, batch, output)
        encoder_output = collected.get("encoder output", encoder_output)
        if description is not None:
            warn_if_singular(block, collected)
        yield block, {linear.name: collected[linear.inputs] for linear in block.linears}
        if modified:
            _advance(block, batches)


def _inputs(block: Block) -> dict:
    """One linear per distinct input of the block."""
    return {linear.inputs: linear for linear in reversed(block.linears)}


def _empty(linear, gram: bool) -> Statistics:
    weight = linear.module.weight
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    zeros = torch.zeros(weight.shape[1], dtype=wide, device=weight.device)
    return Statistics(zeros, torch.diag(zeros) if gram else None, [], [])


@torch.inference_mode()
def _observe(
    block: Block, batch: Batch, collected: dict[str, Statistics], skip_encoder: bool
) -> Tensor:
    """Run the block on one batch with a hook on one linear per input, and return its output."""
    hooks = []
    for name, linear in _inputs(block).items():
        if name == "encoder output" and skip_encoder:
            continue
        rows = batch.audio_rows if linear.sees_audio else batch.text_rows
        hook = lambda module, inputs, statistics=collected[name], rows=rows: statistics.add(
            inputs[0], rows
        )
        hooks.append(linear.module.register_forward_pre_hook(hook))
    try:
        return forward(block, batch)
    finally:
        for hook in hooks:
            hook.remove()


def forward(block: Block, batch: Batch) -> Tensor:
    """A block's output for a batch's present states, (clips, rows, d)."""
    return (
        run_block(block, batch.text, batch.audio)
        if block.in_decoder
        else run_block(block, batch.audio)
    )


def store(block: Block, batch: Batch, states: Tensor) -> None:
    """Put a block's output where the next one reads."""
    if block.in_decoder:
        batch.text = states
    else:
        batch.audio = states


@torch.inference_mode()
def _advance(block: Block, batches: Sequence[Batch]) -> None:
    for batch in batches:
        store(block, batch, forward(block, batch))


@torch.inference_mode()
def _finish_encoder(model, batches: Sequence[Batch]) -> None:
    for batch in batches:
        batch.audio = finish_encoder(model, batch.audio)


def warn_if_singular(block: Block, collected: dict[str, Statistics]) -> None:
    """Where an input of the block has fewer rows than features, with both numbers."""
    short = [
        statistics
        for statistics in collected.values()
        if statistics.gram is not None and statistics.rows < len(statistics.total)
    ]
    if short:
        worst = max(short, key=lambda statistics: len(statistics.total) / max(1, statistics.rows))
        warnings.warn(
            f"{block.name}: {worst.rows} token rows for {len(worst.total)} inputs make a singular "
            "Gram matrix; solvers damp it, but more calibration samples would serve better",
            stacklevel=2,
        )
