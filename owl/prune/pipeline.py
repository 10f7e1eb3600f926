"""From a config to a pruned model in three steps, the same for a report and for a point of a sweep:
what is targeted, what each linear loses, and the pruning itself.

The outlier ratios that an allocation goes by come from a walk through the dense model
(`owl.prune.guides`).
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from owl.config.load import Config
from owl.errors import ModelError
from owl.model import whisper
from owl.model.whisper import Block, Whisper, blocks
from owl.prune import guides, lowrank, measured, sensitivity, structures, weights
from owl.prune.calibration_text import Labels, calibration_batches
from owl.prune.weights import PrunedLinear

# heuristics that the measured allocation starts from
CANDIDATES = ("uniform", "owl", "dlp", "alpha")


@dataclass(frozen=True)
class Plan:
    """Sparsity by linear name, the pattern of all or of each, how they were measured, if they were,
    the seconds that it took, a database of measurements left out, and notes for the user.
    """

    sparsities: dict[str, float]
    patterns: str | dict[str, str]
    measured: measured.Measured | None
    seconds: float
    notes: list[str]

    def facts(self) -> dict:
        """As artefacts hold it: JSON types."""
        found = self.measured and {
            "winner": self.measured.winner,
            "candidates": self.measured.candidates.to_dict("records"),
            "curves": self.measured.curves.to_dict("records"),
            "seconds_database": self.measured.seconds_database,
            "seconds_search": self.measured.seconds_search,
        }
        return {"sparsities": self.sparsities, "patterns": self.patterns, "measured": found}


@dataclass(frozen=True)
class Pruned:
    """What one pruning did: a row per linear or part, the blocks as they are now with what is
    targeted in them, and its seconds, statistics included.
    """

    rows: list[PrunedLinear]
    blocks: list[Block]
    seconds: float

    @property
    def removed(self) -> int:
        """Weights that are zero now, or gone."""
        return removed_weights(self.rows)

    def records(self) -> list[dict]:
        """The rows with JSON types."""
        return [asdict(row) for row in self.rows]


def targets(config: Config, model) -> tuple[list[Block], list[str]]:
    """(all blocks with the linears that the config targets, notes on exclusions without effect).
    ModelError for a model whose linears are of low rank already.
    """
    pruning = config.pruning
    if hasattr(model.config, "owl_ranks"):
        raise ModelError(
            "the model has linears of low rank already (owl_ranks in its config.json), of which "
            "nothing more can be removed; prune the dense model that it was made from"
        )
    return whisper.select(whisper.blocks(model), pruning.target_modules, pruning.excluded_modules)


def plan(
    config: Config, asr: Whisper, every: Sequence[Block], labels: Labels, guide: guides.Guides
) -> Plan:
    """What each linear of the dense `model` is to lose, by the config's allocation; its notes are
    warned of.
    """
    started, found = time.perf_counter(), None
    if config.pruning.allocation == "measured":
        starts = {name: guide.sparsities(name, config.pruning.sparsity) for name in CANDIDATES}
        found = measured.allocate(config, asr, every, labels, starts)
        sparsities = found.sparsities
    elif config.pruning.allocation == "fisher":
        sparsities = sensitivity.allocate(config, asr, every, labels)
    else:
        sparsities = guides.chosen_sparsities(config, guide)
    seconds = found.seconds_search if found else time.perf_counter() - started
    notes = guides.chosen_notes(config, guide)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return Plan(sparsities, guides.chosen_patterns(config, sparsities), found, seconds, notes)


def prune(
    config: Config,
    asr: Whisper,
    labels: Labels,
    sparsities: Mapping[str, float],
    patterns: str | Mapping[str, str],
) -> Pruned:
    """Prune `model` in place, block after block, each on the inputs that the pruned ones before it
    make: give a copy of what is needed again.
    """
    every, _ = targets(config, asr.model)
    started = time.perf_counter()
    rows = prune_targets(config, asr, every, labels, sparsities, patterns)
    seconds = time.perf_counter() - started
    return Pruned(rows, current(asr.model, every), seconds)


def prune_targets(
    config: Config,
    asr: Whisper,
    every: Sequence[Block],
    labels: Labels,
    sparsities: Mapping[str, float],
    patterns: str | Mapping[str, str] = "unstructured",
) -> list[PrunedLinear]:
    """Prune `model` in place and say what happened, per linear, or per attention and feed-forward
    part where whole heads and neurons go.

    `sparsities` and, where mixed, `patterns` by linear name; dropping whole layers decides the
    sparsities anew. ValueError for a target that the structures cannot meet.
    """
    settings = config.pruning
    if settings.pattern != "structured":
        learned, kept_back = labels.hold_out()
        batches = calibration_batches(config, asr, learned)
        # a single clip is in both parts: then nothing was held out
        held_out = calibration_batches(config, asr, kept_back) if len(labels.clips) > 1 else ()
        if settings.pattern == "lowrank":
            return lowrank.thin(asr.model, every, batches, sparsities, held_out)
        return weights.prune(
            asr.model,
            every,
            batches,
            sparsities,
            method=settings.method,
            pattern=patterns,
            held_out=held_out,
            bias_refit=settings.bias_refit,
        )
    batches = calibration_batches(config, asr, labels)
    if settings.structured.structures == ["layers"]:
        sparsities = structures.whole_layers(asr.model, every, batches, settings.sparsity)
        batches = calibration_batches(config, asr, labels)
    return structures.narrow(
        asr.model,
        every,
        batches,
        sparsities,
        structures=settings.structured.structures,
        equal_widths=settings.structured.equal_widths,
    )


def current(model, every: Sequence[Block]) -> list[Block]:
    """The blocks as they are after pruning, which may have replaced modules, made two linears of
    one and dropped layers, with what `every` targeted in them.
    """
    targeted = {linear.path for block in every for linear in block.linears}
    return [
        Block(
            block.name,
            block.module,
            tuple(one for one in block.linears if one.path.removesuffix(".up") in targeted),
        )
        for block in blocks(model)
    ]


def removed_weights(rows: Sequence[PrunedLinear]) -> int:
    """Weights that are zero now, or gone: with their head, neuron or layer, or for a low rank."""
    return sum(round(row.sparsity * row.weights) for row in rows)
