"""Only behaviour: every config that ships loads without a network, and so does the measuring
bench's where it is present.
"""

import json
import socket

import pytest

from owl import ROOT
from owl.config.load import Config, load, run_name

CONFIGS = sorted((ROOT / "configs").glob("*.json"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("loading a config must not open a connection")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_names_its_run(path):
    config = load(path)
    assert run_name(path, config).startswith(f"{path.stem}-{config.pruning.method}-")
    assert str(ROOT) not in json.dumps(config.portable())


def test_the_demo_config_differs_from_the_defaults_where_the_demo_was_measured_to_want_it():
    """And states the rest as it is anyway."""
    config = load(ROOT / "configs" / "demo.json")
    demo, default = config.resolved(), Config().resolved()
    for section, keys in (("pruning", ("method", "allocation")), ("output", ("formats",))):
        for key in keys:
            assert demo[section].pop(key) != default[section].pop(key)
    for key in ("samples", "windows", "padding"):
        ours, theirs = (one["pruning"]["calibration"].pop(key) for one in (demo, default))
        assert ours != theirs
    assert demo == default
    assert run_name("configs/demo.json", config) == "demo-alps-uniform-s0.5"


def test_the_default_config_is_the_familiar_large_v3_turbo_file():
    config = load(ROOT / "configs" / "default.json")
    assert config.model.name == "openai/whisper-large-v3-turbo"
    assert (config.pruning.method, config.pruning.sparsity, config.pruning.allocation) == (
        "magnitude",
        0.3,
        "owl",
    )
    assert (config.pruning.outlier_hyper_lambda, config.pruning.outlier_hyper_m) == (0.08, 5)
    dataset = config.evaluation.datasets[0]
    assert (dataset.name, dataset.split, dataset.subset, dataset.max_samples) == (
        "librispeech",
        "test-clean",
        "clean",
        20,
    )
    assert (config.hardware.device, config.hardware.precision) == ("auto", "float16")


def test_the_bench_config_loads():
    path = ROOT.parent / "shared" / "bench" / "bench.json"
    if not path.is_file():
        pytest.skip("the folder ../shared with the bench is not here")
    config = load(path)
    assert config.model.name == str(path.parent / "model")
    assert [dataset.name for dataset in config.evaluation.datasets] == [
        "an4-test-a",
        "digits-test-a",
    ]
    assert config.output.formats == ["hf", "onnx"]
    assert config.portable()["model"]["name"] == "../shared/bench/model"
