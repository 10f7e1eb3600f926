"""A sweep's points as tables: one row per point and dataset, and what is read off them. Numbers
only; figures are in `owl.plots.grid`.

One-shot points only: a recovered model is another kind of result and never stands in these rows.
"""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from owl.errors import ConfigError
from owl.evaluate.compare import RATES
from owl.kernels.intervals import paired_difference
from owl.sweep.grid import Grid, Job, folder_of, jobs_of, name_of

DAMAGE = ("model", "method", "sparsity", "of", "part", "weights", "share", "removed")
DAMAGE += ("kl", "low", "high")


def load(path: str, grid: Grid) -> tuple[list[dict], list[dict], list[str]]:
    """(every point of the sweep that is there, the dense results, names of points that are
    missing). ConfigError when none is there.
    """
    folder, points, missing = folder_of(name_of(path)), [], []
    for job in jobs_of(path, grid):
        gone = set(job.missing())
        missing += [f"{job.name}-s{sparsity:g}" for sparsity in job.sparsities if sparsity in gone]
        if not job.damage:
            points += _read(job, gone)
    if not points:
        raise ConfigError(f"the sweep {path} has no results yet; run make sweep SWEEP={path} first")
    dense = [
        json.loads(found.read_text(encoding="utf-8"))
        for found in sorted(folder.glob("dense-*.json"))
    ]
    return points, dense, missing


def damage(path: str, grid: Grid) -> pd.DataFrame:
    """What pruning one part at a time did: a row per model and part, `of` "kind" or "block", with
    kl and its interval (nats per token), `per_million` (kl per million removed weights) and, for
    blocks, the outlier ratio. Without rows where it was not measured.
    """
    found = [one for job in jobs_of(path, grid) if job.damage for one in _read(job, job.missing())]
    rows = (
        {**{key: one[key] for key in ("model", "method", "sparsity")}, **part}
        for one in found
        for part in one["parts"]
    )
    table = pd.DataFrame(rows, columns=[*DAMAGE, "outlier_ratio"])
    table.insert(len(DAMAGE), "per_million", 1e6 * table.kl / table.removed)
    return table


def rows(points: list[dict]) -> pd.DataFrame:
    """One row per point and dataset."""
    kept = ("model", "method", "allocation", "seed", "sparsity", "sparsity_prunable")
    kept += ("seconds_prune", "seconds_allocation", "peak_rss_bytes")
    counts = ("insertions", "insertions_looping", "repeats", "cap_hits")
    return pd.DataFrame(
        {
            **{key: point[key] for key in kept},
            **_scores(one),
            # how much of the rate is insertions by clips that loop
            "looping": one["insertions_looping"] / max(1, sum(one["words"])),
            **{key: one[key] for key in counts},
        }
        for point in points
        for one in point["datasets"]
    )


def rounded(points: list[dict]) -> pd.DataFrame:
    """What each point is in few bits: one row per point, `bits` and dataset, with `bytes` of the
    tensors and their `ratio` to the dense model's in float16.
    """
    kept = ("model", "method", "allocation", "seed", "sparsity")
    return pd.DataFrame(
        {
            **{key: point[key] for key in kept},
            "bits": file["bits"],
            "bytes": file["bytes"],
            "ratio": file["bytes"] / point["dense_bytes"],
            **_scores(one),
        }
        for point in points
        for file in point["rounded"]
        for one in file["datasets"]
    )


def _scores(one: dict) -> dict:
    """The rate that counts, by words or by characters, and the divergence, with intervals."""
    rate = RATES[one["unit"]]
    return {
        "dataset": one["name"],
        "wer": one[rate],
        "low": one[f"{rate}_interval"][0],
        "high": one[f"{rate}_interval"][1],
        "kl": one["kl"]["kl"],
        "kl_low": one["kl"]["low"],
        "kl_high": one["kl"]["high"],
    }


def wer_grid(table: pd.DataFrame, value: str = "wer") -> pd.DataFrame:
    """`value` with one row per method and allocation, one column per dataset and sparsity."""
    columns = ["model", "dataset", "sparsity"]
    found = table.pivot_table(
        index=["method", "allocation"], columns=columns, values=value, sort=False
    )
    pages = list(dict.fromkeys(zip(table.model, table.dataset)))
    return found[sorted(found.columns, key=lambda column: (pages.index(column[:2]), column[2]))]


def over_seeds(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Points that were measured with several calibration seeds: mean, lowest, highest of
    `column`.
    """
    keys = ["model", "dataset", "method", "allocation", "sparsity"]
    found = (
        table.groupby(keys, sort=False)[column].agg(["count", "mean", "min", "max"]).reset_index()
    )
    return found[found["count"] > 1]


def layer_errors(points: list[dict], seed: int) -> pd.DataFrame:
    """Mean relative output error of the linears, one row per method and allocation, one column per
    model and sparsity.
    """
    table = pd.DataFrame(
        {
            **{key: point[key] for key in ("model", "method", "allocation", "sparsity")},
            "error": np.mean([row["error"] for row in point["layers"]]),
        }
        for point in points
        if point["seed"] == seed
    )
    return table.pivot_table(
        index=["method", "allocation"], columns=["model", "sparsity"], values="error", sort=False
    )


def costs(points: list[dict]) -> pd.DataFrame:
    """Seconds and peak memory per model, method and allocation: medians over sparsities and seeds,
    the database on its own.
    """
    table = pd.DataFrame(
        {
            **{key: point[key] for key in ("model", "method", "allocation")},
            "prune (s)": point["seconds_prune"],
            "allocation (s)": point["seconds_allocation"],
            "database (s)": point["measured"]["seconds_database"] if point["measured"] else 0.0,
            "peak (GB)": point["peak_rss_bytes"] / 1e9,
        }
        for point in points
    )
    found = table.groupby(["model", "method", "allocation"], sort=False).median().reset_index()
    for name in ("database", "allocation"):
        found[f"{name} / prune"] = found[f"{name} (s)"] / found["prune (s)"]
    return found


def against(
    points: list[dict], first: tuple[str, str], second: tuple[str, str], seed: int
) -> pd.DataFrame:
    """Paired differences first − second (each a method and an allocation) at every sparsity: WER
    and KL with 95 % intervals.
    """
    found = []
    for point in points:
        if (point["method"], point["allocation"], point["seed"]) != (*first, seed):
            continue
        same = {key: point[key] for key in ("model", "sparsity")} | {
            "method": second[0],
            "allocation": second[1],
            "seed": seed,
        }
        other = next(
            (one for one in points if all(one[key] == value for key, value in same.items())), None
        )
        for index, one in enumerate(point["datasets"] if other else []):
            found.append(
                {
                    "model": point["model"],
                    "dataset": one["name"],
                    "sparsity": point["sparsity"],
                    **_paired(one, other["datasets"][index]),
                }
            )
    return pd.DataFrame(found)


def best(table: pd.DataFrame, seed: int) -> tuple[str, str]:
    """The method and allocation with the lowest KL, as the mean of log KL over datasets and the
    sparsities that all of them have.
    """
    logs = table[table.seed == seed].assign(log=lambda rows: np.log(rows.kl.clip(lower=1e-9)))
    common = wer_grid(logs, "log").dropna(axis=1)
    if common.empty:
        raise ConfigError(
            "no sparsity was measured with every method and allocation; call make sweep again to "
            "make the missing points"
        )
    return common.mean(axis=1).idxmin()


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """`points.csv` with every row, and `wer.csv`, `wer.tex`, `kl.csv`, `kl.tex` with the grids."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "points.csv", index=False, float_format="%.6g")
    for value, digits in (("wer", 1), ("kl", 3)):
        shown = wer_grid(table, value)
        shown.to_csv(folder / f"{value}.csv", float_format="%.6g")
        (folder / f"{value}.tex").write_text(
            latex(100 * shown if value == "wer" else shown, digits), encoding="utf-8"
        )
    return sorted(folder.glob("*.csv")) + sorted(folder.glob("*.tex"))


def latex(grid: pd.DataFrame, digits: int) -> str:
    """A booktabs table, the lowest value of every column in bold."""
    heads = [(" ".join(column[:-1]), f"{column[-1]:g}") for column in grid.columns]
    shown = grid.set_axis(pd.MultiIndex.from_tuples(heads), axis=1)
    styled = shown.style.format(f"{{:.{digits}f}}", na_rep="")
    styled.highlight_min(props="textbf:--rwrap;")
    for axis in (0, 1):
        styled.format_index(escape="latex", axis=axis)
    return styled.to_latex(
        hrules=True, sparse_index=False, multicol_align="c", column_format="ll" + "r" * len(heads)
    )


def _read(job: Job, missing: Collection[float]) -> list[dict]:
    """The results of a job but those that are missing."""
    return [
        json.loads(job.path(sparsity).read_text(encoding="utf-8"))
        for sparsity in job.sparsities
        if sparsity not in missing
    ]


def _paired(one: dict, other: dict) -> dict:
    words = np.array(one["words"])
    wer = paired_difference(
        np.array(other["errors"]), np.array(one["errors"]), words, one["speakers"]
    )
    tokens = np.array([row["tokens"] for row in one["kl_clips"]])
    kl = paired_difference(
        *(np.array([row["kl"] for row in side["kl_clips"]]) for side in (other, one)), tokens
    )
    return dict(zip(("wer", "wer_low", "wer_high", "kl", "kl_low", "kl_high"), (*wer, *kl)))
