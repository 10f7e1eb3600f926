"""The seconds that a report is expected to take: behaviour only."""

import json

import pytest

from owl import ROOT
from owl.config import load as configs
from owl.kernels.records import SOLVERS
from owl.model import whisper
from owl.prune import estimate
from owl.run import experiment


@pytest.fixture(scope="module")
def demo():
    config = configs.load(ROOT / "configs/demo.json", {})
    asr = experiment.load_model(config)
    evaluated = experiment.evaluation_sets(config)
    return asr, whisper.blocks(asr.model), experiment.calibration_set(config, evaluated), evaluated


@pytest.fixture
def steps(demo, monkeypatch, tmp_path):
    monkeypatch.setattr(estimate, "_pace", lambda asr, data: (1.0, 2.0))

    def of(windows: str = "single", **overrides) -> dict[str, float]:
        raw = json.loads((ROOT / "configs/demo.json").read_text())
        raw["pruning"]["calibration"]["windows"] = windows
        path = tmp_path / "one.json"
        path.write_text(json.dumps(raw).replace("../", f"{ROOT}/"))
        return estimate.steps(configs.load(path, overrides), *demo)

    return of


def test_a_step_is_so_many_windows_or_clips(demo, steps):
    _, every, calibration, (evaluated,) = demo
    found = steps(method="sparsegpt")
    assert found["calibration text"] == 2 * len(calibration.clips)
    assert found["transcripts"] == 2 * 2 * len(evaluated.clips)  # dense and pruned
    assert found["statistics"] == estimate.SUMS * len(calibration.clips)  # single windows
    assert list(found) == [
        "calibration text", "statistics", "pruning", "transcripts", "formats", "starting",
    ]  # fmt: skip


def test_dear_settings_take_longer(steps):
    plain, alps = steps(method="sparsegpt"), steps(method="alps")
    windows = estimate.GRAMS * plain["statistics"] / estimate.SUMS
    ratio = SOLVERS["alps"].work / SOLVERS["sparsegpt"].work
    assert alps["pruning"] - windows == pytest.approx(ratio * (plain["pruning"] - windows))
    measured, fisher = steps(allocation="measured"), steps(allocation="fisher")
    assert measured["allocation"] == estimate.PRUNINGS * measured["pruning"] > fisher["allocation"]
    trained = steps(recovery="distill", minutes=3)
    assert trained["recovery"] > 180
    assert steps(formats=["hf", "onnx"])["formats"] > steps(formats=["hf"])["formats"]


def test_in_short_windows_recovery_goes_clip_by_clip(demo, steps):
    _, _, calibration, _ = demo
    full, short = (
        steps(recovery="blockwise"),
        steps("packed", recovery="blockwise", window="speech"),
    )
    assert short["recovery"] == pytest.approx(estimate.SHORT * full["recovery"])
    assert full["recovery"] == 6 * estimate.BACKWARD * len(calibration.clips)


def test_packed_windows_are_fewer(demo, steps):
    _, _, calibration, _ = demo
    packed = steps("packed")["statistics"] / estimate.SUMS
    assert packed == 1 + int(sum(clip.seconds for clip in calibration.clips) / 30)


def test_a_small_model_is_timed_in_a_moment(demo):
    asr, _, calibration, _ = demo
    window, clip = estimate._pace(asr, calibration)
    assert 0 < window < clip < 60


@pytest.mark.parametrize(
    "seconds, words", [(41.6, "42 s"), (150, "2 min"), (5940, "99 min"), (9000, "2.5 h")]
)
def test_spoken_in_the_unit_that_fits(seconds, words):
    assert estimate.spoken(seconds) == words


def test_the_sentence_has_the_sum_and_every_part():
    said = estimate.sentence({"pruning": 60.0, "transcripts": 30.0})
    assert "about 90 s here: pruning 60 s, transcripts 30 s." in said
