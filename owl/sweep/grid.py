"""A sweep on paper: which points there are, which job makes them, and what each needs. Running is
`owl.sweep.jobs`, measuring `owl.sweep.point`.

A point is one model × method × allocation × sparsity × calibration seed; a job makes the points of
all sparsities of the rest.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from owl import ROOT
from owl.config import load as configs
from owl.config.load import Config
from owl.config.paths import Text
from owl.config.problems import refusal
from owl.config.schema import ALLOCATIONS, METHODS, UNIQUE, Section, Seed, Sparsity
from owl.errors import ConfigError
from owl.kernels.patterns import SMALLER
from owl.run import cache
from owl.run.resolve import fingerprints

Pair = Annotated[
    list[str], Field(min_length=2, max_length=2, description="must be [method, allocation]")
]
Some = Field(min_length=1, description="must not be empty")


class Repeats(Section):
    """Points that are measured again with other calibration seeds."""

    seeds: Annotated[list[Seed], UNIQUE] = []
    sparsities: Annotated[list[Sparsity], UNIQUE] = []
    pairs: list[Pair] = []


class Grid(Section):
    """A sweep's JSON file. `models` maps a short name to a config file, from the sweep file's
    folder; `seed` is the calibration seed of the grid, `repeats` measures some pairs again with
    other seeds, `baseline` is the pair that the best is compared with; `damage` prunes one part at
    a time with its method; every point is also rounded to each of `bits`, as compact-int8, -int5
    and -int4 hold it, by its calibration clips."""

    models: Annotated[dict[Text, Text], Some]
    methods: Annotated[list[Literal[*METHODS]], UNIQUE, Some]
    allocations: Annotated[list[Literal[*ALLOCATIONS]], UNIQUE, Some]
    sparsities: Annotated[list[Sparsity], UNIQUE, Some]
    seed: Seed = 0
    repeats: Repeats = Repeats()
    baseline: Pair = ["sparsegpt", "owl"]
    damage: bool = True
    bits: Annotated[list[Literal[8, 5, 4]], UNIQUE] = []

    @model_validator(mode="after")
    def pairs_are_in_the_grid(self) -> "Grid":
        for method, allocation in [self.baseline, *self.repeats.pairs]:
            if method not in self.methods or allocation not in self.allocations:
                raise ValueError(
                    f"[{method}, {allocation}] is not in the grid; add it to methods and "
                    "allocations, or name another pair"
                )
        if self.seed in self.repeats.seeds:
            raise ValueError(
                f"repeats.seeds holds {self.seed}, the grid's own seed; name other seeds"
            )
        if len(self.repeats.pairs) > len({tuple(pair) for pair in self.repeats.pairs}):
            raise ValueError("repeats.pairs names a pair twice; name each once")
        for name in self.models:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise ValueError(
                    f"models: '{name}' becomes part of file names; use letters, digits, dots, "
                    "dashes and underscores"
                )
        return self


@dataclass(frozen=True)
class Job:
    """All sparsities of one model, method, allocation and calibration seed; or, for `damage`, one
    part of the model at a time at one sparsity (`owl.sweep.damage`).
    """

    sweep: str
    config: str  # the model's config file
    model: str
    method: str
    allocation: str
    seed: int
    sparsities: tuple[float, ...]
    damage: bool = False
    bits: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        what = "damage" if self.damage else self.allocation
        return f"{self.model}-{self.method}-{what}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return folder_of(self.sweep)

    def config_at(self, sparsity: float) -> Config:
        """The complete config of one point."""
        config = configs.load(
            self.config,
            {"method": self.method, "allocation": self.allocation, "sparsity": sparsity},
        )
        calibration = config.pruning.calibration.model_copy(update={"seed": self.seed})
        return config.model_copy(
            update={"pruning": config.pruning.model_copy(update={"calibration": calibration})}
        )

    def path(self, sparsity: float) -> Path:
        """Where a point's result lies."""
        return self.folder / "points" / f"{self.name}-s{sparsity:g}.json"

    def missing(self) -> list[float]:
        """Sparsities without a result of this very config, input and code."""
        return [
            sparsity
            for sparsity in self.sparsities
            if not (path := self.path(sparsity)).exists()
            or json.loads(path.read_text(encoding="utf-8")).get("key") != self.key_at(sparsity)
        ]

    def key_at(self, sparsity: float) -> str:
        """Key of what a result depends on: its config, the files of its model and datasets, the
        kernels' code.
        """
        config = self.config_at(sparsity)
        module = "owl.sweep.damage" if self.damage else "owl.sweep.point"
        return cache.key(None, [], [config.digest(), fingerprints(config), self.bits], module)


def load(path: str | os.PathLike) -> Grid:
    """The sweep in a JSON file, its model configs as absolute paths. ConfigError with one problem a
    line.
    """
    try:
        grid = Grid.model_validate(configs.read_json(path, "SWEEP=configs/sweeps/default.json"))
    except ValidationError as error:
        raise refusal(error.errors(include_url=False), Grid, path) from None
    folder = Path(os.path.abspath(path)).parent
    found = grid.model_copy(
        update={"models": {name: str(folder / config) for name, config in grid.models.items()}}
    )
    for job in jobs_of(path, found):
        pruning = job.config_at(
            job.sparsities[0]
        ).pruning  # a config that cannot work is refused before anything runs
        if pruning.recovery.method != "none" or pruning.pattern in SMALLER:
            raise ConfigError(
                f"{job.config}: a sweep compares one-shot unstructured or N:M results; set "
                "recovery to none, the pattern to one of these"
            )
    return found


def jobs_of(path: str | os.PathLike, grid: Grid) -> list[Job]:
    """Every job of a sweep: the grid of each model, its repeats, its damage."""
    jobs = []
    for name, config in grid.models.items():
        seeds = [
            (grid.seed, grid.sparsities, [(m, a) for m in grid.methods for a in grid.allocations])
        ]
        seeds += [
            (seed, grid.repeats.sparsities, grid.repeats.pairs)
            for seed in grid.repeats.seeds
            if grid.repeats.sparsities
        ]
        jobs += [
            Job(
                name_of(path),
                config,
                name,
                method,
                allocation,
                seed,
                tuple(sparsities),
                bits=tuple(grid.bits),
            )
            for seed, sparsities, pairs in seeds
            for method, allocation in pairs
        ]
        harmful = [sparsity for sparsity in grid.sparsities if sparsity > 0]
        if grid.damage and harmful:
            sparsity = 0.5 if 0.5 in harmful else harmful[0]
            one = (grid.baseline[0], "uniform", grid.seed, (sparsity,))
            jobs.append(Job(name_of(path), config, name, *one, damage=True))
    return jobs


def name_of(path: str | os.PathLike) -> str:
    """A sweep is named after its file."""
    return Path(path).stem


def folder_of(sweep: str) -> Path:
    """Where a sweep's dense results, points and executed notebooks lie."""
    return ROOT / "runs" / f"sweep-{sweep}"
