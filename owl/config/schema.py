"""The config file as types: every key with its default, its allowed values, and the combinations
that cannot work.

Reading files, Make's overrides and error messages are in `owl.config.load`, which also exports
`Config`. Unknown keys and combinations that cannot work are refused; a key of a pattern or recovery
that is not chosen waits for it. Paths inside a `Config` are absolute strings.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, computed_field, model_validator

from owl import ROOT
from owl.config.checks import (
    check,
    check_pattern,
    if_null,
    one_of,
    parse_mixed,
    parse_pattern,
    unique,
)
from owl.kernels.schedule import SCHEDULES

Text = Annotated[str, check(lambda value: value.strip(), "must be a non-empty string")]
Count = Annotated[int, check(lambda value: value >= 1, "must be a whole number of at least 1")]
Names = Annotated[list[Text], unique()]
Method = Annotated[str, one_of("magnitude", "wanda", "sparsegpt", "alps")]
Allocation = Annotated[str, one_of("uniform", "owl", "owl-equal", "dlp", "alpha", "measured")]
Sparsity = Annotated[
    float,
    check(lambda value: 0 <= value < 1, "must be a fraction of at least 0 and below 1 such as 0.5"),
]
Structure = Annotated[str, one_of("heads", "neurons", "layers")]
Metric = Annotated[
    str, one_of("wer", "character_error_rate", aliases={"cer": "character_error_rate"})
]
FORMATS = ("hf", "compact", "compact-int8", "onnx", "onnx-int8", "ct2", "ct2-int8")
Format = Annotated[str, one_of(*FORMATS)]
WITH_INT8 = ("compact", "onnx", "ct2")
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Device = Annotated[
    str,
    check(
        re.compile(r"auto|cuda(:[0-9]+)?|mps|cpu").fullmatch,
        "must be one of auto, cuda, cuda:0 (1, …), mps, cpu",
    ),
]
Positive = Annotated[float, check(lambda value: value > 0, "must be above 0")]


PARTS = ("subset", "split", "language")


def tell_apart(entries: Sequence[Mapping]) -> list[str]:
    """One display name per dataset entry (keys name, path, subset, split, language): its `name`,
    and where that repeats also what differs.

    ("librispeech test-clean", "librispeech test-other"); of paths, what is left below the folder
    that holds them all. Entries that only differ in what is not listed (max_samples) still share a
    name: the caller refuses them.
    """
    names = [entry["name"] for entry in entries]
    return [
        " ".join(
            [
                entry["name"],
                *_differing(entry, [other for other in entries if other["name"] == entry["name"]]),
            ]
        )
        if names.count(entry["name"]) > 1
        else entry["name"]
        for entry in entries
    ]


def _differing(entry: Mapping, namesakes: Sequence[Mapping]) -> list[str]:
    paths = {other["path"] for other in namesakes}
    parts = [
        entry[key] for key in PARTS if entry[key] and len({other[key] for other in namesakes}) > 1
    ]
    if entry["path"] and len(paths) > 1:
        above = os.path.commonpath([os.path.dirname(path) for path in paths if path])
        parts.insert(0, os.path.relpath(entry["path"], above))
    return parts


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
    dataset: Dataset = Dataset(
        name="demo-calibration", path=str(ROOT / "data" / "demo" / "calibration")
    )
    samples: Count = 128  # clips
    seed: Annotated[
        int, check(lambda value: value >= 0, "must be a whole number of at least 0")
    ] = 0
    labels: Annotated[str, one_of("model", "reference")] = "model"
    padding: Annotated[str, one_of("exclude", "include")] = "exclude"

    @model_validator(mode="after")
    def one_count(self) -> "Calibration":
        if self.dataset.max_samples is not None:
            raise ValueError(
                "dataset.max_samples has no meaning for calibration; set "
                "pruning.calibration.samples instead"
            )
        return self


class Pruning(Section):
    method: Method = "wanda"
    sparsity: Sparsity = 0.5  # share of the prunable weights
    target_modules: Annotated[
        Names, check(len, "must name at least one module such as encoder.layers")
    ] = ["encoder.layers", "decoder.layers"]
    excluded_modules: Names = []
    pruning_pattern: Annotated[str, if_null("unstructured"), AfterValidator(check_pattern)] = (
        "unstructured"
    )
    apply_outlier_weighting: bool = True
    outlier_detection_method: Annotated[str, one_of("owl", "median")] = "owl"
    outlier_hyper_lambda: Annotated[
        float, check(lambda value: value >= 0, "must be at least 0 such as 0.08")
    ] = 0.08
    outlier_hyper_m: Annotated[
        float, check(lambda value: value > 0, "must be above 0 such as 5")
    ] = 5.0
    pruning_schedule: Annotated[str, one_of(*SCHEDULES, aliases={"one-shot": "one_shot"})] = (
        "one_shot"
    )
    pruning_iterations: Count = 1  # rounds of prune → recover
    # recovery passes over the calibration clips between two rounds; the last round gets the whole
    # recovery
    pruning_frequency: Count = 1
    bias_refit: bool = False  # biases take up the mean of what pruning changed
    allocation: Allocation | None = (
        None  # null: as apply_outlier_weighting and outlier_detection_method say
    )
    structures: Annotated[
        list[Structure], unique(), check(len, "must name at least one of heads, neurons, layers")
    ] = ["heads", "neurons"]
    # structured: one feed-forward width per stack, as stock transformers and CTranslate2 want it
    equal_widths: bool = False
    recovery: Annotated[str, one_of("none", "blockwise", "distill")] = "none"
    recovery_minutes: Positive = 5.0  # of distill, after its blockwise beginning
    recovery_steps: Count | None = (
        None  # of distill: this many instead of minutes, the same bits every time
    )
    # of blockwise, with which distill begins too: passes over the calibration clips per block
    recovery_epochs: Count = 6
    recovery_learning_rate: Positive | None = (
        None  # at its peak; null: 1e-3 for blockwise, 2e-4 for distill
    )
    recovery_batch_size: Count = 8  # clips
    calibration: Calibration = Calibration()

    @computed_field
    @property
    def weight_importance_method(self) -> str:
        return self.method

    @property
    def pattern(self) -> str:
        """ "unstructured", "structured" or "N:M"."""
        return self.pruning_pattern

    @property
    def group_size(self) -> int | None:
        """M of a mixed pattern "N:M", where every block has its own N; None for any other
        pattern.
        """
        return parse_mixed(self.pruning_pattern)

    @property
    def allocation_name(self) -> str:
        """What is in effect: one of the allocations, or "median"."""
        if self.allocation is not None:
            return self.allocation
        return self.outlier_detection_method if self.apply_outlier_weighting else "uniform"

    @model_validator(mode="before")
    @classmethod
    def merge_keys(cls, data: Any) -> Any:
        """`weight_importance_method` is `method`; a pattern decides the sparsity, allocation and
        method that nobody stated.
        """
        if not isinstance(data, dict):
            return data
        data = dict(data)
        alias = data.pop("weight_importance_method", None)
        if alias is not None and data.setdefault("method", alias) != alias:
            raise ValueError(
                f"method is {json.dumps(data['method'])} but its alias weight_importance_method is "
                f"{json.dumps(alias)}; remove one of them"
            )
        if fixed := parse_pattern(data.get("pruning_pattern")):
            data.setdefault("sparsity", 1 - fixed[0] / fixed[1])
        if structured := data.get("pruning_pattern") == "structured":
            data.setdefault("method", "sparsegpt")
        drops_layers = structured and data.get("structures") == ["layers"]
        if (fixed or drops_layers) and data.get("allocation") is None:
            data.setdefault("apply_outlier_weighting", False)
        return data

    @model_validator(mode="after")
    def fit_together(self) -> "Pruning":
        if self.allocation_name == "median" and self.method != "magnitude":
            raise ValueError(
                'outlier_detection_method "median" goes with method magnitude only, not '
                f"{self.method}; "
                'set method to "magnitude" (METHOD=magnitude) or the allocation to "owl" '
                "(ALLOCATION=owl)"
            )
        fixed = parse_pattern(self.pattern)
        if fixed and self.allocation_name != "uniform":
            raise ValueError(
                f"pruning_pattern {self.pattern} gives every block the same sparsity, so the "
                "allocation cannot be "
                f'{self.allocation_name}; set allocation to "uniform" (ALLOCATION=uniform) or the '
                'pattern to "unstructured"'
            )
        if self.group_size and self.allocation_name in ("measured", "median"):
            raise ValueError(
                f"pruning_pattern {self.pattern} takes one N per block, and {self.allocation_name} "
                "decides below blocks; "
                'set allocation to "owl" (ALLOCATION=owl) or the pattern to "unstructured"'
            )
        if fixed and not isclose(self.sparsity, 1 - fixed[0] / fixed[1], abs_tol=1e-6):
            raise ValueError(
                f"pruning_pattern {self.pattern} means sparsity {1 - fixed[0] / fixed[1]:.6g}, not "
                f"{self.sparsity:g}; "
                "leave out sparsity (SPARSITY=) or the pattern (PATTERN=unstructured)"
            )
        return self

    @model_validator(mode="after")
    def rounds_fit_together(self) -> "Pruning":
        gradual = self.pruning_schedule != "one_shot"
        if gradual and (self.recovery == "none" or self.pruning_iterations == 1):
            lacking = 'a recovery: set recovery to "blockwise" or "distill" (RECOVERY=distill)'
            lacking = (
                lacking
                if self.recovery == "none"
                else "rounds: set pruning_iterations to at least 2"
            )
            raise ValueError(
                f'pruning_schedule "{self.pruning_schedule}" prunes and recovers in turn and needs '
                f'{lacking}, or use "one_shot"'
            )
        if gradual and self.pattern != "unstructured":
            raise ValueError(
                f"pruning_pattern {self.pattern} has no sparsities in between, so pruning_schedule "
                f'cannot be "{self.pruning_schedule}"; '
                'use "one_shot" or the pattern "unstructured"'
            )
        if not gradual and (self.pruning_iterations, self.pruning_frequency) != (1, 1):
            raise ValueError(
                "pruning_iterations and pruning_frequency other than 1 mean several rounds of "
                "pruning; "
                'set pruning_schedule to "linear", "exponential" or "cubic", or both to 1'
            )
        return self

    @model_validator(mode="after")
    def structures_fit_together(self) -> "Pruning":
        if self.pattern != "structured":
            return self
        if self.method != "sparsegpt":
            raise ValueError(
                "pruning_pattern structured decides by the second-order error, as sparsegpt does, "
                f"not by {self.method}; "
                'leave out method or set it to "sparsegpt" (METHOD=sparsegpt)'
            )
        if "layers" in self.structures and (
            len(self.structures) > 1 or self.allocation_name != "uniform"
        ):
            raise ValueError(
                'structures ["layers"] drops whole layers by their influence: it goes with no '
                "other structure and no other allocation "
                'than "uniform" (ALLOCATION=uniform)'
            )
        if "layers" in self.structures and self.recovery != "none":
            raise ValueError(
                'recovery compares block with block, and structures ["layers"] leaves fewer of '
                "them; "
                'set recovery to "none" (RECOVERY=none) or structures to ["heads", "neurons"]'
            )
        if self.allocation_name == "measured":
            raise ValueError(
                "the measured allocation measures single weights, not whole heads and neurons; "
                'set allocation to "uniform" (ALLOCATION=uniform) or the pattern to "unstructured"'
            )
        if self.equal_widths and "heads" in self.structures:
            raise ValueError(
                "equal_widths is for runtimes that cannot load fewer heads; set structures to "
                '["neurons"] or equal_widths to false'
            )
        return self


class Evaluation(Section):
    datasets: Annotated[list[Dataset], check(len, "must list at least one dataset")] = [
        Dataset(name="demo", path=str(ROOT / "data" / "demo" / "evaluation"))
    ]
    metrics: Annotated[
        list[Metric], unique(), check(len, "must list at least one of wer, character_error_rate")
    ] = ["wer", "character_error_rate"]
    batch_size: Count = 16  # clips
    normalizer: Annotated[str, if_null("auto"), one_of("auto", "english", "basic", "none")] = (
        "auto"  # auto: by language
    )
    max_new_tokens: Count | None = None  # per window; null: 224, openai/whisper's own

    @model_validator(mode="after")
    def no_dataset_twice(self) -> "Evaluation":
        for index, dataset in enumerate(self.datasets):
            if dataset in self.datasets[:index]:
                raise ValueError(
                    f"datasets[{index}] ('{dataset.name}') repeats an earlier entry; remove it"
                )
        shown = self.display_names
        for index, name in enumerate(shown):
            if name in shown[:index]:
                raise ValueError(
                    f"datasets[{index}] and an earlier entry would both be called '{name}' in the "
                    "report; rename one of them"
                )
        return self

    @property
    def display_names(self) -> list[str]:
        """What each dataset is called in transcripts, tables and summary.json."""
        return tell_apart([dataset.model_dump() for dataset in self.datasets])


class Quantization(Section):
    enabled: bool = False  # adds the int8 form of every format that has one
    bits: Annotated[
        int,
        check(lambda value: value == 8, "must be 8: int8 is what the exported runtimes compute in"),
    ] = 8
    method: Annotated[str, one_of("dynamic", later=("static",))] = "dynamic"


class Compile(Section):
    enabled: bool = False
    mode: Annotated[
        str, one_of("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
    ] = "default"


class Optimization(Section):
    quantization: Quantization = Quantization()
    compile: Compile = Compile()


class Output(Section):
    dir: Text = str(ROOT / "runs")
    save_model: bool = True
    log_to_tensorboard: bool = False
    save_pruned_checkpoints: bool = False  # keep the model of every round
    export_onnx: bool = False
    formats: Annotated[list[Format], unique()] = ["hf"]
    # other dense models (folder or Hub id), e.g. a smaller one, measured beside the exports
    compare_with: Names = []

    @property
    def all_formats(self) -> list[str]:
        return list(dict.fromkeys(self.formats + ["onnx"] * self.export_onnx))


class Hardware(Section):
    device: Device = "auto"
    use_mps: bool = True  # false keeps "auto" from choosing MPS
    precision: Annotated[str, one_of("float32", "float16", "bfloat16", aliases=PRECISIONS)] = (
        "float32"
    )
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
        """What is exported, in order; with quantization each plain format is followed by its int8
        form, and ONNX's is added if there is none.
        """
        plain = self.output.all_formats
        if not self.optimization.quantization.enabled:
            return plain
        both = [
            name for one in plain for name in ((one, f"{one}-int8") if one in WITH_INT8 else (one,))
        ]
        return list(
            dict.fromkeys(
                both if any(name.endswith("-int8") for name in both) else [*both, "onnx-int8"]
            )
        )

    def resolved(self) -> dict[str, Any]:
        """Every key as JSON types, paths absolute."""
        return self.model_dump(mode="json")

    def portable(self) -> dict[str, Any]:
        """`resolved` with paths relative to the repository root, so that nothing in it names the
        machine.
        """
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
    """(section, key) of every non-empty path in a config's JSON, valid or not; without
    `model.name`, which may be a Hub id.
    """
    entries = dataset_entries(raw)
    for section, key in [
        (_get(raw, "model"), "cache_dir"),
        (_get(raw, "output"), "dir"),
        *((entry, "path") for entry in entries),
    ]:
        if isinstance(value := _get(section, key), str) and value:
            yield section, key


def dataset_entries(raw: dict[str, Any]) -> list[Any]:
    """The calibration's and the evaluation's dataset entries of a config's JSON, valid or not."""
    datasets = _get(raw, "evaluation", "datasets")
    return [
        _get(raw, "pruning", "calibration", "dataset"),
        *(datasets if isinstance(datasets, list) else []),
    ]


def _get(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def others_slots(raw: dict[str, Any]) -> Iterator[tuple[list, int]]:
    """(list, index) of every entry of `output.compare_with`, valid or not: a folder or a Hub id."""
    output = raw.get("output")
    others = output.get("compare_with") if isinstance(output, dict) else None
    for index, value in enumerate(others if isinstance(others, list) else []):
        if isinstance(value, str):
            yield others, index
