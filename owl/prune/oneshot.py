"""One-shot pruning as a config says it: which of the drivers a pattern leads to, with what they
need prepared.
"""

from collections.abc import Mapping, Sequence

from owl.config.load import Config
from owl.model.whisper import Block, blocks
from owl.prune import structures, weights
from owl.prune.calibration_text import Labels, calibration_batches


def prune(
    config: Config,
    model,
    processor,
    every: Sequence[Block],
    labels: Labels,
    sparsities: Mapping[str, float],
    patterns: str | Mapping[str, str] = "unstructured",
) -> list[weights.PrunedLinear]:
    """Prune `model` in place and say what happened, per linear, or per attention and feed-forward
    part where whole heads and neurons go.

    `sparsities` and, where mixed, `patterns` by linear name; dropping whole layers decides the
    sparsities anew. ValueError for a target that the structures cannot meet.
    """
    settings, batches = config.pruning, calibration_batches(config, model, processor, labels)
    if settings.pattern != "structured":
        return weights.prune(
            model,
            every,
            batches,
            sparsities,
            method=settings.method,
            pattern=patterns,
            bias_refit=settings.bias_refit,
        )
    if settings.structured.structures == ["layers"]:
        sparsities = structures.whole_layers(model, every, batches, settings.sparsity)
        batches = calibration_batches(config, model, processor, labels)
    return structures.narrow(
        model,
        every,
        batches,
        sparsities,
        structures=settings.structured.structures,
        equal_widths=settings.structured.equal_widths,
    )


def current(model, every: Sequence[Block]) -> list[Block]:
    """The blocks as they are after pruning, which may have replaced modules and dropped layers,
    with what `every` targeted in them.
    """
    targeted = {linear.path for block in every for linear in block.linears}
    return [
        Block(
            block.name,
            block.module,
            tuple(linear for linear in block.linears if linear.path in targeted),
        )
        for block in blocks(model)
    ]


def removed_weights(rows: Sequence[weights.PrunedLinear]) -> int:
    """Weights that are zero now, or gone with their head, neuron or layer."""
    return sum(round(row.sparsity * row.weights) for row in rows)
