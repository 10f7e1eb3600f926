"""The config file as types: every key with its default, its allowed values, and the combinations that cannot work.

Reading files, Make's overrides and error messages are in `owl.config`, which also exports `Config`. A value whose feature does
not exist yet is refused here, by name; nothing is ignored. Paths inside a `Config` are absolute strings.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from math import isclose
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, computed_field, model_validator

from owl.checks import check, check_pattern, if_null, one_of, parse_pattern, unique
from owl.paths import ROOT


Text = Annotated[str, check(lambda value: value.strip(), "must be a non-empty string")]
Count = Annotated[int, check(lambda value: value >= 1, "must be a whole number of at least 1")]
Names = Annotated[list[Text], unique()]
Method = Annotated[str, one_of("magnitude", "wanda", "sparsegpt", later=("alps",))]
Allocation = Annotated[str, one_of("uniform", "owl", "owl-equal", later=("dlp", "alpha", "measured"))]
Sparsity = Annotated[float, check(lambda value: 0 <= value < 1, "must be a fraction of at least 0 and below 1 such as 0.5")]
Metric = Annotated[str, one_of("wer", "character_error_rate", aliases={"cer": "character_error_rate"})]
Format = Annotated[str, one_of("hf", "compact", "compact-int8", "onnx", "onnx-int8", "ct2", "ct2-int8")]
WITH_INT8 = ("compact", "onnx", "ct2")
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Device = Annotated[
    str, check(re.compile(r"auto|cuda(:[0-9]+)?|mps|cpu").fullmatch, "must be one of auto, cuda, cuda:0 (1, …), mps, cpu")
]
Off = Annotated[bool, check(lambda value: not value, "is not available yet; use false")]
Once = Annotated[int, check(lambda value: value == 1, "is not available yet with several pruning rounds; use 1")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Model(Section):
    name: Text = str(ROOT / "models" / "demo")  # absolute folder, or a Hub id
    cache_dir: Text | None = None  # null: the Hub library's own


class Dataset(Section):
    name: Text
    split: Text | None = None
    subset: Text | None = None
    language: Text | None = None
    max_samples: Count | None = None  # clips; null: all
    path: Text | None = None


class Calibration(Section):
    dataset: Dataset = Dataset(name="demo-calibration", path=str(ROOT / "data" / "demo" / "calibration"))
    samples: Count = 128  # clips
    seed: Annotated[int, check(lambda value: value >= 0, "must be a whole number of at least 0")] = 0
    labels: Annotated[str, one_of("model", "reference")] = "model"
    padding: Annotated[str, one_of("exclude", "include")] = "exclude"

    @model_validator(mode="after")
    def one_count(self) -> "Calibration":
        if self.dataset.max_samples is not None:
            raise ValueError("dataset.max_samples has no meaning for calibration; set pruning.calibration.samples instead")
        return self


class Pruning(Section):
    method: Method = "wanda"
    sparsity: Sparsity = 0.5  # share of the prunable weights
    target_modules: Annotated[Names, check(len, "must name at least one module such as encoder.layers")] = [
        "encoder.layers",
        "decoder.layers",
    ]
    excluded_modules: Names = []
    pruning_pattern: Annotated[str, if_null("unstructured"), AfterValidator(check_pattern)] = "unstructured"
    apply_outlier_weighting: bool = True
    outlier_detection_method: Annotated[str, one_of("owl", "median")] = "owl"
    outlier_hyper_lambda: Annotated[float, check(lambda value: value >= 0, "must be at least 0 such as 0.08")] = 0.08
    outlier_hyper_m: Annotated[float, check(lambda value: value > 0, "must be above 0 such as 5")] = 5.0
    pruning_schedule: Annotated[
        str, one_of("one_shot", later=("linear", "exponential", "cubic"), aliases={"one-shot": "one_shot"})
    ] = "one_shot"
    pruning_iterations: Once = 1
    pruning_frequency: Once = 1
    allocation: Allocation | None = None  # null: as apply_outlier_weighting and outlier_detection_method say
    recovery: Annotated[str, one_of("none", later=("blockwise", "distill"))] = "none"
    calibration: Calibration = Calibration()

    @computed_field
    @property
    def weight_importance_method(self) -> str:
        return self.method

    @property
    def pattern(self) -> str:
        """ "unstructured" or "N:M"."""
        return self.pruning_pattern

    @property
    def allocation_name(self) -> str:
        """What is in effect: "uniform", "owl", "owl-equal" or "median"."""
        if self.allocation is not None:
            return self.allocation
        return self.outlier_detection_method if self.apply_outlier_weighting else "uniform"

    @model_validator(mode="before")
    @classmethod
    def merge_keys(cls, data: Any) -> Any:
        """`weight_importance_method` is `method`; an N:M pattern decides the sparsity and allocation that nobody stated."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        alias = data.pop("weight_importance_method", None)
        if alias is not None and data.setdefault("method", alias) != alias:
            raise ValueError(
                f"method is {json.dumps(data['method'])} but its alias weight_importance_method is {json.dumps(alias)}; "
                "remove one of them"
            )
        if fixed := parse_pattern(data.get("pruning_pattern")):
            data.setdefault("sparsity", 1 - fixed[0] / fixed[1])
            if data.get("allocation") is None:
                data.setdefault("apply_outlier_weighting", False)
        return data

    @model_validator(mode="after")
    def fit_together(self) -> "Pruning":
        if self.allocation_name == "median" and self.method != "magnitude":
            raise ValueError(
                f'outlier_detection_method "median" goes with method magnitude only, not {self.method}; '
                'set method to "magnitude" (METHOD=magnitude) or the allocation to "owl" (ALLOCATION=owl)'
            )
        fixed = parse_pattern(self.pattern)
        if fixed and self.allocation_name != "uniform":
            raise ValueError(
                f"pruning_pattern {self.pattern} gives every block the same sparsity, so the allocation cannot be "
                f'{self.allocation_name}; set allocation to "uniform" (ALLOCATION=uniform) or the pattern to "unstructured"'
            )
        if fixed and not isclose(self.sparsity, 1 - fixed[0] / fixed[1], abs_tol=1e-6):
            raise ValueError(
                f"pruning_pattern {self.pattern} means sparsity {1 - fixed[0] / fixed[1]:.6g}, not {self.sparsity:g}; "
                "leave out sparsity (SPARSITY=) or the pattern (PATTERN=unstructured)"
            )
        return self


class Evaluation(Section):
    datasets: Annotated[list[Dataset], check(len, "must list at least one dataset")] = [
        Dataset(name="demo", path=str(ROOT / "data" / "demo" / "evaluation"))
    ]
    metrics: Annotated[list[Metric], unique(), check(len, "must list at least one of wer, character_error_rate")] = [
        "wer",
        "character_error_rate",
    ]
    batch_size: Count = 16  # clips
    normalizer: Annotated[str, if_null("auto"), one_of("auto", "english", "basic", "none")] = "auto"  # auto: by language
    max_new_tokens: Count | None = None  # null: the model's whole budget

    @model_validator(mode="after")
    def no_dataset_twice(self) -> "Evaluation":
        for index, dataset in enumerate(self.datasets):
            if dataset in self.datasets[:index]:
                raise ValueError(f"datasets[{index}] ('{dataset.name}') repeats an earlier entry; remove it")
        return self


class Quantization(Section):
    enabled: bool = False  # adds the int8 form of every format that has one
    bits: Annotated[int, check(lambda value: value == 8, "must be 8: int8 is what the exported runtimes compute in")] = 8
    method: Annotated[str, one_of("dynamic", later=("static",))] = "dynamic"


class Compile(Section):
    enabled: Off = False
    mode: Text = "default"


class Optimization(Section):
    quantization: Quantization = Quantization()
    compile: Compile = Compile()


class Output(Section):
    dir: Text = str(ROOT / "runs")
    save_model: bool = True
    log_to_tensorboard: bool = False
    save_pruned_checkpoints: Off = False
    export_onnx: bool = False
    formats: Annotated[list[Format], unique()] = ["hf"]
    compare_with: Names = []  # other dense models (folder or Hub id), e.g. a smaller one, measured beside the exports

    @property
    def all_formats(self) -> list[str]:
        return list(dict.fromkeys(self.formats + ["onnx"] * self.export_onnx))


class Hardware(Section):
    device: Device = "auto"
    use_mps: bool = True  # false keeps "auto" from choosing MPS
    precision: Annotated[str, one_of("float32", "float16", "bfloat16", aliases=PRECISIONS)] = "float32"
    cpu_threads: Count | None = None  # null: PyTorch's choice


class Config(Section):
    model: Model = Model()
    pruning: Pruning = Pruning()
    evaluation: Evaluation = Evaluation()
    optimization: Optimization = Optimization()
    output: Output = Output()
    hardware: Hardware = Hardware()

    @property
    def formats(self) -> list[str]:
        """What is exported, in order; with quantization each plain format is followed by its int8 form, and ONNX's is added if there is none."""
        plain = self.output.all_formats
        if not self.optimization.quantization.enabled:
            return plain
        both = [name for one in plain for name in ((one, f"{one}-int8") if one in WITH_INT8 else (one,))]
        return list(dict.fromkeys(both if any(name.endswith("-int8") for name in both) else [*both, "onnx-int8"]))

    def resolved(self) -> dict[str, Any]:
        """Every key as JSON types, paths absolute."""
        return self.model_dump(mode="json")

    def portable(self) -> dict[str, Any]:
        """`resolved` with paths relative to the repository root, so that nothing in it names the machine."""
        data = self.resolved()
        for section, key in [(data["model"], "name"), *path_slots(data), *others_slots(data)]:
            if os.path.isabs(section[key]):
                section[key] = os.path.relpath(section[key], ROOT)
        return data

    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over `portable` as canonical JSON."""
        text = json.dumps(self.portable(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def path_slots(raw: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """(section, key) of every non-empty path in a config's JSON, valid or not; without `model.name`, which may be a Hub id."""

    def get(value: Any, *keys: str) -> Any:
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    datasets = get(raw, "evaluation", "datasets")
    entries = [get(raw, "pruning", "calibration", "dataset"), *(datasets if isinstance(datasets, list) else [])]
    for section, key in [(get(raw, "model"), "cache_dir"), (get(raw, "output"), "dir"), *((entry, "path") for entry in entries)]:
        if isinstance(value := get(section, key), str) and value:
            yield section, key


def others_slots(raw: dict[str, Any]) -> Iterator[tuple[list, int]]:
    """(list, index) of every entry of `output.compare_with`, valid or not: a folder or a Hub id."""
    output = raw.get("output")
    others = output.get("compare_with") if isinstance(output, dict) else None
    for index, value in enumerate(others if isinstance(others, list) else []):
        if isinstance(value, str):
            yield others, index
