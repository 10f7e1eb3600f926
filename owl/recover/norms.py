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
from owl.model.decoding import encode
from owl.model.whisper import Block, Whisper, blocks, embed_text, finish_decoder, frozen, run_block
from owl.recover import training
from owl.recover.distill import Target, divergence
from owl.recover.examples import Example, Padded, order, pad
from owl.recover.training import Course, Point

RATE = 1e-3  # peak learning rate of Adam


def train(
    student,
    teacher: Whisper,
    every: Sequence[Block],
    examples: Sequence[Example],
    held_out: Sequence[Target],
    *,
    language: str | None,
    epochs: int,
    rate: float,
    batch_size: int,
    seed: int,
) -> Course:
    """Train the norms and biases of the decoder blocks of `student` (`every`) in place.

    The loss is KL(teacher ‖ student) per token, the end token's included: when to stop is what
    pruning upsets first. To it comes the relative error of the last block's states. After each pass
    the KL on `held_out` is looked at, and the best values are kept, the first ones included.
    """
    decoder = [block for block in every if block.in_decoder]
    parameters = [one for block in decoder for one in block.module.parameters() if one.ndim == 1]
    started, lengths = time.monotonic(), [len(one.tokens) for one in examples]
    parts = tqdm(order(lengths, batch_size, seed, epoch=0), desc="encode", unit="batch")
    lessons = [
        _Lesson(
            student,
            teacher.model,
            pad(teacher, [examples[index] for index in part], language=language, crop=False),
        )
        for part in parts
    ]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    draw, total, number = torch.Generator().manual_seed(seed), epochs * len(lessons), 0
    curve, best = [Point(0, 0.0, divergence(student, held_out))], training.snapshot(parameters)
    with frozen(student, parameters), tqdm(total=total, desc="norms", unit="step") as bar:
        for _ in range(epochs):
            for index in torch.randperm(len(lessons), generator=draw).tolist():
                loss = lessons[index].loss(student)
                training.step(optimiser, loss, [], training.learning_rate(rate, number / total))
                number += 1
                bar.update()
            curve.append(
                Point(number, (time.monotonic() - started) / 60, divergence(student, held_out))
            )
            if curve[-1].kl < min(point.kl for point in curve[:-1]):
                best = training.snapshot(parameters)
            bar.set_postfix(held_out_kl=f"{curve[-1].kl:.4f}")
    training.restore(parameters, best)
    return Course(number, time.monotonic() - started, curve)


class _Lesson:
    """One batch: what the student's encoder makes of it, in half precision for the memory, and the
    last states of the teacher's decoder.
    """

    def __init__(self, student, teacher, batch: Padded):
        self.teacher, self.tokens, self.rows = teacher, batch.tokens, batch.counted
        features = batch.features.to(next(teacher.parameters()))
        self.audio = encode(student, features.to(next(student.parameters()))).half().clone()
        with torch.no_grad():
            self.wanted = self._states(teacher, encode(teacher, features).clone())

    def loss(self, student) -> Tensor:
        """KL per token plus the relative error of the states."""
        states = self._states(student, self.audio.to(next(student.parameters())))
        with torch.no_grad():  # again each time: all rows' probabilities are gigabytes
            dense = _logs(self.teacher, self.wanted)
        off = (states - self.wanted).square().sum() / self.wanted.square().sum()
        return kl_terms(dense, _logs(student, states)).sum() / len(states) + off

    def _states(self, model, audio: Tensor) -> Tensor:
        """What the last block puts out for the counted positions, (rows, d)."""
        text = embed_text(model, self.tokens)
        for block in blocks(model):
            if block.in_decoder:
                text = run_block(block, text, audio)
        return text[self.rows].float()


def _logs(model, states: Tensor) -> Tensor:
    return finish_decoder(model, states.to(next(model.parameters()))).float().log_softmax(-1)
