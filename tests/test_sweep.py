"""A sweep on a tiny Whisper: points against pruning and scoring by hand; done jobs are kept, failed
ones listed and run again.

The cluster test needs dask (requirements-cluster.txt): two real workers, one killed while its job
runs.
"""

import contextlib
import copy
import json
import os
import shutil
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

from owl import ROOT
from owl.errors import ConfigError
from owl.evaluate import divergence
from owl.prune import pipeline
from owl.sweep import damage, grid, jobs, point, tables
from tests import tiny

SPARSITIES = [0.5, 0.7]


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """Two solvers and two allocations on a tiny model with eight noise clips; results below
    `tmp_path`.
    """
    tiny.save(tmp_path)
    config = {
        "model": {"name": str(tmp_path / "model")},
        "pruning": {
            "calibration": {
                "dataset": {"name": "c", "path": str(tmp_path / "calibration")},
                "samples": 8,
                "labels": "reference",
            }
        },
        "evaluation": {
            "datasets": [{"name": "e", "path": str(tmp_path / "evaluation")}],
            "max_new_tokens": 6,
        },
    }
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    wanted = {
        "models": {"tiny": "tiny.json"},
        "methods": ["wanda", "sparsegpt"],
        "allocations": ["uniform", "owl"],
        "sparsities": SPARSITIES,
        "damage": False,
    }
    path = tmp_path / "small.json"
    path.write_text(json.dumps(wanted))
    monkeypatch.setattr(grid, "ROOT", tmp_path)
    return path


def jobs_of(path):
    return grid.jobs_of(path, grid.load(path))


def measured(path):
    for job in jobs_of(path):
        shared = point.ready(job)
        for sparsity in job.missing():
            point.measure(job, shared, sparsity)


def test_jobs_cover_the_grid_and_the_repeats(sweep_file):
    raw = json.loads(sweep_file.read_text()) | {
        "repeats": {"seeds": [1, 2], "sparsities": [0.7], "pairs": [["wanda", "owl"]]}
    }
    sweep_file.write_text(json.dumps(raw))
    names = [job.name for job in jobs_of(sweep_file)]
    assert names[:4] == [
        f"tiny-{method}-{allocation}-seed0"
        for method in ("wanda", "sparsegpt")
        for allocation in ("uniform", "owl")
    ]
    assert names[4:] == ["tiny-wanda-owl-seed1", "tiny-wanda-owl-seed2"]
    assert jobs_of(sweep_file)[-1].config_at(0.7).pruning.calibration.seed == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"methods": ["wonder"]}, "'wonder' is not known"),
        ({"sparsities": []}, "must not be empty"),
        ({"baseline": ["alps", "owl"]}, "not in the grid"),
        ({"method": ["wanda"]}, "unknown key"),
        ({"models": {"tiny": "gone.json"}}, "no such config file"),
        ({"models": {"a/b": "tiny.json"}}, "becomes part of file names"),
        ({"repeats": {"seeds": [0], "sparsities": [0.5]}}, "the grid's own seed"),
        (
            {
                "repeats": {"seeds": [1], "pairs": [["wanda", "owl"], ["wanda", "owl"]]},
                "baseline": ["wanda", "owl"],
            },
            "names a pair twice",
        ),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_with_the_fix(sweep_file, change, words):
    sweep_file.write_text(json.dumps(json.loads(sweep_file.read_text()) | change))
    with pytest.raises(ConfigError, match=words):
        grid.load(sweep_file)


@pytest.mark.parametrize("change", [{"recovery": "blockwise"}, {"pruning_pattern": "structured"}])
def test_a_config_that_a_sweep_cannot_compare_is_refused(sweep_file, change):
    raw = json.loads((sweep_file.parent / "tiny.json").read_text())
    raw["pruning"] |= change
    (sweep_file.parent / "tiny.json").write_text(json.dumps(raw))
    wanted = json.loads(sweep_file.read_text()) | {"methods": ["sparsegpt"]}
    sweep_file.write_text(json.dumps(wanted))
    with pytest.raises(ConfigError, match="a sweep compares one-shot"):
        grid.load(sweep_file)


@pytest.mark.slow
def test_other_weights_make_a_point_anew(sweep_file):
    job = jobs_of(sweep_file)[0]
    point.measure(job, point.ready(job), 0.5)
    assert job.missing() == [0.7]
    weights = sweep_file.parent / "model" / "model.safetensors"
    weights.touch()
    assert job.missing() == SPARSITIES


@pytest.fixture
def damage_job(sweep_file):
    """Of the same sweep, "damage" left at its default."""
    raw = json.loads(sweep_file.read_text())
    del raw["damage"]
    sweep_file.write_text(json.dumps(raw))
    return jobs_of(sweep_file)[-1]


def test_damage_is_one_more_job_of_each_model_at_half_or_the_first_sparsity(damage_job, sweep_file):
    assert damage_job.name == "tiny-sparsegpt-damage-seed0" and damage_job.sparsities == (0.5,)
    assert len(jobs_of(sweep_file)) == 5
    raw = json.loads(sweep_file.read_text())
    sweep_file.write_text(json.dumps(raw | {"sparsities": [0.7, 0.3], "damage": True}))
    assert jobs_of(sweep_file)[-1].sparsities == (0.7,)
    sweep_file.write_text(json.dumps(raw | {"damage": "yes, please"}))
    with pytest.raises(ConfigError, match="damage"):
        grid.load(sweep_file)


@pytest.mark.filterwarnings("ignore:.*singular Gram matrix")
def test_damage_of_a_part_is_that_of_pruning_it_and_leaving_the_rest_and_is_kept(
    damage_job, sweep_file
):
    """Against `pipeline.prune` on a copy of its own, with sparsity 0 for all other linears."""
    shared = point.ready(damage_job)
    dense = copy.deepcopy(shared.dense.model.state_dict())
    parts = {one["part"]: one for one in damage.measure(damage_job, shared, 0.5)["parts"]}
    assert not damage_job.missing()
    assert list(parts) == [
        "encoder self-attention",
        "encoder feed-forward",
        "decoder self-attention",
        "decoder cross-attention",
        "decoder feed-forward",
        *(block.name for block in shared.every),
    ]
    linears = {one.name: one for block in shared.every for one in block.linears}
    own = {
        "decoder cross-attention": lambda name: ".encoder_attn." in name,
        "encoder feed-forward": lambda name: name.startswith("encoder") and ".fc" in name,
        "decoder.1": lambda name: name.startswith("decoder.1."),
        "encoder.0": lambda name: name.startswith("encoder.0."),
    }
    config = damage_job.config_at(0.5)
    for part, chosen in own.items():
        asr = shared.dense._replace(model=copy.deepcopy(shared.dense.model))
        wanted = {name: 0.5 if chosen(name) else 0.0 for name in linears}
        by_hand = pipeline.prune(config, asr, shared.labels, wanted, "unstructured")
        rows = [
            row for one in shared.heard for row in one.teacher.divergence(divergence.predictor(asr))
        ]
        kl = sum(row["kl"] for row in rows) / sum(row["tokens"] for row in rows)
        assert kl > 1e-6 and parts[part]["kl"] == pytest.approx(kl, rel=1e-4), part
        assert parts[part]["removed"] == by_hand.removed
        assert parts[part]["weights"] == sum(
            one.module.weight.numel() for name, one in linears.items() if chosen(name)
        )
    after = shared.dense.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in dense.items())


@pytest.mark.filterwarnings("ignore:.*singular Gram matrix")
def test_kinds_and_blocks_each_hold_every_prunable_weight_once(damage_job, sweep_file):
    wanted = grid.load(sweep_file)
    assert tables.damage(str(sweep_file), wanted).empty
    shared = point.ready(damage_job)
    damage.measure(damage_job, shared, 0.5)
    table = tables.damage(str(sweep_file), wanted)
    assert list(table.groupby("of").share.sum()) == pytest.approx([1, 1])
    assert np.allclose(table.per_million * table.removed / 1e6, table.kl)
    assert (table.low <= table.kl).all() and (table.kl <= table.high).all()
    ratios = dict(zip((one.name for one in shared.guide.blocks), shared.guide.outlier_ratios))
    blocks = table[table.of == "block"].set_index("part").outlier_ratio
    assert blocks.to_dict() == ratios
    assert table[table.of == "kind"].outlier_ratio.isna().all()
    with pytest.raises(ConfigError, match="no results yet"):
        tables.load(str(sweep_file), wanted)  # it is no point of the grid


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*singular Gram matrix")
def test_a_point_in_few_bits_is_the_file_that_a_report_would_write(sweep_file):
    """Of a model whose rows are whole groups: the file's bytes, and what it says when loaded."""
    sizes = dict(d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=50)
    tiny.make_model(**sizes).save_pretrained(sweep_file.parent / "model")
    raw = json.loads(sweep_file.read_text()) | {"bits": [8, 4], "sparsities": [0.0, 0.5]}
    sweep_file.write_text(json.dumps(raw))
    job = jobs_of(sweep_file)[2]
    assert job.name == "tiny-sparsegpt-uniform-seed0" and job.bits == (8, 4)
    points = [point.measure(job, point.ready(job), sparsity) for sparsity in job.sparsities]
    assert not job.missing()
    table = tables.rounded(points)
    assert list(zip(table.sparsity, table.bits)) == [(0, 8), (0, 4), (0.5, 8), (0.5, 4)]
    assert (table.ratio < 1).all() and (table.kl >= 0).all()
    by = table.set_index(["sparsity", "bits"])
    assert by.bytes[0, 4] < by.bytes[0, 8] and by.bytes[0.5, 8] < by.bytes[0, 8]
    assert by.kl[0, 8] < by.kl[0, 4] and by.kl[0, 8] < by.kl[0.5, 8]
    sweep_file.write_text(json.dumps(raw | {"bits": [5]}))
    assert jobs_of(sweep_file)[2].missing() == [0.0, 0.5]  # other bits are other points
    sweep_file.write_text(json.dumps(raw | {"bits": [3]}))
    with pytest.raises(ConfigError, match="bits"):
        grid.load(sweep_file)


def test_columns_of_one_dataset_stand_together():
    rows = [
        {
            "model": "m",
            "dataset": dataset,
            "sparsity": sparsity,
            "method": "alps",
            "allocation": "owl",
            "wer": sparsity,
        }
        for sparsity in SPARSITIES
        for dataset in ("z", "a")
    ]
    found = tables.wer_grid(pd.DataFrame(rows))
    assert list(found.columns) == [
        ("m", "z", 0.5),
        ("m", "z", 0.7),
        ("m", "a", 0.5),
        ("m", "a", 0.7),
    ]


def test_a_row_says_how_much_of_its_rate_is_insertions_of_clips_that_loop():
    kept = ("model", "method", "allocation", "seed", "sparsity", "sparsity_prunable")
    kept += ("seconds_prune", "seconds_allocation", "peak_rss_bytes")
    kl = {"kl": 0.1, "low": 0.0, "high": 0.2}
    one = {"name": "d", "unit": "words", "wer": 0.9, "wer_interval": [0.8, 1.0], "kl": kl}
    one |= {"insertions": 9, "insertions_looping": 6, "repeats": 1, "cap_hits": 2, "words": [4, 8]}
    (row,) = tables.rows([dict.fromkeys(kept, 0) | {"datasets": [one]}]).to_dict("records")
    assert row["looping"] == 0.5
    counts = ("insertions", "insertions_looping", "repeats", "cap_hits")
    assert [row[key] for key in counts] == [9, 6, 1, 2]


def test_a_point_is_what_pruning_and_scoring_by_hand_give_and_is_kept(sweep_file):
    job = jobs_of(sweep_file)[0]
    shared = point.ready(job)
    result = point.measure(job, shared, 0.5)
    assert (
        result["sparsity_prunable"] == pytest.approx(0.5, abs=1 / 16)
        and result["recovery"] == "none"
    )
    assert result["datasets"][0]["wer"] == pytest.approx(
        sum(result["datasets"][0]["errors"]) / sum(result["datasets"][0]["words"])
    )
    assert result["datasets"][0]["kl"]["kl"] > 0 and job.missing() == [0.7]
    before = job.path(0.5).stat().st_mtime_ns
    again = point.measure(job, shared, 0.7)
    assert (
        again["blocks"]["encoder.0"] == 0.7
        and job.path(0.5).stat().st_mtime_ns == before
        and not job.missing()
    )
    raw = json.loads((sweep_file.parent / "tiny.json").read_text())
    raw["evaluation"]["max_new_tokens"] = 5
    (sweep_file.parent / "tiny.json").write_text(json.dumps(raw))
    assert job.missing() == SPARSITIES  # another config: nothing old is shown


@pytest.mark.slow
def test_the_comparison_reads_every_point_and_its_paired_differences_are_those_of_the_totals(
    sweep_file,
):
    measured(sweep_file)
    wanted = grid.load(sweep_file)
    points, dense, missing = tables.load(str(sweep_file), wanted)
    table = tables.rows(points)
    assert len(points) == 8 and not missing and len(dense) == 1
    paired = tables.against(points, ("wanda", "uniform"), ("sparsegpt", "owl"), 0).set_index(
        "sparsity"
    )
    value = table.set_index(["method", "allocation", "sparsity"])
    for sparsity in SPARSITIES:
        first, second = (
            value.loc["wanda", "uniform", sparsity],
            value.loc["sparsegpt", "owl", sparsity],
        )
        assert paired.wer[sparsity] == pytest.approx(first.wer - second.wer) and paired.kl[
            sparsity
        ] == pytest.approx(first.kl - second.kl)
        assert paired.kl_low[sparsity] <= paired.kl[sparsity] <= paired.kl_high[sparsity]
    winner = tables.best(table, 0)
    logs = np.log(table.kl).groupby([table.method, table.allocation]).mean()
    assert logs[winner] == logs.min()


@pytest.mark.slow
def test_latex_has_a_row_per_method_and_bold_minima(sweep_file):
    measured(sweep_file)
    table = tables.rows(tables.load(str(sweep_file), grid.load(sweep_file))[0])
    text = tables.latex(tables.wer_grid(table, "kl"), 3)
    assert text.count(r"\\") == 3 + 4 and text.count(r"\textbf") >= 2 and "0.5 & 0.7" in text
    assert text.startswith(r"\begin{tabular}{llrr}") and r"\multicolumn{2}{c}{tiny" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    written = tables.write(table, sweep_file.parent / "tables")
    assert {path.name for path in written} == {
        "points.csv",
        "wer.csv",
        "wer.tex",
        "kl.csv",
        "kl.tex",
    }


def test_latex_escapes_names_and_leaves_gaps_where_nothing_was_measured():
    columns = pd.MultiIndex.from_tuples([("a_b", "c&d #1", 0.5), ("a_b", "c&d #1", 0.75)])
    names = pd.MultiIndex.from_tuples([("wanda", "owl"), ("x_y", "uniform")])
    text = tables.latex(pd.DataFrame([[1, np.nan], [0.25, 3]], names, columns), 2)
    assert r"\multicolumn{2}{c}{a\_b c\&d \#1}" in text and "0.5 & 0.75" in text
    assert r"wanda & owl & 1.00 &  \\" in text
    assert r"x\_y & uniform & \textbf{0.25} & \textbf{3.00} \\" in text


@pytest.mark.slow
def test_a_failed_job_is_listed_and_the_others_are_kept(sweep_file, monkeypatch, capsys):
    def execute(path, job, folder, threads):
        if "owl" in job:
            return jobs.Outcome(job, "no luck")
        (found,) = [one for one in jobs_of(path) if one.name == job]
        shared = point.ready(found)
        for sparsity in found.missing():
            point.measure(found, shared, sparsity)
        return jobs.Outcome(job, None)

    monkeypatch.setattr(jobs, "execute", execute)
    assert jobs.main([str(sweep_file)]) == 1
    said = capsys.readouterr().err
    assert "failed: tiny-wanda-owl-seed0: no luck" in said and said.splitlines()[-1].startswith(
        "error: 2 of 4 jobs failed"
    )
    outcomes = jobs.run(str(sweep_file), jobs_of(sweep_file), 1, None)
    assert [one.job for one in outcomes] == ["tiny-wanda-owl-seed0", "tiny-sparsegpt-owl-seed0"]


def test_an_interrupted_sweep_starts_no_more_jobs(sweep_file, monkeypatch):
    started = []

    def execute(path, job, folder, threads):
        started.append(job)
        time.sleep(0.2)
        return jobs.Outcome(job, None)

    monkeypatch.setattr(jobs, "execute", execute)
    running = jobs.here(str(sweep_file), jobs_of(sweep_file), 1)
    next(running)
    running.close()
    assert len(started) <= 2 < len(jobs_of(sweep_file))


def test_a_scheduler_that_is_not_there_is_one_clear_error(sweep_file, capsys):
    pytest.importorskip(
        "dask.distributed", reason="dask is optional: pip install -r requirements-cluster.txt"
    )
    assert jobs.main([str(sweep_file), "--scheduler", "nowhere"]) == 2
    assert "no dask scheduler answers there" in capsys.readouterr().err


def processes_of(job):
    """The running processes of a job: papermill's own, then its kernel's."""
    import psutil  # comes with dask

    mine = [
        one
        for one in psutil.process_iter(["cmdline"])
        if {"owl.sweep.job", job.name} <= set(one.info["cmdline"] or [])
    ]
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end while we look
        return [one for first in mine for one in (first, *first.children(recursive=True))]
    return []


def wait_for(what, seconds=60):
    limit = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_leaves_nothing_running(sweep_file, monkeypatch):
    distributed = pytest.importorskip(
        "dask.distributed", reason="dask is optional: pip install -r requirements-cluster.txt"
    )
    monkeypatch.setattr(grid, "ROOT", ROOT)  # what the jobs' own processes go by
    path = sweep_file.rename(sweep_file.with_name(f"test-{uuid.uuid4().hex}.json"))
    kept, killed = both = jobs_of(path)[:2]
    try:
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster,
            ThreadPoolExecutor(1) as pool,
        ):
            run = pool.submit(
                lambda: list(jobs.on_cluster(str(path), both, cluster.scheduler_address))
            )
            first, *kernel = wait_for(lambda: len(found := processes_of(killed)) > 1 and found)
            os.kill(first.ppid(), signal.SIGKILL)
            wait_for(lambda: not any(one.is_running() for one in (first, *kernel)))
            # it was ended: run to its end it would have left its points, and the next try is
            # not that far
            assert killed.missing()
            outcomes = run.result()
        assert sorted(one.job for one in outcomes) == sorted([kept.name, killed.name]) and not any(
            one.problem for one in outcomes
        )
        assert not any(job.missing() for job in both)
    finally:
        shutil.rmtree(kept.folder, ignore_errors=True)
