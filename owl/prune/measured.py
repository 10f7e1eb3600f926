"""The measured allocation of a run: which clips measure, where the database is kept, and which
candidate wins. The search is `owl.prune.search`.

The calibration clips are split: three of four give statistics and measurements, every fourth only
judges. What wins there, among the solved budget, its evolved form and the heuristics, is the
allocation; so it is never worse than uniform or OWL there, as assembled from the database. The
final prune works block by block and uses all clips again, like every other allocation's: its
divergence is another number.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from owl import ROOT
from owl.config.load import Config
from owl.kernels.allocation import fit
from owl.model.whisper import Block, Whisper, prompt_tokens
from owl.prune import search
from owl.prune.calibration_text import Labels, calibration_batches
from owl.prune.fitness import Fitness
from owl.run import cache
from owl.run.files import whole_folder

JUDGE_EVERY = 4  # one calibration clip in so many judges
MEASURING_CLIPS = 24  # at most so many clips measure units, once
# at most so many measure and judge: a further sparsity is to cost no more than one pruning run
SEARCHING_CLIPS, JUDGING_CLIPS = 10, 8
OFFSPRING = 6  # candidates of the evolutionary search; more gained little on held-out clips
DATABASES = ROOT / "runs" / ".databases"


@dataclass(frozen=True)
class Measured:
    """The chosen sparsity by linear name, and how it came about."""

    sparsities: dict[str, float]
    winner: str
    curves: pd.DataFrame  # unit, sparsity, kl (nats per token)
    candidates: pd.DataFrame  # name, kl (on the measuring clips), held_out_kl
    seconds_database: float  # of the process that built it
    seconds_search: float


def allocate(
    config: Config,
    asr: Whisper,
    every: Sequence[Block],
    labels: Labels,
    starts: Mapping[str, Sequence[float]],
    databases: Path = DATABASES,
) -> Measured:
    """Measure, solve, search and judge. `starts`: heuristics' sparsities per block with linears to
    prune. `databases`: where they are kept.
    """
    measuring, judging = labels.hold_out(JUDGE_EVERY)
    database, seconds_database = database_of(config, asr, every, measuring, databases)
    started = time.perf_counter()
    sizes = [unit.weights for unit in database.units]
    named = {
        name: per_unit(database.units, every, values, config.pruning.sparsity)
        for name, values in starts.items()
    }
    named["budget"] = search.solve_budget(database.divergence, sizes, config.pruning.sparsity)
    fitness = fitness_of(config, asr, every, first(measuring, SEARCHING_CLIPS))
    found = search.search(
        database, fitness, named, offspring=OFFSPRING, seed=config.pruning.calibration.seed
    )
    judge = fitness_of(config, asr, every, first(judging, JUDGING_CLIPS))
    judged = [
        judge.divergence(search.assemble(database, candidate.sparsities)) for candidate in found
    ]
    best = found[int(np.argmin(judged))]
    return Measured(
        sparsities=search.by_linear(database.units, best.sparsities),
        winner=best.name,
        curves=curves_of(database),
        candidates=pd.DataFrame(
            {"name": one.name, "kl": one.kl, "held_out_kl": held_out}
            for one, held_out in zip(found, judged)
        ),
        seconds_database=seconds_database,
        seconds_search=time.perf_counter() - started,
    )


def curves_of(database: search.Database) -> pd.DataFrame:
    """What was measured: unit, sparsity, kl (nats per token)."""
    return pd.DataFrame(
        {"unit": unit.name, "sparsity": level, "kl": value}
        for unit, row in zip(database.units, database.divergence)
        for level, value in zip(search.LEVELS, row)
    )


def fitness_of(config: Config, asr: Whisper, every: Sequence[Block], chosen: Labels) -> Fitness:
    """Measured on these clips against the dense model."""
    batches = calibration_batches(config, asr, chosen)
    return Fitness(asr.model, every, batches, len(prompt_tokens(asr.model, chosen.language)))


def first(labels: Labels, count: int) -> Labels:
    return labels.pick(range(min(count, len(labels.clips))))


def per_unit(
    units: Sequence[search.Unit],
    every: Sequence[Block],
    per_block: Sequence[float],
    sparsity: float,
) -> list[float]:
    """A block's sparsity for each of its units; what lies above the database's last level goes to
    the others, so that the budget stays.
    """
    by_block = dict(zip([block.name for block in every if block.linears], per_block, strict=True))
    most = max(search.LEVELS[-1], sparsity)
    return fit(
        [by_block[unit.block] for unit in units], [unit.weights for unit in units], sparsity, most
    )


def database_of(
    config: Config, asr: Whisper, every: Sequence[Block], measuring: Labels, databases: Path
) -> tuple[search.Database, float]:
    """The database of this model, these clips and this solver, and the seconds it took: from
    `databases`, or built and kept there.
    """
    folder = databases / key_of(config, asr.model, every, measuring)
    if not folder.exists():
        started = time.perf_counter()
        fitness = fitness_of(config, asr, every, first(measuring, MEASURING_CLIPS))
        batches = calibration_batches(config, asr, measuring)
        built = search.build(asr.model, every, batches, fitness, method=config.pruning.method)
        with whole_folder(folder, keep=True) as target:
            for level, weights in zip(search.LEVELS, built.weights):
                save_file(weights, target / f"{level}.safetensors")
            facts = {
                "divergence": built.divergence.tolist(),
                "seconds": time.perf_counter() - started,
            }
            (target / "divergence.json").write_text(json.dumps(facts), encoding="utf-8")
    facts = json.loads((folder / "divergence.json").read_text(encoding="utf-8"))
    device = next(asr.model.parameters()).device.type
    weights = [load_file(folder / f"{level}.safetensors", device=device) for level in search.LEVELS]
    return search.Database(search.units(every), np.array(facts["divergence"]), weights), facts[
        "seconds"
    ]


def key_of(config: Config, model, every: Sequence[Block], measuring: Labels) -> str:
    """Of everything a database depends on."""
    names = [linear.name for block in every for linear in block.linears]
    settings = [
        config.pruning.method,
        config.pruning.calibration.windows,
        config.pruning.calibration.padding,
        measuring.language,
        measuring.tokens,
        names,
    ]
    return cache.key(model, measuring.clips, settings, "owl.prune.measured")
