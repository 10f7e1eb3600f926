"""`make sweep`: run the jobs of a sweep that are not done, N at a time here or on a dask cluster.

Every job is a papermill run in a process of its own (`owl.sweep.job`); what is done is kept, what
failed is listed and runs again next time. The first job of each model goes ahead, then the first of
each other calibration seed: they make what the others share. A dask cluster (SCHEDULER=tcp://…, or
Slurm and Kubernetes through the dask projects) must see this folder under the same path.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from owl import ROOT
from owl.errors import ConfigError
from owl.kernels.records import ALLOCATIONS, SOLVERS
from owl.sweep import grid


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its name, and the last line that it said when it failed, else None."""

    job: str
    problem: str | None


def main(arguments: list[str] | None = None) -> int:
    """0 when every point is there, 1 when some job failed, 2 for a sweep that cannot start, 130
    when interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m owl.sweep.jobs", description=__doc__)
    parser.add_argument("sweep", help="the sweep's JSON file")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time on this machine")
    parser.add_argument("--scheduler", help="a dask scheduler, e.g. tcp://host:8786")
    options = parser.parse_args(arguments)
    try:
        if options.jobs < 1:
            raise ConfigError(f"JOBS={options.jobs}: must be at least 1")
        jobs = grid.jobs_of(options.sweep, grid.load(options.sweep))
        outcomes = run(options.sweep, jobs, options.jobs, options.scheduler)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "error: interrupted; what is done is kept, call make sweep again to go on",
            file=sys.stderr,
        )
        return 130
    failed = [outcome for outcome in outcomes if outcome.problem]
    for outcome in failed:
        print(f"failed: {outcome.job}: {outcome.problem}", file=sys.stderr)
    if failed:
        print(
            f"error: {len(failed)} of {len(jobs)} jobs failed; call make sweep again to run just "
            "those",
            file=sys.stderr,
        )
    return int(bool(failed))


def run(sweep: str, jobs: list[grid.Job], at_once: int, scheduler: str | None) -> list[Outcome]:
    """Run what is missing: leaders first, then what takes longest, so that no core idles at the
    end.
    """
    waiting = [job for job in jobs if job.missing()]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} jobs are done already", file=sys.stderr)
    first = {job.model: job for job in reversed(waiting)}  # makes the dense results
    # make a seed's calibration text
    seeds = {(job.model, job.seed): job for job in reversed(waiting) if job is not first[job.model]}
    seeds = [job for key, job in seeds.items() if key != (job.model, first[job.model].seed)]
    leaders = list(first.values())
    followers = sorted(
        [job for job in waiting if job not in leaders + seeds], key=expected_cost, reverse=True
    )
    outcomes = []
    with tqdm(total=len(waiting), desc="sweep", unit="job") as bar:
        for part in (leaders, seeds, followers):
            finished = (
                on_cluster(sweep, part, scheduler) if scheduler else here(sweep, part, at_once)
            )
            for outcome in finished:
                outcomes.append(outcome)
                bar.update()
                bar.set_postfix_str(outcome.job)
    return outcomes


def expected_cost(job: grid.Job) -> tuple:
    """Larger for what takes longer: a database, all parts, the slow solver, many points."""
    return (
        job.damage or ALLOCATIONS[job.allocation].slow,
        SOLVERS[job.method].slow,
        len(job.sparsities),
    )


def here(sweep: str, jobs: list[grid.Job], at_once: int) -> Iterator[Outcome]:
    """`at_once` processes, or as many as there are jobs, the cores shared among them."""
    at_once = max(1, min(at_once, len(jobs)))
    threads = max(1, (os.cpu_count() or 1) // at_once)
    pool = ThreadPoolExecutor(at_once)
    try:
        for future in as_completed(
            [pool.submit(execute, sweep, job.name, str(job.folder), threads) for job in jobs]
        ):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted sweep starts no more of them


def on_cluster(sweep: str, jobs: list[grid.Job], scheduler: str) -> Iterable[Outcome]:
    """One job at a time on every worker thread of the cluster; a job whose worker dies runs again
    on another (dask gives up after a few).
    """
    try:
        from dask.distributed import Client
        from dask.distributed import as_completed as done
    except ImportError:
        raise ConfigError('SCHEDULER needs dask: pip install "dask[distributed]"') from None
    try:
        client = Client(scheduler, timeout="20s")
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"SCHEDULER={scheduler}: no dask scheduler answers there ({error}); start one with "
            "`dask scheduler`"
        ) from None
    with client:
        names = {}
        for job in jobs:
            future = client.submit(execute, sweep, job.name, str(job.folder), None, pure=False)
            names[future.key] = future, job.name
        for future in done([future for future, _ in names.values()]):
            problem = future.exception()
            yield (
                future.result()
                if problem is None
                else Outcome(names[future.key][1], f"{type(problem).__name__}: {problem}")
            )


def execute(sweep: str, job: str, folder: str, threads: int | None) -> Outcome:
    """Run one job's notebook; its executed copy and its log go to `<folder>/jobs/`."""
    target = Path(folder) / "jobs"
    target.mkdir(parents=True, exist_ok=True)
    environment = (
        os.environ
        | {"PYTHONPATH": str(ROOT)}
        | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    )
    log = target / f"{job}.log"
    command = [
        sys.executable,
        "-m",
        "owl.sweep.job",
        os.path.abspath(sweep),
        job,
        str(target / f"{job}.ipynb"),
        str(os.getpid()),
    ]
    with log.open("w", encoding="utf-8") as stream:
        code = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    if code == 0:
        return Outcome(job, None)
    said = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    reason = said[-1] if said else f"exit code {code}"
    return Outcome(job, f"{reason} (see {os.path.relpath(log, ROOT)} and the notebook beside it)")


if __name__ == "__main__":
    sys.exit(main())
