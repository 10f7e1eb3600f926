"""Block-wise recovery: one block after the other trained to what the dense block puts out, masks
frozen, nothing labelled.

The pruned block sees the inputs that the recovered blocks before it produce, and its target is the
dense block's output on the dense model's inputs, so it also repairs what earlier blocks broke
(EBFT, Guo et al., arXiv 2402.12419). Only token rows count, as in calibration.

Where a run reads short windows (`owl.model.windows`) so does the student, and the teacher full
ones, frame by frame the same speech.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from owl.model.decoding import encode_silence
from owl.model.whisper import Block, finish_encoder, followed
from owl.model.windows import end_of, window_of
from owl.prune.calibration import Batch, forward, store
from owl.recover import training

RATE = 1e-3  # a good peak learning rate of Adam for blocks of any width we tried (128)


@dataclass(frozen=True)
class RecoveredBlock:
    """Relative output errors ‖a − b‖² / ‖b‖² of a block on the held-out clips, before and after;
    `steps` and `seconds` spent on it.
    """

    block: str
    before: float
    after: float
    steps: int
    seconds: float


@dataclass
class Pair:
    """One batch of clips in both models: `student` and `teacher` hold their own states and the same
    rows; the student's window may end earlier, but not before the last of them.
    """

    student: Batch
    teacher: Batch


def recover_blocks(
    student,
    teacher,
    every: Sequence[Block],
    dense: Sequence[Block],
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    *,
    silence: Tensor | None = None,
    epochs: int,
    rate: float,
    seed: int,
) -> Iterator[RecoveredBlock]:
    """Train every block of `student` (`every`) in which something is targeted to its dense
    counterpart (`dense`) in place, and yield what came of it, block by block.

    `batches` and `held_out` are clips as from `owl.prune.calibration.prepare`; they are left as
    they are. With a silent window's features (1, mel bins, 2·frames) as `silence` the student reads
    each batch in a short window that holds its longest clip (its padding, where that counts). Adam
    with a cosine to zero over `epochs` passes; after each pass the held-out error is looked at and
    the best weights are kept, the first ones included: no block ends with a higher held-out error
    than it began with.
    """
    precision = next(teacher.parameters()).dtype
    train, check = (
        [Pair(_own(batch, short=silence is not None), _own(batch, precision)) for batch in part]
        for part in (batches, held_out)
    )
    for index, (block, wanted) in enumerate(
        tqdm(list(zip(every, dense, strict=True)), desc="blockwise", unit="block")
    ):
        if block.in_decoder and not every[index - 1].in_decoder:
            _finish_encoder(student, teacher, [*train, *check], silence)
        with torch.no_grad():
            for pair in [*train, *check]:
                store(wanted, pair.teacher, forward(wanted, pair.teacher))
        if block.linears:
            yield _recover_block(block, train, check, epochs=epochs, rate=rate, seed=seed + index)
        with torch.no_grad():
            for pair in [*train, *check]:
                store(block, pair.student, forward(block, pair.student))


def _recover_block(
    block: Block,
    train: Sequence[Pair],
    check: Sequence[Pair],
    *,
    epochs: int,
    rate: float,
    seed: int,
) -> RecoveredBlock:
    started = time.perf_counter()
    parameters, pruned = training.trainable([block]), training.masks([block])
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(seed)
    errors, best = [_error(block, check)], training.snapshot(parameters)
    epochs = epochs if errors[0] > 0 else 0  # a block that nothing changed has nothing to learn
    total = epochs * len(train)
    for epoch in range(epochs):
        for number, index in enumerate(torch.randperm(len(train), generator=draw).tolist()):
            off, scale = _distance(block, train[index])
            training.step(
                optimiser,
                off / scale,
                pruned,
                training.learning_rate(rate, (epoch * len(train) + number) / total),
            )
        errors.append(_error(block, check))
        if errors[-1] < min(errors[:-1]):
            best = training.snapshot(parameters)
    training.restore(parameters, best)
    return RecoveredBlock(block.name, errors[0], min(errors), total, time.perf_counter() - started)


@torch.no_grad()
def _error(block: Block, pairs: Sequence[Pair]) -> float:
    sums = [_distance(block, pair) for pair in pairs]
    return sum(off.item() for off, _ in sums) / sum(scale.item() for _, scale in sums)


def _distance(block: Block, pair: Pair) -> tuple[Tensor, Tensor]:
    """(‖a − b‖², ‖b‖²) over the token rows: a the block's output, b what the teacher's batch holds
    already.
    """
    student, teacher, output = pair.student, pair.teacher, forward(block, pair.student)
    if block.in_decoder:
        states, wanted = output[student.text_rows], teacher.text[teacher.text_rows].float()
    else:
        states, wanted = output[student.audio_rows], teacher.audio[teacher.audio_rows].float()
    return (states.float() - wanted).square().sum(), wanted.square().sum()


def _own(batch: Batch, precision: torch.dtype = torch.float32, short: bool = False) -> Batch:
    """A copy that autograd may use (`prepare` makes its tensors in inference mode), cut `short`
    behind the rows that count. The convolutions have seen what is cut: in a window's last frame, in
    the silence behind every clip, a little of it stays.
    """
    window = batch.audio.shape[1]
    if short:
        window = window_of(int(batch.audio_rows.sum(1).max()), window)
    audio, text = (
        states.to(precision, copy=True) for states in (batch.audio[:, :window], batch.text)
    )
    return Batch(audio, batch.audio_rows[:, :window].clone(), text, batch.text_rows.clone())


@torch.no_grad()
def _finish_encoder(student, teacher, pairs: Sequence[Pair], silence: Tensor | None) -> None:
    silent = encode_silence(student, silence)
    for pair in pairs:
        heard = finish_encoder(student, pair.student.audio)
        pair.student.audio = (
            heard if silent is None else followed(heard, end_of(silent, heard.shape[1]))
        )
        pair.teacher.audio = finish_encoder(teacher, pair.teacher.audio)
