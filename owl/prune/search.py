"""The measured allocation: prune one unit at a time, measure what it does to the predictions, and
spend the budget where it hurts least.

A unit is one block's self-attention, cross-attention or feed-forward linears. The database holds
every unit pruned to a few LEVELS from the dense model's statistics, and the divergence of the
teacher-forced token distribution from the dense model's, KL(dense ‖ pruned), when that unit alone
is replaced. Curves are interpolated in log KL and the parameter-weighted budget is solved by one
Lagrange multiplier. Because divergences do not quite add up, the result, and the heuristics it must
beat, are then assembled from the database, and the best of them is refined by a short evolutionary
search. Sources: EvoPress (arXiv 2410.14649) for database and search; HAWQ-like additive budgets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from owl.kernels.solvers import prune_weight
from owl.model.whisper import Block, Linear
from owl.prune.calibration import Batch, walk
from owl.prune.fitness import Fitness
from owl.prune.weights import COLUMN_BLOCK, Shared

LEVELS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # sparsities in the database
# share of the smaller unit's weights that an offspring moves, lowest and highest
MOVES = (0.01, 0.08)
FLOOR = 1e-7  # nats; a measured divergence below is noise of the arithmetic


@dataclass(frozen=True)
class Unit:
    """Linears of one block that share a sparsity: "decoder.1.encoder_attn"; `weights` counts their
    weights.
    """

    name: str
    block: str
    linears: tuple[Linear, ...]

    @property
    def weights(self) -> int:
        return sum(linear.module.weight.numel() for linear in self.linears)


@dataclass(frozen=True)
class Database:
    """Every unit at every level: its pruned weights by linear name, and the divergence (units,
    levels) of replacing it alone, in nats.
    """

    units: list[Unit]
    divergence: np.ndarray
    weights: list[dict[str, Tensor]]  # per level


@dataclass(frozen=True)
class Candidate:
    """An allocation that was tried: `sparsities` per unit, `kl` (nats per token) of the model that
    is assembled by it.
    """

    name: str
    sparsities: list[float]
    kl: float


def units(every: Sequence[Block]) -> list[Unit]:
    """The units of all blocks in order; a block without targeted linears of a kind has no such
    unit.
    """
    found = []
    for block in every:
        for name in ("self_attn", "encoder_attn", "fc"):
            linears = tuple(linear for linear in block.linears if linear.kind.startswith(name))
            if linears:
                found.append(
                    Unit(f"{block.name}.{name.replace('fc', 'feed_forward')}", block.name, linears)
                )
    return found


def build(
    model, every: Sequence[Block], batches: Sequence[Batch], fitness: Fitness, *, method: str
) -> Database:
    """Solve every unit at every level from the dense model's statistics and measure each alone. The
    model comes out as it went in.
    """
    found, rows = units(every), []
    weights: list[dict[str, Tensor]] = [{} for _ in LEVELS]
    factors = Shared(method)
    for block, statistics in walk(
        model, every, batches, gram=True, modified=False, description="database"
    ):
        for linear in block.linears:
            gram, made = factors.of(linear, statistics[linear.name], False)
            for level, kept in zip(LEVELS, weights):
                kept[linear.name] = prune_weight(
                    linear.module.weight.data,
                    gram,
                    method=method,
                    sparsity=level,
                    block_size=COLUMN_BLOCK,
                    factors=made,
                )
        for unit in (unit for unit in found if unit.block == block.name):
            rows.append(
                [
                    fitness.divergence_from(
                        block, {one.name: kept[one.name] for one in unit.linears}
                    )
                    for kept in weights
                ]
            )
        fitness.advance(block)
    return Database(found, np.array(rows), weights)


def solve_budget(
    divergence: np.ndarray, weights: Sequence[int], sparsity: float, step: float = 0.005
) -> list[float]:
    """Sparsity per unit that minimises the summed divergence, Σ w·s = S·Σ w exactly (a fraction
    each).

    `divergence` (units, levels) at LEVELS. Between levels, and below the first, log divergence is
    linear; it never falls with sparsity. Each unit moves along the lower convex hull of its curve,
    so that one multiplier orders all moves; the last move is cut to the budget.
    """
    grid = np.arange(0.0, LEVELS[-1] + step / 2, step)
    moves = []
    for index, (row, count) in enumerate(zip(divergence, weights)):
        curve = curve_of(row, grid)
        corners = _lower_hull(grid, curve)
        for left, right in zip(corners, corners[1:]):
            moves.append(
                (
                    (curve[right] - curve[left]) / (count * (grid[right] - grid[left])),
                    index,
                    grid[right] - grid[left],
                )
            )
    left_over, chosen = sparsity * sum(weights), [0.0] * len(weights)
    for _, index, size in sorted(moves):
        taken = min(size, left_over / weights[index])
        chosen[index] += taken
        left_over -= taken * weights[index]
        if left_over <= 0:
            break
    return _spend(chosen, weights, left_over)


def curve_of(row: np.ndarray, sparsity: np.ndarray) -> np.ndarray:
    """The divergence of one unit at any sparsities from its divergences at LEVELS; 0 at 0."""
    logs = np.log(np.maximum.accumulate(np.maximum(row, FLOOR)))
    slope = max((logs[1] - logs[0]) / (LEVELS[1] - LEVELS[0]), 1.0)  # towards 0 the curve must fall
    inside = np.interp(sparsity, LEVELS, logs)
    below = logs[0] + slope * (sparsity - LEVELS[0])
    values = np.exp(np.where(sparsity < LEVELS[0], below, inside))
    return np.where(sparsity == 0, 0.0, values)


def assemble(database: Database, sparsities: Sequence[float]) -> dict[str, Tensor]:
    """Weights by linear name at any sparsity per unit: between two levels, evenly spread output
    rows come from the sparser one.
    """
    ladder = (0.0, *LEVELS)
    assembled = {}
    for unit, sparsity in zip(database.units, sparsities):
        above = min(int(np.searchsorted(ladder, sparsity)), len(LEVELS))
        low = ladder[max(above - 1, 0)]
        share = 0.0 if above == 0 else min(1.0, (sparsity - low) / (ladder[above] - low))
        for linear in unit.linears:
            dense = linear.module.weight.data
            sparser = database.weights[above - 1][linear.name] if above else dense
            denser = database.weights[above - 2][linear.name] if above > 1 else dense
            rows = torch.arange(len(dense), device=dense.device)
            chosen = ((rows + 1) * share).floor() > (rows * share).floor()
            assembled[linear.name] = torch.where(chosen[:, None], sparser, denser)
    return assembled


class Trials:
    """Divergences of assembled models. The encoder's outputs for the best are kept: an offspring
    that moves budget between decoder units needs no second pass of it."""

    def __init__(self, database: Database, fitness: Fitness):
        self._database, self._fitness = database, fitness
        self._best, self._encoder, self._encoded = float("inf"), None, []

    def measure(self, sparsities: Sequence[float]) -> float:
        """Mean KL(dense ‖ assembled) in nats per token."""
        weights = assemble(self._database, sparsities)
        encoder = [
            value
            for unit, value in zip(self._database.units, sparsities)
            if unit.block.startswith("encoder")
        ]
        encoded = self._encoded if encoder == self._encoder else self._fitness.encode(weights)
        found = self._fitness.divergence(weights, encoded)
        if found < self._best:
            self._best, self._encoder, self._encoded = found, encoder, encoded
        return found


def search(
    database: Database,
    fitness: Fitness,
    starts: Mapping[str, Sequence[float]],
    *,
    offspring: int,
    seed: int = 0,
) -> list[Candidate]:
    """Every start and, last, what evolved from the best of them; all of one budget.

    Each offspring moves the same number of weights from one unit's budget to another's; it survives
    when the assembled model diverges less.
    """
    draw, sizes = np.random.default_rng(seed), [unit.weights for unit in database.units]
    measure = Trials(database, fitness).measure
    tried = [Candidate(name, list(values), measure(values)) for name, values in starts.items()]
    best = min(tried, key=lambda one: one.kl)
    for _ in tqdm(range(offspring if len(sizes) > 1 else 0), desc="evolution", unit="candidate"):
        giver, taker = draw.choice(len(sizes), 2, replace=False)
        room = min(
            (LEVELS[-1] - best.sparsities[taker]) * sizes[taker],
            best.sparsities[giver] * sizes[giver],
        )
        moved = max(0.0, min(room, draw.uniform(*MOVES) * min(sizes[giver], sizes[taker])))
        child = list(best.sparsities)
        child[giver] -= moved / sizes[giver]
        child[taker] += moved / sizes[taker]
        best = min(best, Candidate("evolved", child, measure(child)), key=lambda one: one.kl)
    return [*tried, replace(best, name="evolved")]


def by_linear(found: Sequence[Unit], sparsities: Sequence[float]) -> dict[str, float]:
    """Sparsity by linear name."""
    return {
        linear.name: sparsity
        for unit, sparsity in zip(found, sparsities, strict=True)
        for linear in unit.linears
    }


def _lower_hull(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Indices of the corners of the lower convex hull of a curve, left to right (monotone
    chain).
    """
    corners: list[int] = []
    for index in range(len(x)):
        while len(corners) > 1:
            a, b = corners[-2:]
            if (y[b] - y[a]) * (x[index] - x[a]) < (y[index] - y[a]) * (x[b] - x[a]):
                break
            corners.pop()
        corners.append(index)
    return corners


def _spend(chosen: list[float], weights: Sequence[int], left_over: float) -> list[float]:
    """Beyond the last level everything is spread evenly over what is left: a budget above it has no
    measurement to go by.
    """
    if left_over <= 0:
        return chosen
    share = left_over / sum((1 - value) * count for value, count in zip(chosen, weights))
    return [value + share * (1 - value) for value in chosen]
