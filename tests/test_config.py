"""Only behaviour: what a config file and Make's overrides mean, what is refused and with which
words, and the run's config.json.

No published reference exists for any of it; expected values are written out by hand from the
design.
"""

import json
import os
import subprocess
import sys

import pytest

from owl import ROOT
from owl.config.load import OVERRIDES, Config, load, load_resolved, run_name
from owl.errors import ConfigError
from owl.run import resolve


@pytest.fixture
def write(tmp_path):
    """Write a config (a dict, or text as it is) beside a folder `model`; returns the path."""
    (tmp_path / "model").mkdir()

    def write(content=None, name="mine.json"):
        if isinstance(content, dict) or content is None:
            content = json.dumps({"model": {"name": "model"}} | (content or {}))
        path = tmp_path / name
        path.write_text(content)
        return path

    return write


def error_of(path, overrides=None):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value)


# --- what a file means


def test_an_almost_empty_file_gets_the_demo_runs_defaults(write):
    config = load(write())
    pruning = config.pruning
    assert (pruning.method, pruning.sparsity, pruning.pattern, pruning.allocation) == (
        "wanda",
        0.5,
        "unstructured",
        "owl",
    )
    assert (pruning.outlier_hyper_lambda, pruning.outlier_hyper_m) == (0.08, 5)
    assert (pruning.calibration.samples, pruning.calibration.seed) == (128, 0)
    assert (pruning.calibration.labels, pruning.calibration.padding) == ("model", "include")
    assert pruning.calibration.dataset.path == str(ROOT / "data/demo/calibration")
    assert config.evaluation.datasets[0].path == str(ROOT / "data/demo/evaluation")
    assert (config.evaluation.batch_size, config.evaluation.max_new_tokens) == (16, None)
    assert config.evaluation.normalizer == "auto"
    assert config.output.dir == str(ROOT / "runs")
    assert config.output.formats == ["hf"]


def test_aliases_and_nulls_become_one_spelling(write):
    config = load(
        write(
            {
                "pruning": {
                    "weight_importance_method": "sparsegpt",
                    "pruning_pattern": None,
                    "pruning_schedule": "one-shot",
                },
                "evaluation": {
                    "metrics": ["cer", "wer", "character_error_rate"],
                    "normalizer": None,
                },
                "output": {"formats": ["hf"], "export_onnx": True},
                "hardware": {"precision": "bf16", "device": "cuda:1"},
            }
        )
    )
    assert config.pruning.method == "sparsegpt"
    assert (config.pruning.pattern, config.pruning.schedule.name) == ("unstructured", "one_shot")
    assert (config.evaluation.metrics, config.evaluation.normalizer) == (
        ["character_error_rate", "wer"],
        "auto",
    )
    assert config.output.formats == ["hf", "onnx"]
    assert (config.hardware.precision, config.hardware.device) == ("bfloat16", "cuda:1")


@pytest.mark.parametrize(
    "pruning, expected",
    [
        ({}, "owl"),
        ({"apply_outlier_weighting": False}, "uniform"),
        ({"apply_outlier_weighting": False, "allocation": "owl-equal"}, "owl-equal"),
        ({"allocation": "uniform"}, "uniform"),
        ({"outlier_detection_method": "median", "method": "magnitude"}, "median"),
        ({"outlier_detection_method": "median", "allocation": "owl"}, "owl"),
        ({"outlier_detection_method": "median", "apply_outlier_weighting": False}, "uniform"),
        ({"pruning_pattern": "2:4"}, "uniform"),
    ],
)
def test_an_explicit_allocation_wins_then_the_outlier_keys_decide(write, pruning, expected):
    assert load(write({"pruning": pruning})).pruning.allocation == expected


def test_a_fixed_pattern_decides_the_sparsity_that_nobody_stated(write):
    assert load(write({"pruning": {"pruning_pattern": "1:4"}})).pruning.sparsity == 0.75
    assert (
        load(
            write({"pruning": {"pruning_pattern": "4:8", "sparsity": 0.5, "allocation": "uniform"}})
        ).pruning.pattern
        == "4:8"
    )


def test_whole_numbers_are_accepted_for_fractions(write):
    assert (
        load(write({"pruning": {"sparsity": 0, "outlier_hyper_m": 7}})).pruning.outlier_hyper_m
        == 7.0
    )


# --- paths


def test_paths_in_a_file_start_from_the_files_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    config = load(
        write(
            {
                "model": {"name": "model", "cache_dir": "cache"},
                "pruning": {"calibration": {"dataset": {"name": "a", "path": "clips/a"}}},
                "evaluation": {"datasets": [{"name": "b", "path": "../b"}, {"name": "hub/set"}]},
                "output": {"dir": "out"},
            }
        )
    )
    assert (config.model.name, config.model.cache_dir) == (
        str(tmp_path / "model"),
        str(tmp_path / "cache"),
    )
    assert config.pruning.calibration.dataset.path == str(tmp_path / "clips/a")
    assert [dataset.path for dataset in config.evaluation.datasets] == [
        str(tmp_path.parent / "b"),
        None,
    ]
    assert config.output.dir == str(tmp_path / "out")


def test_a_dataset_name_that_is_a_folder_beside_the_file_is_a_path(write, tmp_path, monkeypatch):
    (tmp_path / "speech" / "clean").mkdir(parents=True)
    monkeypatch.chdir("/")
    datasets = [
        {"name": "speech"},
        {"name": "./gone"},
        {"name": "speech/clean"},
        {"name": "hub/set"},
    ]
    config = load(
        write(
            {
                "pruning": {"calibration": {"dataset": {"name": "./speech"}}},
                "evaluation": {"datasets": datasets},
            }
        )
    )
    assert config.pruning.calibration.dataset.path == str(tmp_path / "speech")
    found = [
        (dataset.name, dataset.path and os.path.relpath(dataset.path, tmp_path))
        for dataset in config.evaluation.datasets
    ]
    assert found == [
        ("speech", "speech"),
        ("gone", "gone"),
        ("clean", "speech/clean"),
        ("hub/set", None),
    ]


def test_an_existing_folder_beats_a_hub_id(write, tmp_path):
    path = write({"model": {"name": "openai/whisper-tiny"}})
    assert load(path).model.name == "openai/whisper-tiny"
    (tmp_path / "openai" / "whisper-tiny").mkdir(parents=True)
    assert load(path).model.name == str(tmp_path / "openai/whisper-tiny")


def test_a_model_override_starts_from_the_current_folder(write, tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "tuned").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(write(), {"model": "tuned"}).model.name == str(tmp_path / "elsewhere/tuned")
    assert load(write(), {"model": "openai/whisper-base"}).model.name == "openai/whisper-base"


@pytest.mark.parametrize(
    "name", ["./gone", "../gone", "/no/such/folder", "~/no/such/folder", "some/deep/folder"]
)
def test_a_model_name_that_can_only_be_a_missing_folder_is_refused(write, name):
    message = error_of(write({"model": {"name": name}}))
    assert (
        "model.name" in message and "does not exist" in message and "openai/whisper-tiny" in message
    )
    assert f"MODEL={name}: " in error_of(write(), {"model": name})


def test_a_file_is_not_a_model_folder(write, tmp_path):
    (tmp_path / "weights.bin").touch()
    assert "is a file, not a model folder" in error_of(write({"model": {"name": "weights.bin"}}))


# --- recorded form


def test_the_portable_form_names_no_absolute_path_and_loads_back(write, tmp_path):
    config = load(write({"output": {"dir": str(ROOT / "runs")}}))
    portable = config.portable()
    assert portable["output"]["dir"] == "runs"
    assert portable["evaluation"]["datasets"][0]["path"] == "data/demo/evaluation"
    assert portable["model"]["name"] == os.path.relpath(tmp_path / "model", ROOT)
    written = write(
        json.dumps({"name": "x", "digest": config.digest(), "inputs": {}, "config": portable}),
        "config.json",
    )
    assert load_resolved(written) == load(written) == config
    assert load_resolved(written).digest() == config.digest()


def test_every_key_is_in_the_resolved_form(write):
    resolved = load(write({"pruning": {"pruning_pattern": "2:4"}})).resolved()
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["pruning"]["method"] == "wanda"
    # stated, so that loading it again means the same
    assert resolved["pruning"]["allocation"] == "uniform"
    assert resolved["pruning"]["recovery"]["method"] == "none"
    assert resolved["optimization"] == {
        "quantization": {"enabled": False, "bits": 8, "method": "dynamic"},
        "compile": {"enabled": False, "mode": "default"},
    }


def test_the_digest_follows_meaning_not_spelling(write):
    short = load(write({"pruning": {"sparsity": 0.5}, "hardware": {"precision": "fp32"}}))
    long = load(write({"hardware": {"precision": "float32"}, "pruning": {"method": "wanda"}}))
    other = load(write({"pruning": {"sparsity": 0.6}}))
    assert short.digest() == long.digest() != other.digest()
    assert len(short.digest()) == 16


def test_only_a_runs_config_json_loads_as_one(write):
    with pytest.raises(ConfigError, match="not the config.json of a run.*runs/<run>/config.json"):
        load_resolved(write())


def test_a_link_to_the_repository_changes_nothing(tmp_path):
    (tmp_path / "link").symlink_to(ROOT, target_is_directory=True)
    hub_model = {"model": "openai/whisper-tiny"}
    linked = load(tmp_path / "link" / "configs" / "demo.json", hub_model)
    assert linked == load(ROOT / "configs" / "demo.json", hub_model)
    assert linked.portable()["evaluation"]["datasets"][0]["path"] == "data/demo/evaluation"


def test_a_linked_folder_outside_the_repository_keeps_the_name_that_was_given(write, tmp_path):
    write()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert load(tmp_path / "link" / "mine.json").model.name == str(tmp_path / "link" / "model")


# --- overrides


def test_overrides_are_text_parsed_as_the_type_of_their_key(write):
    path = write(
        {
            "evaluation": {"datasets": [{"name": "a"}, {"name": "b", "max_samples": 3}]},
            "output": {"export_onnx": True},
        }
    )
    given = {
        "SPARSITY": "0.7",
        "METHOD": "magnitude",
        "ALLOCATION": "uniform",
        "SAMPLES": "20",
        "DEVICE": "cpu",
        "FORMATS": "hf",
    }
    config = load(path, given)
    assert (config.pruning.sparsity, config.pruning.method, config.pruning.allocation) == (
        0.7,
        "magnitude",
        "uniform",
    )
    assert [dataset.max_samples for dataset in config.evaluation.datasets] == [20, 20]
    assert (config.hardware.device, config.output.formats) == ("cpu", ["hf"])
    assert (
        load(path, {"formats": "hf, onnx"}).output.formats
        == load(path, {"formats": ["hf", "onnx"]}).output.formats
    )


def test_samples_reach_the_default_datasets_too(write):
    assert load(write(), {"samples": 5}).evaluation.datasets[0].max_samples == 5


def test_empty_overrides_change_nothing(write):
    assert load(write(), {name: "" for name in OVERRIDES} | {"model": None}) == load(write())


def test_a_method_override_replaces_its_alias(write):
    path = write({"pruning": {"method": "magnitude", "weight_importance_method": "magnitude"}})
    assert load(path, {"method": "wanda"}).pruning.method == "wanda"


def test_a_pattern_override_decides_the_sparsity_unless_that_is_overridden(write):
    path = write({"pruning": {"sparsity": 0.3}})
    assert load(path, {"pattern": "1:4"}).pruning.sparsity == 0.75
    assert load(path, {"pattern": "unstructured"}).pruning.sparsity == 0.3
    assert "means sparsity 0.5, not 0.7" in error_of(path, {"pattern": "2:4", "sparsity": "0.7"})


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ({"SPARSITY": "abc"}, "SPARSITY=abc: not a number; use a fraction such as 0.5"),
        (
            {"sparsity": "1.5"},
            "SPARSITY=1.5: must be a fraction of at least 0 and below 1 such as 0.5, not 1.5",
        ),
        ({"SPARSITY": "nan"}, "SPARSITY=nan: must be a finite number"),
        ({"SAMPLES": "2.5"}, "SAMPLES=2.5: not a whole number; use a count of clips such as 20"),
        ({"SAMPLES": "0"}, "SAMPLES=0: must be a whole number of at least 1, not 0"),
        (
            {"METHOD": "wonder"},
            "METHOD=wonder: 'wonder' is not known; use one of magnitude, wanda, sparsegpt",
        ),
        (
            {"ALLOCATION": "best"},
            "ALLOCATION=best: 'best' is not known; use one of uniform, owl, owl-equal, dlp, alpha, "
            "fisher, measured",
        ),
        (
            {"PATTERN": "structure"},
            "PATTERN=structure: 'structure' is not known; use one of unstructured, structured, "
            "lowrank, 2:4, 4:8",
        ),
        (
            {"PATTERN": "structured", "METHOD": "wanda"},
            "decides by the second-order error, as sparsegpt does, not by wanda",
        ),
        ({"DEVICE": "gpu"}, "DEVICE=gpu: must be one of auto, cuda"),
        (
            {"FORMATS": "hf,ctx"},
            "FORMATS=hf,ctx: 'ctx' is not known; use one of hf, compact, compact-int8, "
            "compact-int5, compact-int4, onnx, onnx-int8, ct2, ct2-int8",
        ),
        (
            {"SPEED": "9"},
            "SPEED: unknown override; use one of SPARSITY, METHOD, ALLOCATION, PATTERN, MODEL, "
            "SAMPLES, DEVICE",
        ),
        ({"PATTERN": "2:4", "ALLOCATION": "owl"}, "ALLOCATION=uniform"),
    ],
)
def test_a_bad_override_is_named_with_the_fix(write, overrides, expected):
    assert expected in error_of(write(), overrides)


def test_structured_decides_the_method_unless_that_is_overridden_and_layers_the_allocation(write):
    path = write({"pruning": {"method": "wanda", "weight_importance_method": "wanda"}})
    config = load(path, {"pattern": "structured"})
    assert (
        config.pruning.method,
        config.pruning.allocation,
        config.pruning.structured.structures,
    ) == ("sparsegpt", "owl", ["heads", "neurons"])
    assert run_name(path, config, {"pattern": "structured"}) == "mine-sparsegpt-owl-structured-s0.5"
    assert "METHOD=sparsegpt" in error_of(path, {"pattern": "structured", "method": "wanda"})
    layers = load(write({"pruning": {"pruning_pattern": "structured", "structures": ["layers"]}}))
    assert layers.pruning.allocation == "uniform"


def test_low_rank_decides_the_method_and_is_of_the_encoder_unless_that_is_said(write):
    path = write({"pruning": {"method": "wanda", "sparsity": 0.5}}, "mine.json")
    found = load(path, {"pattern": "lowrank"}).pruning
    assert (found.method, found.target_modules) == ("sparsegpt", ["encoder.layers"])
    path = write({"pruning": {"target_modules": ["decoder"]}}, "mine.json")
    assert load(path, {"pattern": "lowrank"}).pruning.target_modules == ["decoder"]
    assert load(path, {}).pruning.method == "wanda"


# --- files that cannot be read


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"model": {\n  "name" "x"}}', "line 2, column 10"),
        ("", "line 1, column 1"),
        ("[]", "must hold one JSON object"),
        ('{"pruning": {"sparsity": 0.5, "sparsity": 0.7}}', "key 'sparsity' is written twice"),
    ],
)
def test_broken_json_is_refused_with_its_place(write, text, expected):
    message = error_of(write(text))
    assert expected in message and "mine.json" in message


def test_a_missing_file_a_folder_and_binary_data_are_refused(write, tmp_path):
    assert "no such config file" in error_of(tmp_path / "gone.json")
    assert "cannot be read" in error_of(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert "save it as UTF-8" in error_of(tmp_path / "binary.json")


# --- keys and values


@pytest.mark.parametrize(
    "content, key, nearest",
    [
        ({"prunning": {}}, "prunning", "pruning"),
        ({"sparsity": 0.5}, "sparsity", "pruning.sparsity"),
        ({"pruning": {"sparcity": 0.5}}, "pruning.sparcity", "pruning.sparsity"),
        (
            {"pruning": {"weight_importance": "wanda"}},
            "pruning.weight_importance",
            "pruning.weight_importance_method",
        ),
        (
            {"pruning": {"calibration": {"sample": 1}}},
            "pruning.calibration.sample",
            "pruning.calibration.samples",
        ),
        ({"pruning": {"precision": "fp16"}}, "pruning.precision", "hardware.precision"),
        (
            {"evaluation": {"datasets": [{"name": "a", "splt": "b"}]}},
            "evaluation.datasets[0].splt",
            "evaluation.datasets.split",
        ),
        (
            {"optimization": {"compile": {"enable": False}}},
            "optimization.compile.enable",
            "optimization.compile.enabled",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(write, content, key, nearest):
    assert f"mine.json: {key}: unknown key; the nearest known key is {nearest}:" in error_of(
        write(content)
    )


def section(dotted, value):
    """{"a": {"b": value}} of "a.b"."""
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize(
    "key, value, fix",
    [
        ("pruning", [], "must be an object {...}"),
        ("model.name", "", "must be a non-empty string"),
        ("pruning.sparsity", "0.5", 'must be a number, not "0.5"; write it without quotes'),
        ("pruning.sparsity", True, "must be a number, not true"),
        ("pruning.sparsity", 1.5, "at least 0 and below 1"),
        ("pruning.sparsity", 1, "at least 0 and below 1"),
        ("pruning.sparsity", -0.1, "at least 0 and below 1"),
        ("pruning.sparsity", float("nan"), "must be a finite number"),
        ("pruning.outlier_hyper_lambda", -1, "must be at least 0"),
        ("pruning.outlier_hyper_m", 0, "must be above 0"),
        ("pruning.outlier_hyper_m", float("inf"), "must be a finite number"),
        (
            "pruning.method",
            "random",
            "'random' is not known; use one of magnitude, wanda, sparsegpt",
        ),
        (
            "pruning.allocation",
            "best",
            "is not known; use one of uniform, owl, owl-equal, dlp, alpha, fisher, measured",
        ),
        ("pruning.outlier_detection_method", "mean", "use one of owl, median"),
        ("pruning", {"pruning_pattern": "structured", "method": "magnitude"}, "(METHOD=sparsegpt)"),
        (
            "pruning",
            {"pruning_pattern": "structured", "structures": ["layers", "heads"]},
            "goes with no other structure",
        ),
        (
            "pruning",
            {"pruning_pattern": "structured", "structures": ["layers"], "allocation": "owl"},
            "ALLOCATION=uniform",
        ),
        (
            "pruning",
            {"pruning_pattern": "lowrank", "method": "sparsegpt", "allocation": "fisher"},
            "judges single weights, not heads, neurons or ranks",
        ),
        ("pruning", {"pruning_pattern": "lowrank", "method": "alps"}, "(METHOD=sparsegpt)"),
        (
            "pruning",
            {"pruning_pattern": "structured", "equal_widths": True},
            'set structures to ["neurons"]',
        ),
        ("pruning.structures", [], "must name at least one of heads, neurons, layers"),
        ("pruning.structures", ["rows"], "'rows' is not known; use one of heads, neurons, layers"),
        ("pruning.pruning_pattern", "4:2", "N must be at least 1 and below M"),
        ("pruning.pruning_pattern", "0:4", "N must be at least 1 and below M"),
        (
            "pruning.pruning_pattern",
            "blocky",
            "is not known; use one of unstructured, structured, lowrank, 2:4",
        ),
        (
            "pruning.pruning_schedule",
            "sine",
            "'sine' is not known; use one of one_shot, linear, exponential, cubic",
        ),
        ("pruning.pruning_iterations", 0, "must be a whole number of at least 1"),
        (
            "pruning.recovery",
            "retrain",
            "'retrain' is not known; use one of none, blockwise, distill",
        ),
        ("pruning.recovery_minutes", 0, "must be above 0"),
        ("pruning.recovery_steps", 0, "must be a whole number of at least 1"),
        ("pruning.recovery_epochs", -1, "must be a whole number of at least 1"),
        ("pruning.recovery_learning_rate", 0, "must be above 0"),
        ("pruning.target_modules", [], "must name at least one module"),
        ("pruning.target_modules", "encoder", "must be a list"),
        ("pruning.calibration.samples", 0, "at least 1"),
        ("pruning.calibration.samples", 1.5, "must be a whole number"),
        ("pruning.calibration.samples", True, "must be a whole number, not true"),
        ("pruning.calibration.seed", -1, "at least 0"),
        ("pruning.calibration.labels", "teacher", "use one of model, reference"),
        ("pruning.calibration.padding", "half", "use one of exclude, include"),
        ("pruning.calibration.dataset", {}, "is required; add it"),
        (
            "pruning.calibration",
            {"dataset": {"name": "a", "max_samples": 3}},
            "set pruning.calibration.samples instead",
        ),
        ("evaluation.datasets", [], "must list at least one dataset"),
        (
            "evaluation",
            {"datasets": [{"name": "a"}, {"name": "a"}]},
            "repeats an earlier entry; remove it",
        ),
        ("evaluation.metrics", ["bleu"], "use one of wer, character_error_rate"),
        ("evaluation.batch_size", 0, "at least 1"),
        ("evaluation.max_new_tokens", -5, "at least 1"),
        ("evaluation.normalizer", "german", "use one of auto, english, basic, none"),
        ("optimization.compile.mode", "fast", "is not known; use one of default, reduce-overhead"),
        ("optimization.quantization.bits", 4, 'bits 4 goes with method "calibrated"'),
        (
            "optimization.quantization.method",
            "static",
            "'static' is not available yet; use one of dynamic",
        ),
        ("output.compare_with", [""], "must be a non-empty string"),
        ("output.save_model", "yes", "must be true or false"),
        ("output.formats", ["onnx-int4"], "'onnx-int4' is not known; use one of hf, compact,"),
        ("hardware.device", "cuda:", "must be one of auto, cuda"),
        ("hardware.precision", "int8", "use one of float32, float16, bfloat16"),
        ("hardware.cpu_threads", 0, "at least 1"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_the_fix(write, key, value, fix):
    message = error_of(write(section(key, value)))
    assert key in message and fix in message


@pytest.mark.parametrize(
    "pruning, expected",
    [
        ({"method": "wanda", "weight_importance_method": "magnitude"}, "remove one of them"),
        ({"method": "wanda", "outlier_detection_method": "median"}, "METHOD=magnitude"),
        ({"pruning_pattern": "2:4", "apply_outlier_weighting": True}, "ALLOCATION=uniform"),
        ({"pruning_pattern": "2:4", "allocation": "owl"}, "ALLOCATION=uniform"),
        (
            {"pruning_pattern": "2:4", "sparsity": 0.7},
            "means sparsity 0.5, not 0.7; leave out sparsity",
        ),
        ({"pruning_schedule": "cubic", "pruning_iterations": 3}, "needs a recovery: set recovery"),
        (
            {"pruning_schedule": "cubic", "recovery": "distill"},
            "set pruning_iterations to at least 2",
        ),
        (
            {
                "pruning_schedule": "cubic",
                "recovery": "distill",
                "pruning_iterations": 2,
                "pruning_pattern": "2:4",
            },
            "has no sparsities in between",
        ),
        ({"pruning_iterations": 3}, "mean several rounds of pruning; set pruning_schedule"),
        (
            {"pruning_frequency": 100, "recovery": "distill"},
            "mean several rounds of pruning; set pruning_schedule",
        ),
    ],
)
def test_values_that_exclude_each_other_are_refused(write, pruning, expected):
    message = error_of(write({"pruning": pruning}))
    assert "mine.json: pruning: " in message and expected in message


def test_the_same_dataset_in_two_splits_is_fine(write):
    datasets = [{"name": "a", "split": "clean"}, {"name": "a", "split": "other"}]
    assert len(load(write({"evaluation": {"datasets": datasets}})).evaluation.datasets) == 2


@pytest.mark.parametrize(
    "datasets, shown",
    [
        ([{"name": "a"}, {"name": "b"}], ["a", "b"]),
        (
            [{"name": "a", "split": "clean"}, {"name": "b"}, {"name": "a", "split": "other"}],
            ["a clean", "b", "a other"],
        ),
        (
            [
                {"name": "a", "split": "x", "subset": "s"},
                {"name": "a", "split": "x", "subset": "t"},
            ],
            ["a s", "a t"],
        ),
        (
            [{"name": "a", "path": "one/clips"}, {"name": "a", "path": "two/clips"}],
            ["a one/clips", "a two/clips"],
        ),
        ([{"name": "a", "path": "one"}, {"name": "a"}], ["a one", "a"]),
        ([{"name": "a", "language": "de"}, {"name": "a", "language": "fr"}], ["a de", "a fr"]),
    ],
)
def test_datasets_of_one_name_are_told_apart_by_what_differs(write, datasets, shown):
    assert load(write({"evaluation": {"datasets": datasets}})).evaluation.display_names == shown


@pytest.mark.parametrize(
    "datasets",
    [
        [{"name": "a", "max_samples": 1}, {"name": "a", "max_samples": 2}],
        [{"name": "a", "split": "x"}, {"name": "a", "split": "y"}, {"name": "a y"}],
    ],
)
def test_datasets_that_no_name_tells_apart_are_refused(write, datasets):
    assert "and an earlier entry would both be called 'a" in error_of(
        write({"evaluation": {"datasets": datasets}})
    )


def test_all_problems_are_listed_one_per_line(write):
    message = error_of(
        write({"pruning": {"sparsity": 2, "methd": "x"}, "hardware": {"device": "tpu"}})
    )
    assert len(message.splitlines()) == 3


# --- the familiar keys


FLAT = {
    "weight_importance_method": "magnitude",
    "apply_outlier_weighting": True,
    "outlier_detection_method": "median",
    "pruning_schedule": "cubic",
    "pruning_iterations": 3,
    "pruning_frequency": 2,
    "recovery": "distill",
    "recovery_minutes": 2.0,
    "recovery_steps": 4,
    "recovery_epochs": 3,
    "recovery_learning_rate": 1e-4,
    "recovery_batch_size": 2,
    "structures": ["neurons"],
    "equal_widths": True,
}
SECTIONS = {
    "method": "magnitude",
    "allocation": "median",
    "schedule": {"name": "cubic", "iterations": 3, "frequency": 2},
    "recovery": {
        "method": "distill",
        "minutes": 2.0,
        "steps": 4,
        "epochs": 3,
        "learning_rate": 1e-4,
        "batch_size": 2,
    },
    "structured": {"structures": ["neurons"], "equal_widths": True},
}


def test_familiar_keys_and_sections_mean_the_same_and_may_be_mixed(write):
    flat, ours = load(write({"pruning": FLAT})), load(write({"pruning": SECTIONS}))
    assert flat == ours and flat.digest() == ours.digest()
    mixed = {"recovery": {"method": "distill"}, "recovery_minutes": 2.0, "recovery_steps": 4}
    assert load(write({"pruning": mixed})).pruning.recovery.minutes == 2.0


@pytest.mark.parametrize(
    "raw, expected",
    [
        (
            {"pruning": {"recovery": {"method": "distill", "steps": 1}, "recovery_steps": 2}},
            "pruning: recovery.steps is 1 but its alias recovery_steps is 2; remove one of them",
        ),
        (
            {"pruning": {"pattern": "2:4", "pruning_pattern": "4:8"}},
            'pruning: pattern is "2:4" but its alias pruning_pattern is "4:8"',
        ),
        ({"pruning": {"recovery": {"method": "retrain"}}}, "pruning.recovery.method: 'retrain'"),
        ({"pruning": {"schedule": "cubic"}}, "pruning.schedule: must be an object {...}"),
        ({"pruning": {"recovery": {"minuts": 1}}}, "known key is pruning.recovery.minutes"),
        ({"pruning": {"export_onnx": True}}, "the nearest known key is output.export_onnx"),
        ({"pruning": {"weight_importance_method": "x"}}, "weight_importance_method: 'x' is not"),
        ({"pruning": {"apply_outlier_weighting": "no"}}, "weighting: must be true or false"),
        ({"output": {"export_onnx": 1}}, "output.export_onnx: must be true or false, not 1"),
    ],
)
def test_what_contradicts_or_is_wrong_is_named_as_it_was_written(write, raw, expected):
    assert expected in error_of(write(raw))


# --- run names


def test_run_names_say_what_differs(write, tmp_path):
    (tmp_path / "my tuned").mkdir()
    path = write(name="demo.json")

    def name(**overrides):
        return run_name(path, load(path, overrides), overrides)

    assert name() == name(sparsity="") == "demo-wanda-owl-s0.5"
    assert (
        name(sparsity="0.70", method="sparsegpt", allocation="uniform")
        == "demo-sparsegpt-uniform-s0.7"
    )
    assert name(pattern="2:4", samples="20") == "demo-wanda-uniform-2-4-s0.5-n20"
    assert (
        name(sparsity="0.7", recovery="blockwise", samples="9")
        == "demo-wanda-owl-s0.7-blockwise-n9"
    )
    assert name(recovery="distill", minutes="2.50") == "demo-wanda-owl-s0.5-distill-m2.5"
    with pytest.raises(
        ConfigError, match="MINUTES=10 is the time of RECOVERY=distill, and recovery is blockwise"
    ):
        name(recovery="blockwise", minutes="10")
    assert name(model=str(tmp_path / "my tuned")) == "demo-my-tuned-wanda-owl-s0.5"
    assert name(model="openai/whisper-tiny") == "demo-whisper-tiny-wanda-owl-s0.5"


def test_a_gradual_run_is_named_after_its_schedule_and_rounds(write):
    gradual = {
        "pruning_schedule": "cubic",
        "pruning_iterations": 4,
        "pruning_frequency": 2,
        "recovery": "distill",
    }
    path = write({"pruning": gradual})
    assert run_name(path, load(path)) == "mine-wanda-owl-s0.5-distill-cubic4"


# --- the command


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command on a repository whose root is tmp_path."""
    monkeypatch.setattr(resolve, "ROOT", tmp_path)
    return lambda path, *arguments: resolve.main(["--config", str(path), *arguments])


def test_the_command_writes_the_runs_config_once_and_prints_its_name(run, write, tmp_path, capsys):
    path, runs = write(), tmp_path / "runs"
    assert run(path, "SPARSITY=0.7", "METHOD=", "SAMPLES=") == 0
    assert capsys.readouterr().out == "mine-wanda-owl-s0.7\n"
    written = runs / "mine-wanda-owl-s0.7" / "config.json"
    config = load_resolved(written)
    assert (config.pruning.sparsity, config.output.dir) == (0.7, str(ROOT / "runs"))
    assert json.loads(written.read_text())["digest"] == config.digest()
    os.utime(written, (1, 1))
    assert run(path, "SPARSITY=0.7") == 0
    assert written.stat().st_mtime == 1  # make sees nothing new
    assert run(path, "SPARSITY=0.7", "DEVICE=cpu") == 0
    assert written.stat().st_mtime > 1
    assert [file.name for file in written.parent.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "entry", [{"name": "speech", "path": "speech"}, {"name": "speech"}], ids=["path", "name"]
)
def test_a_changed_clip_or_model_file_is_a_changed_run(run, write, tmp_path, entry):
    folder = tmp_path / "speech"
    folder.mkdir()
    (folder / "metadata.csv").write_text("file_name,text\n")
    path = write({"evaluation": {"datasets": [entry]}})
    assert run(path) == 0
    written = tmp_path / "runs" / "mine-wanda-owl-s0.5" / "config.json"
    os.utime(written, (1, 1))
    assert run(path) == 0 and written.stat().st_mtime == 1
    (folder / "a.wav").write_bytes(b"new")
    assert run(path) == 0 and written.stat().st_mtime > 1


@pytest.mark.parametrize(
    "argument",
    ["SPARSITY=abc", "METHOD=wonder", "0.7", "--run=a/b", "--run=..", "--run=a b", "--run="],
)
def test_a_bad_command_is_one_message_and_leaves_nothing(run, write, tmp_path, capsys, argument):
    assert run(write(), argument) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    assert not (tmp_path / "runs").exists()


def test_a_file_where_a_folder_belongs_is_refused(run, write, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "taken").touch()
    assert run(write(), "--run", "taken") == 2
    assert (
        "run 'taken'" in (message := capsys.readouterr().err)
        and "is a file where a folder belongs" in message
    )
    (tmp_path / "reports").touch()
    assert run(write(), "--run", "mine") == 2
    assert "the report of run 'mine'" in capsys.readouterr().err
    (tmp_path / "out").touch()
    assert run(write({"output": {"dir": "out"}}), "--run", "mine") == 2
    assert "output.dir" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "mine").exists()


def test_a_changed_config_takes_away_what_the_old_report_claimed(run, write, tmp_path):
    assert run(write(), "DEVICE=auto") == 0
    report = tmp_path / "reports" / "mine-wanda-owl-s0.5"
    report.mkdir(parents=True)
    for name in ("summary.json", "index.html", "01_outlier_analysis.html"):
        (report / name).touch()
    assert run(write(), "DEVICE=auto") == 0
    assert len(list(report.iterdir())) == 3
    assert run(write(), "DEVICE=cpu") == 0
    assert [path.name for path in report.iterdir()] == ["01_outlier_analysis.html"]


def test_the_name_of_a_finished_run_of_another_config_is_refused(run, write, tmp_path, capsys):
    path, runs = write(), tmp_path / "runs"
    assert run(path, "--run", "mine", "SPARSITY=0.5") == 0
    assert run(path, "--run", "mine", "SPARSITY=0.6") == 0  # not finished yet
    (tmp_path / "reports" / "mine").mkdir(parents=True)
    (tmp_path / "reports" / "mine" / "summary.json").touch()
    assert run(path, "--run", "mine", "SPARSITY=0.6") == 0  # the same config
    capsys.readouterr()
    assert run(path, "--run", "mine", "SPARSITY=0.7") == 2
    assert (
        "a finished run of another config" in (message := capsys.readouterr().err)
        and "choose another RUN" in message
    )
    assert load_resolved(runs / "mine" / "config.json").pruning.sparsity == 0.6


def test_the_shell_sees_exit_code_two_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "owl.run.resolve", "--config", str(tmp_path / "gone.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_reading_a_config_needs_no_torch():
    code = "import owl.run.resolve, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_config_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        Config().pruning.sparsity = 0.9


def test_calibrated_quantization_adds_both_roundings_and_refuses_bits_that_no_format_has(write):
    def formats(names, **settings):
        settings |= {"enabled": True, "method": "calibrated"}
        file = {"output": {"formats": names}, "optimization": {"quantization": settings}}
        return load(write(file)).formats

    assert formats(["hf", "compact", "ggml"], bits=4) == [
        *("hf", "compact", "compact-int4", "compact-int4-calibrated"),
        *("ggml", "ggml-q4_0", "ggml-q4_0-calibrated"),
    ]
    assert formats(["ggml-q4_0"], bits=5) == ["ggml-q4_0", "ggml-q5_0", "ggml-q5_0-calibrated"]
    assert formats(["compact-int8"]) == ["compact-int8", "compact-int8-calibrated"]
    with pytest.raises(ConfigError, match="none of hf, ct2 has a form of 5 bits.*add compact or"):
        formats(["hf", "ct2"], bits=5)
    with pytest.raises(ConfigError, match="bits"):
        formats(["ggml"], bits=3)


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        (["hf"], ["hf", "onnx-int8"]),
        (["hf", "onnx", "ct2"], ["hf", "onnx", "onnx-int8", "ct2", "ct2-int8"]),
        (["ct2-int8", "ct2"], ["ct2-int8", "ct2"]),
        (["compact"], ["compact", "compact-int8"]),
    ],
)
def test_quantization_adds_the_int8_form_of_every_format_that_has_one(write, formats, expected):
    plain = {"output": {"formats": formats}}
    assert load(write(plain)).formats == formats
    assert (
        load(write(plain | {"optimization": {"quantization": {"enabled": True}}})).formats
        == expected
    )


def test_models_to_compare_with_are_found_as_the_model_itself_is(write, tmp_path):
    (tmp_path / "small").mkdir()
    config = load(write({"output": {"compare_with": ["small", "openai/whisper-tiny"]}}))
    assert config.output.compare_with == [str(tmp_path / "small"), "openai/whisper-tiny"]
