"""Recovery by the norms and biases of the decoder alone, less than a thousandth of a model's
numbers, trained to the dense model's predictions; every matrix stays as it was pruned.

A decoder hears some 45 text rows a clip. Trained whole it fits those and is worse on others, its
norms and biases are too few for that (docs/results.md). The encoder is not trained, so either
model's takes every window once, and an epoch costs the decoder's passes.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from owl.kernels.teacher_forcing import kl_terms
from owl.model.decoding import encode, torch_listener
from owl.model.whisper import Block, Whisper, blocks, embed_text, finish_decoder, frozen, run_block
from owl.model.windows import Window
from owl.recover import training
from owl.recover.examples import Example, Padded, order, pad
from owl.recover.training import Course, Point

RATE = 1e-3  # peak learning rate of Adam


def train(
    student: Whisper,
    teacher: Whisper,
    every: Sequence[Block],
    examples: Sequence[Example],
    held_out: Sequence[Example],
    *,
    language: str | None,
    window: Window = "full",
    epochs: int,
    rate: float,
    batch_size: int,
    seed: int,
) -> Course:
    """Train the norms and biases of the decoder blocks of `student` (`every`) in place.

    The student hears its examples in the windows that it will be used with, the teacher in full
    ones. The loss is KL(teacher ‖ student) per token, the end token's included: when to stop is
    what pruning upsets first. To it comes the relative error of the last block's states. After each
    pass the KL on `held_out` is looked at, and the best values are kept, the first ones included.
    """
    model, started = student.model, time.monotonic()
    decoder = [block for block in every if block.in_decoder]
    parameters = [one for block in decoder for one in block.module.parameters() if one.ndim == 1]
    listen = torch_listener(student, window)

    def prepared(chosen: Sequence[Example]) -> list[_Lesson]:
        lessons, lengths = [], [len(one.tokens) for one in chosen]
        for part in tqdm(order(lengths, batch_size, seed, epoch=0), desc="encode", unit="batch"):
            heard = [chosen[index] for index in part]
            states = listen([one.audio for one in heard])
            batch = pad(teacher, heard, language=language, crop=False)
            lessons.append(_Lesson(teacher.model, batch, states))
        return lessons

    lessons, asked = prepared(examples), prepared(held_out)
    measure = lambda: sum(one.kl(model) for one in asked) / sum(one.count for one in asked)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    draw, total, number = torch.Generator().manual_seed(seed), epochs * len(lessons), 0
    curve, best = [Point(0, 0.0, measure())], training.snapshot(parameters)
    with frozen(model, parameters), tqdm(total=total, desc="norms", unit="step") as bar:
        for _ in range(epochs):
            for index in torch.randperm(len(lessons), generator=draw).tolist():
                loss = lessons[index].loss(model)
                training.step(optimiser, loss, [], training.learning_rate(rate, number / total))
                number += 1
                bar.update()
            curve.append(Point(number, (time.monotonic() - started) / 60, measure()))
            if curve[-1].kl < min(point.kl for point in curve[:-1]):
                best = training.snapshot(parameters)
            bar.set_postfix(held_out_kl=f"{curve[-1].kl:.4f}")
    training.restore(parameters, best)
    kept = min(point.kl for point in curve)
    return Course(number, time.monotonic() - started, curve, kept)


class _Lesson:
    """One batch: `heard`, what the student's encoder makes of it, kept in half precision for the
    memory, and the last states of the teacher's decoder.
    """

    def __init__(self, teacher, batch: Padded, heard: Tensor):
        self.teacher, self.tokens, self.rows = teacher, batch.tokens, batch.counted
        self.heard, self.count = heard.half().clone(), int(batch.counted.sum())
        features = batch.features.to(next(teacher.parameters()))
        with torch.no_grad():
            self.wanted = self._states(teacher, encode(teacher, features).clone())

    def loss(self, student) -> Tensor:
        """KL per token plus the relative error of the states."""
        states = self._states(student, self.heard.to(next(student.parameters())))
        off = (states - self.wanted).square().sum() / self.wanted.square().sum()
        return self._kl(student, states) / self.count + off

    @torch.no_grad()
    def kl(self, student) -> float:
        """KL(teacher ‖ student) in nats, summed over the `count` counted tokens."""
        states = self._states(student, self.heard.to(next(student.parameters())))
        return self._kl(student, states).item()

    def _kl(self, student, states: Tensor) -> Tensor:
        with torch.no_grad():  # again each time: all rows' probabilities are gigabytes
            dense = _logs(self.teacher, self.wanted)
        return kl_terms(dense, _logs(student, states)).sum()

    def _states(self, model, audio: Tensor) -> Tensor:
        """What the last block puts out for the counted positions, (rows, d)."""
        text = embed_text(model, self.tokens)
        for block in blocks(model):
            if block.in_decoder:
                text = run_block(block, text, audio)
        return text[self.rows].float()


def _logs(model, states: Tensor) -> Tensor:
    return finish_decoder(model, states.to(next(model.parameters()))).float().log_softmax(-1)
