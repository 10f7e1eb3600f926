"""What a user can get wrong, each with one clear message that names the cause and the fix. All of
it is behaviour.

`start` does in this process what 01_outlier_analysis does before it computes; two cases go through
`make report` itself.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from owl.config.load import load
from owl.errors import ConfigError, DataError, ModelError
from owl.run import experiment
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # most start a process


@pytest.fixture
def config(tmp_path):
    """Write a config that is the demo but for `changes` (section → keys), and return its path."""

    def write(changes: dict) -> Path:
        raw = json.loads((ROOT / "configs" / "demo.json").read_text())
        raw["model"]["name"] = str(ROOT / "models" / "demo")
        raw["pruning"]["calibration"]["dataset"]["path"] = str(
            ROOT / "data" / "demo" / "calibration"
        )
        raw["evaluation"]["datasets"][0] |= {
            "path": str(ROOT / "data" / "demo" / "evaluation"),
            "max_samples": 2,
        }
        for section, keys in changes.items():
            raw.setdefault(section, {}).update(keys)
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(raw))
        return path

    return write


def start(path: Path, overrides: dict | None = None) -> None:
    settings = load(path, overrides)
    experiment.load_model(settings)
    experiment.calibration_set(settings, experiment.evaluation_sets(settings))


def evaluate_on(folder: Path) -> dict:
    return {"evaluation": {"datasets": [{"name": "mine", "path": str(folder)}]}}


def test_the_demo_itself_starts(config):
    start(config({"pruning": {"sparsity": 0.5}}))


@pytest.mark.parametrize(
    "changes, overrides, words",
    [
        ({"pruning": {"sparsty": 0.5}}, {}, r"pruning\.sparsty.*sparsity"),
        ({"pruning": {"sparsity": "half"}}, {}, r"pruning\.sparsity.*number"),
        ({"pruning": {"sparsity": 1.5}}, {}, r"pruning\.sparsity.*1\.5"),
        ({}, {"SPARSITY": "1.5"}, r"SPARSITY=1\.5"),
        ({}, {"METHOD": "magic"}, r"METHOD=magic.*wanda"),
        ({"model": {"name": "./no/such/folder"}}, {}, r"model\.name.*no/such/folder"),
        (
            {"optimization": {"quantization": {"method": "static"}}},
            {},
            r"quantization\.method.*not available yet",
        ),
        ({"pruning": {"pruning_pattern": "2:4", "allocation": "owl"}}, {}, r"uniform"),
    ],
    ids=[
        "unknown key",
        "wrong type",
        "sparsity 1.5",
        "SPARSITY=1.5",
        "unknown METHOD",
        "missing model",
        "later feature",
        "N:M with OWL",
    ],
)
def test_a_bad_config_is_refused(config, changes, overrides, words):
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        start(config(changes), overrides)


def test_a_model_that_is_no_whisper_is_refused(config, tmp_path):
    folder = shutil.copytree(ROOT / "models" / "demo", tmp_path / "bert")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="'bert' model, not a Whisper"):
        start(config({"model": {"name": str(folder)}}))


def test_a_missing_dataset_says_how_to_use_a_folder(config, tmp_path):
    with pytest.raises(DataError, match="(?s)gone"):
        start(config(evaluate_on(tmp_path / "gone")))


def speech_folder(tmp_path, rows: str, audio: bytes | None = None) -> Path:
    folder = tmp_path / "speech"
    folder.mkdir()
    (folder / "metadata.csv").write_text("file_name,text\n" + rows)
    soundfile.write(folder / "good.wav", 0.1 * np.ones(16_000, np.float32), 16_000)
    if audio is not None:
        (folder / "a.wav").write_bytes(audio)
    return folder


def test_unreadable_audio_is_named(config, tmp_path):
    with pytest.raises(DataError, match=r"(?s)\ba: "):
        start(config(evaluate_on(speech_folder(tmp_path, "a.wav,one two\n", b"this is no audio"))))


def test_empty_audio_is_named_and_the_rest_is_used(config, tmp_path):
    folder = speech_folder(tmp_path, "a.wav,one two\ngood.wav,three\n")
    soundfile.write(folder / "a.wav", np.zeros(0, np.float32), 16_000)
    (dataset,) = experiment.evaluation_sets(load(config(evaluate_on(folder))))
    assert [clip.id for clip in dataset.clips] == ["good"]
    ((name, reason),) = dataset.skipped
    assert name == "a" and ("empty" in reason.lower() or "no samples" in reason.lower())


def test_an_empty_manifest_is_refused(config, tmp_path):
    with pytest.raises(DataError, match="(?i)metadata.csv"):
        start(config(evaluate_on(speech_folder(tmp_path, ""))))


def test_clips_without_text_cannot_be_scored(config, tmp_path):
    with pytest.raises(DataError, match="text"):
        start(config(evaluate_on(speech_folder(tmp_path, "good.wav,\n"))))


@pytest.mark.slow
def test_calibrating_on_evaluation_clips_is_refused(config):
    changes = evaluate_on(ROOT / "data" / "demo" / "calibration")
    with pytest.raises(DataError, match="calibration and evaluation overlap"):
        start(config(changes))


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="here CUDA is present, so asking for it is no mistake"
)
def test_cuda_where_there_is_none_is_refused(config):
    with pytest.raises(ConfigError, match="'cuda' was asked for.*DEVICE=auto"):
        start(config({}), {"DEVICE": "cuda"})


def make_report(*settings: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", "report", f"PY={sys.executable}", *settings]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_make_stops_at_an_unknown_method_and_leaves_nothing():
    before = {path.name for path in (ROOT / "runs").glob("*")}
    done = make_report("METHOD=magic")
    assert done.returncode != 0 and "error: METHOD=magic" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in (ROOT / "runs").glob("*")} == before


@pytest.mark.slow
def test_make_stops_at_a_bad_dataset_with_the_message_last_and_no_finished_report(config, tmp_path):
    run = "test-bad-dataset"
    try:
        done = make_report(f"CONFIG={config(evaluate_on(tmp_path / 'gone'))}", f"RUN={run}")
        words = [
            line
            for line in done.stderr.splitlines()
            if line.strip() and not line.startswith("make")
        ]
        assert done.returncode != 0
        assert (
            words[-1].startswith("error: 01_outlier_analysis stopped: DataError: ")
            and "gone" in words[-1]
        )
        assert not any((ROOT / "reports" / run).glob("*"))
        assert (ROOT / "runs" / run / "failed" / "01_outlier_analysis.ipynb").exists()
    finally:
        for folder in ("runs", "reports"):
            shutil.rmtree(ROOT / folder / run, ignore_errors=True)
