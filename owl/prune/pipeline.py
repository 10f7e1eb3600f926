"""From a config to a pruned model in three steps, the same for a report and for a point of a sweep:
what is targeted, what each linear loses, and the pruning itself.

The outlier ratios that an allocation goes by come from a walk through the dense model
(`owl.prune.guides`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from owl.config.load import Config
from owl.model import whisper
from owl.model.whisper import Block
from owl.prune import guides, measured, oneshot
from owl.prune.calibration_text import Labels
from owl.prune.weights import PrunedLinear

# heuristics that the measured allocation starts from
CANDIDATES = ("uniform", "owl", "dlp", "alpha")


@dataclass(frozen=True)
class Plan:
    """Sparsity by linear name, the pattern of all or of each, how they were measured, if they were,
    and the seconds that it took, a database of measurements left out.
    """

    sparsities: dict[str, float]
    patterns: str | dict[str, str]
    measured: measured.Measured | None
    seconds: float

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
        return oneshot.removed_weights(self.rows)

    def records(self) -> list[dict]:
        """The rows with JSON types."""
        return [asdict(row) for row in self.rows]


def targets(config: Config, model) -> tuple[list[Block], list[str]]:
    """(all blocks with the linears that the config targets, notes on exclusions without effect)."""
    pruning = config.pruning
    return whisper.select(whisper.blocks(model), pruning.target_modules, pruning.excluded_modules)


def plan(
    config: Config, model, processor, every: Sequence[Block], labels: Labels, guide: guides.Guides
) -> Plan:
    """What each linear of the dense `model` is to lose, by the config's allocation."""
    started, found = time.perf_counter(), None
    if config.pruning.allocation == "measured":
        starts = {name: guide.sparsities(name, config.pruning.sparsity) for name in CANDIDATES}
        found = measured.allocate(config, model, processor, every, labels, starts)
    sparsities = found.sparsities if found else guides.chosen_sparsities(config, guide)
    seconds = found.seconds_search if found else time.perf_counter() - started
    return Plan(sparsities, guides.chosen_patterns(config, sparsities), found, seconds)


def prune(
    config: Config,
    model,
    processor,
    labels: Labels,
    sparsities: Mapping[str, float],
    patterns: str | Mapping[str, str],
) -> Pruned:
    """Prune `model` in place, block after block, each on the inputs that the pruned ones before it
    make: give a copy of what is needed again.
    """
    every, _ = targets(config, model)
    started = time.perf_counter()
    rows = oneshot.prune(config, model, processor, every, labels, sparsities, patterns)
    seconds = time.perf_counter() - started
    return Pruned(rows, oneshot.current(model, every), seconds)
