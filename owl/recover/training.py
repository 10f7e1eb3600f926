"""What the ways of recovery share: what a training came to, frozen masks, the learning-rate curve,
and a state file that an interrupted training goes on from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from owl.model.whisper import Block
from owl.run.files import whole_file

WARM_UP = 0.05  # share of the training during which the learning rate rises


@dataclass(frozen=True)
class Point:
    """`kl` on the held-out clips, in nats per token, after `step` steps and `minutes`."""

    step: int
    minutes: float
    kl: float


@dataclass(frozen=True)
class Course:
    """What a training came to: its steps and seconds, its `curve`, whose first point is from before
    the first step, and the held-out KL of the weights that were `kept`.
    """

    steps: int
    seconds: float
    curve: list[Point]
    kept: float

    @property
    def kl_before(self) -> float:
        return self.curve[0].kl

    def then(self, later: "Course") -> "Course":
        """Both in a row as one, on one clock; the KL before is the first one's."""
        minutes = self.seconds / 60
        moved = [
            replace(point, step=self.steps + point.step, minutes=minutes + point.minutes)
            for point in later.curve
        ]
        steps, seconds = self.steps + later.steps, self.seconds + later.seconds
        return Course(steps, seconds, [*self.curve, *moved], later.kept)


def trainable(every: Sequence[Block]) -> list[nn.Parameter]:
    """All parameters of the blocks in which something is targeted: weights, biases and norms;
    embeddings, convolutions, the final norms and blocks that pruning left alone stay the dense
    model's.
    """
    return [one for block in every if block.linears for one in block.module.parameters()]


def masks(every: Sequence[Block]) -> list[tuple[nn.Parameter, Tensor]]:
    """(weight, True where it is zero and stays zero) of every targeted linear that has zeros."""
    weights = [linear.module.weight for block in every for linear in block.linears]
    return [(weight, zero) for weight in weights if (zero := weight.detach() == 0).any()]


def step(
    optimiser: torch.optim.Optimizer,
    loss: Tensor,
    pruned: Sequence[tuple[nn.Parameter, Tensor]],
    rate: float,
) -> None:
    """One step of `optimiser` at learning rate `rate`, gradient norm at most 1; pruned weights get
    no gradient and are 0 afterwards.
    """
    optimiser.zero_grad()
    loss.backward()
    for weight, zero in pruned:
        weight.grad.masked_fill_(zero, 0)
    for group in optimiser.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimiser.step()
    for weight, zero in pruned:
        weight.data.masked_fill_(zero, 0)


def learning_rate(peak: float, progress: float) -> float:
    """Linear warm-up, then a cosine to zero; `progress` in [0, 1] is the share of the training that
    is done.
    """
    warm = min(1.0, (progress + 0.01) / WARM_UP)
    return peak * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def snapshot(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the values."""
    return [parameter.detach().clone() for parameter in parameters]


def restore(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Put a `snapshot` back."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def save_state(path: Path, key: str, state: dict) -> None:
    """Write `state` (tensors, numbers, lists of them) whole or not at all; `key` says which
    training it belongs to.
    """
    with whole_file(path) as temporary:
        torch.save({"key": key, "state": state}, temporary)


def load_state(path: Path, key: str) -> dict | None:
    """What `save_state` left for the training `key`; None if nothing is there or it belongs to
    another one.
    """
    if not path.exists():
        return None
    found = torch.load(path, weights_only=True)
    return found["state"] if found["key"] == key else None
