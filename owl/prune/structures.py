"""Structured pruning of a whole Whisper, in place: attention heads, feed-forward neurons or whole
layers go, and matrices become smaller.

One block after the other, each on the inputs that the smaller blocks before it produce. How many
weights a block loses is decided before (`owl.kernels.allocation`), which groups go and what the
kept columns become by `owl.kernels.structured`, and how a layer is made of them by
`owl.model.shapes`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from owl.kernels.gram import centred, energy
from owl.kernels.structured import (
    columns_of,
    fit_budgets,
    influence,
    layers_to_drop,
    mix,
    refit,
    removal_path,
)
from owl.model.shapes import Part, align, drop_layers, parts, remember, silence
from owl.model.whisper import Block
from owl.prune.calibration import Batch, Statistics, walk
from owl.prune.weights import PrunedLinear

STEPS = 128  # looks at the saliencies on the way from all neurons to one
WHOLE = 1 - 1e-9  # a sparsity from here on means the whole block


@dataclass(frozen=True)
class NarrowedPart(PrunedLinear):
    """What happened to an attention or a feed-forward part, named by the linear that was refit;
    `weights` and `sparsity` (share removed) are of all its linears. `error` is that linear's,
    without what its new bias makes up for; 1 for a dropped layer."""

    structure: str  # "heads" or "neurons"
    width_before: int  # heads or neurons
    width: int


def narrow(
    model,
    every: Sequence[Block],
    batches: Sequence[Batch],
    sparsities: Mapping[str, float],
    *,
    structures: Sequence[str],
    equal_widths: bool = False,
    damping: float = 0.01,
) -> list[NarrowedPart]:
    """Remove `structures` ("heads", "neurons") until each block of `every` has lost its share of
    weights: `sparsities` by linear name.

    A share of 1 drops the layer. What a block cannot lose goes to the others; `equal_widths` gives
    all blocks of a stack their mean share. A part is touched only if all its linears are targeted.
    The model's config then tells its shapes. ValueError for a target out of reach.
    """
    dropped = _dropped(every, sparsities)
    budgets = _budgets(
        [block for block in every if block.name not in dropped],
        sparsities,
        structures,
        equal_widths,
    )
    rows, listeners = [], {}
    for block, statistics in walk(
        model, every, batches, gram=True, modified=True, description="narrow"
    ):
        if block.name in dropped:
            silence(block.module)
            kept = {part.name: [] for part in parts(block.module)}
        else:
            kept = _kept(block, statistics, budgets[block.name], structures, damping)
        rows += [
            _cut(block, part, kept.get(part.name), _target(block, sparsities), statistics, damping)
            for part in _whole(block)
        ]
        if "encoder_attn" in kept:
            listeners[block.name] = kept["encoder_attn"]
    align(model, listeners)
    drop_layers(model, dropped)
    remember(model)
    return rows


def whole_layers(
    model, every: Sequence[Block], batches: Sequence[Batch], sparsity: float
) -> dict[str, float]:
    """Sparsity by linear name: 1 in the layers that turn their states least, 0 elsewhere, over all
    nearest to `sparsity`.

    The states in `batches` are consumed.
    """
    values, states = [], {side: _states(batches, side) for side in (False, True)}
    for block, _ in walk(
        model, every, batches, gram=False, modified=False, description="influence"
    ):
        after = _states(batches, block.in_decoder)
        values.append(influence(states[block.in_decoder], after))
        states[block.in_decoder] = after
    whole = [
        index
        for index, block in enumerate(every)
        if len(block.linears) == sum(len(part.linears) for part in parts(block.module))
    ]
    counts = [every[index].weight_count for index in whole]
    budget = sparsity * sum(block.weight_count for block in every)
    chosen = layers_to_drop(
        [values[index] for index in whole],
        counts,
        [every[index].name.split(".")[0] for index in whole],
        budget,
    )
    gone = {every[whole[index]].name for index in chosen}
    return {linear.name: float(block.name in gone) for block in every for linear in block.linears}


def _states(batches: Sequence[Batch], in_decoder: bool) -> list[Tensor]:
    """(counted rows, d) per batch of what the next block of that side would see."""
    return [
        batch.text[batch.text_rows] if in_decoder else batch.audio[batch.audio_rows]
        for batch in batches
    ]


def _target(block: Block, sparsities: Mapping[str, float]) -> float:
    """The block's share of weights to lose."""
    return sum(
        sparsities[linear.name] * linear.module.weight.numel() for linear in block.linears
    ) / max(1, block.weight_count)


def _dropped(every: Sequence[Block], sparsities: Mapping[str, float]) -> set[str]:
    """Names of the blocks that are to lose everything. ValueError for a whole stack, or a block of
    which only parts are targeted.
    """
    gone = [block for block in every if block.linears and _target(block, sparsities) >= WHOLE]
    for block in gone:
        if len(block.linears) < sum(len(part.linears) for part in parts(block.module)):
            raise ValueError(
                f"{block.name} is to lose all its targeted weights, but not all its linears are "
                "targeted; target them or prune less"
            )
        if all(other in gone for other in every if other.in_decoder == block.in_decoder):
            raise ValueError(
                f"all blocks of the {block.name.split('.')[0]} are to be dropped; lower the "
                "sparsity so that one stays"
            )
    return {block.name for block in gone}


def _whole(block: Block) -> list[Part]:
    """The parts of which every linear is targeted."""
    targeted = {id(linear.module) for linear in block.linears}
    return [
        part
        for part in parts(block.module)
        if all(id(linear) in targeted for linear in part.linears)
    ]


def _removable(block: Block, structures: Sequence[str]) -> list[Part]:
    return [part for part in _whole(block) if part.structure in structures and part.width > 1]


def _budgets(
    blocks: Sequence[Block], sparsities: Mapping[str, float], structures: Sequence[str], equal: bool
) -> dict[str, float]:
    """Weights to lose by block name, none above what the block can lose."""
    wanted = {block.name: _target(block, sparsities) * block.weight_count for block in blocks}
    most = {
        block.name: sum(
            (part.width - 1) * part.group_weights for part in _removable(block, structures)
        )
        for block in blocks
    }
    for side in (False, True) if equal else ():
        names = [block.name for block in blocks if block.in_decoder == side]
        if len({most[name] for name in names}) > 1:
            raise ValueError(
                "equal_widths needs the blocks of a stack targeted alike; change target_modules "
                "and excluded_modules, or drop it"
            )
        wanted |= dict.fromkeys(names, sum(wanted[name] for name in names) / max(1, len(names)))
    return dict(zip(wanted, fit_budgets(list(wanted.values()), list(most.values()))))


def _kept(
    block: Block,
    statistics: Mapping[str, Statistics],
    budget: float,
    structures: Sequence[str],
    damping: float,
) -> dict[str, list[int]]:
    """The groups to keep by name of the parts that may lose some."""
    found = _removable(block, structures) if budget > 0 else []
    paths = [
        removal_path(
            *_problem(block, part, statistics)[:2],
            group=part.size,
            chunk=max(1, part.width // STEPS),
            damping=damping,
        )
        for part in found
    ]
    counts = (
        mix([path.errors for path in paths], [part.group_weights for part in found], budget)
        if found
        else []
    )
    gone = [set(path.order[:count].tolist()) for path, count in zip(paths, counts)]
    return {part.name: sorted({*range(part.width)} - groups) for part, groups in zip(found, gone)}


def _cut(
    block: Block,
    part: Part,
    kept: list[int] | None,
    target: float,
    statistics: Mapping[str, Statistics],
    damping: float,
) -> NarrowedPart:
    """Make the part smaller, refit its output linear and bias to stand in for all groups, and say
    what that did.

    `kept` None: nothing may go; []: the layer is about to be dropped.
    """
    started, width, count = (
        time.perf_counter(),
        part.width,
        sum(linear.weight.numel() for linear in part.linears),
    )
    left, error = width if kept is None else len(kept), float(kept == [])
    if 0 < left < width:
        weight, gram, mean = _problem(block, part, statistics)
        index = columns_of(torch.tensor(kept, device=weight.device), part.size)
        refitted = refit(weight, gram, index, damping=damping)
        change = weight.index_add(1, index, -refitted)
        error = energy(change, gram) / max(
            energy(weight, statistics[f"{block.name}.{part.path}"].gram.to(gram)), 1e-300
        )
        part.keep(torch.tensor(kept))
        part.output.weight.data.copy_(refitted)
        part.output.bias.data += (change @ mean).to(part.output.bias)
    seen = statistics[f"{block.name}.{part.path}"]
    return NarrowedPart(
        linear=f"{block.name}.{part.path}",
        block=block.name,
        kind=part.path,
        weights=count,
        token_rows=seen.rows,
        inputs=len(seen.total),
        target_sparsity=target,
        sparsity=1 - left / width,
        error=error,
        held_out_error=None,
        seconds=time.perf_counter() - started,
        structure=part.structure,
        width_before=width,
        width=left,
    )


def _problem(
    block: Block, part: Part, statistics: Mapping[str, Statistics]
) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, centred Gram matrix, mean) of the linear that loses inputs and of these inputs, in
    float64, on the CPU for MPS.
    """
    seen = statistics[f"{block.name}.{part.path}"]
    weight = part.output.weight.data.to(
        "cpu" if seen.gram.device.type == "mps" else seen.gram.device, torch.float64
    )
    total = seen.total.to(weight)
    return weight, centred(seen.gram.to(weight), total, seen.rows), total / max(1, seen.rows)
