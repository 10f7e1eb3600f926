"""The benchmarks run, on a few clips of the demo. Speed and memory are measured by `make bench`,
never in a test.
"""

import json
from pathlib import Path

import pytest

from benchmarks import allocations, bench, growth, linears, narrow
from owl.config.load import load
from owl.model.whisper import Whisper
from owl.run import experiment
from tests.conftest import ROOT


@pytest.fixture
def few(tmp_path):
    """The demo's config with four clips of each kind, as a file."""
    raw = json.loads((ROOT / "configs" / "demo.json").read_text())
    raw["model"]["name"] = str(ROOT / "models" / "demo")
    raw["pruning"]["calibration"] |= {
        "samples": 4,
        "dataset": {"name": "c", "path": str(ROOT / "data" / "demo" / "calibration")},
    }
    raw["evaluation"]["datasets"] = [
        {"name": "e", "path": str(ROOT / "data" / "demo" / "evaluation"), "max_samples": 4}
    ]
    path = tmp_path / "few.json"
    path.write_text(json.dumps(raw))
    return str(path)


@pytest.mark.slow
def test_a_solver_is_timed_and_scored(few):
    row = bench.prune(few, "wanda", "include")
    assert row["seconds"] > 0 and row["peak"] > 1e8 and row["wer"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uniform", "alpha", "measured"])
def test_an_allocation_is_timed_and_its_database_counted_apart(few, name, monkeypatch):
    monkeypatch.setattr("owl.prune.search.LEVELS", (0.5, 0.9))
    monkeypatch.setattr("owl.prune.measured.OFFSPRING", 1)
    row = allocations.allocate(few, "magnitude", name)
    assert row["each s"] >= 0 and row["peak GB"] > 0.1
    assert (row["once s"] > 1) == (name == "measured")


@pytest.mark.slow
def test_alps_is_never_above_sparsegpt_on_linears_of_the_demo(few):
    """Two blocks of eight; `make bench` prints errors and seconds over all of them."""
    raw = json.loads(Path(few).read_text())
    raw["pruning"]["target_modules"] = ["encoder.layers.0", "decoder.layers.3"]
    Path(few).write_text(json.dumps(raw))
    found = linears.ratios(few, (0.7, "2:4"))
    assert len(found) == 2 * (6 + 10) and (found.sparsegpt > 0).all()
    assert found.ratio.max() < 1
    kinds = linears.by_kind(found)
    assert list(kinds.kind[::2]) == [
        "encoder self_attn",
        "encoder fc1",
        "encoder fc2",
        "decoder self_attn",
        "decoder encoder_attn",
        "decoder fc1",
        "decoder fc2",
    ]
    assert (kinds[["sparsegpt s", "alps s"]] > 0).all(axis=None)
    assert (kinds["error ratio"] < 1).all()


@pytest.mark.slow
def test_a_narrowed_model_is_timed_in_two_runtimes_and_scored(few, monkeypatch):
    monkeypatch.setattr(narrow, "ROUNDS", 2)
    config = load(few, {"pattern": "structured", "allocation": "uniform", "sparsity": 0.5})
    model, removed = narrow.pruned(config, {"allocation": "owl"})
    assert removed == pytest.approx(0.5, abs=0.01)
    dense, processor = experiment.load_model(config)
    clips = experiment.evaluation_sets(config)[0].clips
    times = narrow.encoder_seconds(
        [dense, model],
        processor,
        narrow.decoding.input_features(Whisper(dense, processor), [clips[0].audio]),
    )
    assert all(one["PyTorch"] > 0 and one["onnxruntime"] > 0 for one in times)
    assert narrow.wer(config, Whisper(model, processor)) >= 0


def test_an_unknown_shape_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["growth", "huge"])
    with pytest.raises(SystemExit):
        growth.main()
    assert "unknown shape huge" in capsys.readouterr().err
