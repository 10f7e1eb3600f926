"""The config as types: every key with its default, its allowed values, and the combinations that
cannot work. `owl.config.legacy` brings the familiar keys into this form.

Unknown keys and combinations that cannot work are refused; a key of a pattern or recovery that is
not chosen waits for it. A field's description is what its error says (`owl.config.problems`).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from owl import ROOT
from owl.config.contradictions import contradictions
from owl.config.formats import FORMATS, with_calibrated, with_int8
from owl.config.paths import PORTABLE, Folder, ModelName, Origin, Text, find
from owl.kernels import records
from owl.kernels.patterns import SMALLER, fixed_sparsity, parse_pattern
from owl.kernels.schedule import SCHEDULES

METHODS = tuple(records.SOLVERS)
ALLOCATIONS = tuple(name for name in records.ALLOCATIONS if name != "median")

UNIQUE = AfterValidator(lambda values: list(dict.fromkeys(values)))
Names = Annotated[list[Text], UNIQUE]
Count = Annotated[int, Field(ge=1, description="must be a whole number of at least 1")]
Seed = Annotated[int, Field(ge=0, description="must be a whole number of at least 0")]
Positive = Annotated[float, Field(gt=0, description="must be above 0")]
Sparsity = Annotated[
    float, Field(ge=0, lt=1, description="must be a fraction of at least 0 and below 1 such as 0.5")
]
# refused where it cannot be parsed
Pattern = Annotated[str, AfterValidator(lambda name: (parse_pattern(name), name)[1])]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Model(Section):
    name: ModelName = str(ROOT / "models" / "demo")
    cache_dir: Folder | None = None  # null: the Hub library's own


class Dataset(Section):
    name: Text
    split: Text | None = None
    subset: Text | None = None
    language: Text | None = None
    max_samples: Count | None = None  # clips; null: all
    path: Folder | None = None

    @model_validator(mode="before")
    @classmethod
    def name_of_a_folder(cls, entry: Any, info) -> Any:
        """A `name` that is a folder is the entry's `path`: kernels run elsewhere, and paths are
        hashed.
        """
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip() or entry.get("path") is not None:
            return entry
        path, sure = find(name, (info.context or Origin()).base)
        if not (sure or os.path.isdir(path)):
            return entry
        return entry | {"path": path, "name": os.path.basename(path) or name}


class Calibration(Section):
    dataset: Dataset = Dataset(
        name="demo-calibration", path=str(ROOT / "data" / "demo" / "calibration")
    )
    samples: Count = 128  # clips
    seed: Seed = 0
    labels: Literal["model", "reference"] = "model"
    windows: Literal["packed", "single"] = "packed"  # several clips a window, or one
    padding: Literal["exclude", "include"] = "include"


class Schedule(Section):
    name: Literal[*SCHEDULES] = "one_shot"
    iterations: Count = 1  # rounds of prune → recover
    frequency: Count = 1  # recovery passes over the clips between two rounds; the last gets all


class Structured(Section):
    structures: Annotated[
        list[Literal["heads", "neurons", "layers"]],
        UNIQUE,
        Field(min_length=1, description="must name at least one of heads, neurons, layers"),
    ] = ["heads", "neurons"]
    # one feed-forward width per stack, as stock transformers and CTranslate2 want it
    equal_widths: bool = False


class Recovery(Section):
    method: Literal["none", "blockwise", "distill", "norms"] = "none"
    minutes: Positive = 5.0  # of distill, after its blockwise beginning
    steps: Count | None = None  # of distill, instead of minutes: the same bits every time
    epochs: Count = 6  # passes of blockwise, with which distill begins too, and of norms
    learning_rate: Positive | None = None  # peak; null: 2e-4 for distill, 1e-3 for the others
    batch_size: Count = 8  # clips


class Pruning(Section):
    """`pattern` and `structured` come first: they decide the method, sparsity and allocation that
    nobody stated.
    """

    pattern: Pattern = "unstructured"
    structured: Structured = Structured()
    method: Literal[*METHODS] = Field(
        default_factory=lambda said: "sparsegpt" if said["pattern"] in SMALLER else "wanda"
    )
    sparsity: Sparsity = Field(  # share of the prunable weights
        default_factory=lambda said: fixed_sparsity(said["pattern"]) or 0.5
    )
    allocation: Literal[*ALLOCATIONS, "median"] = Field(
        default_factory=lambda said: "uniform" if _even(**said) else "owl"
    )
    target_modules: Annotated[
        Names,
        Field(min_length=1, description="must name at least one module such as encoder.layers"),
    ] = Field(  # low rank pays where many rows go through a matrix
        default_factory=lambda said: ["encoder.layers", "decoder.layers"][
            : 1 if said["pattern"] == "lowrank" else 2
        ]
    )
    excluded_modules: Names = []
    outlier_hyper_lambda: float = Field(0.08, ge=0, description="must be at least 0 such as 0.08")
    outlier_hyper_m: float = Field(5.0, gt=0, description="must be above 0 such as 5")
    bias_refit: bool = False  # biases take up the mean of what pruning changed
    schedule: Schedule = Schedule()
    recovery: Recovery = Recovery()
    calibration: Calibration = Calibration()

    @property
    def group_size(self) -> int | None:
        """M of a mixed pattern "N:M", where every block has its own N; None for any other
        pattern.
        """
        kept, size = parse_pattern(self.pattern) or (0, None)
        return size if kept is None else None

    @model_validator(mode="after")
    def fit_together(self) -> "Pruning":
        for problem in contradictions(self):
            raise ValueError(problem)
        return self


def _even(pattern: str, structured: Structured, **others: Any) -> bool:
    """Does the pattern give every block the same sparsity, or leave none to give?"""
    drops_layers = pattern == "structured" and structured.structures == ["layers"]
    return drops_layers or fixed_sparsity(pattern) is not None


class Evaluation(Section):
    datasets: list[Dataset] = Field(
        [Dataset(name="demo", path=str(ROOT / "data" / "demo" / "evaluation"))],
        min_length=1,
        description="must list at least one dataset",
    )
    metrics: Annotated[
        list[Literal["wer", "character_error_rate"]],
        UNIQUE,
        Field(min_length=1, description="must list at least one of wer, character_error_rate"),
    ] = ["wer", "character_error_rate"]
    batch_size: Count = 16  # clips
    normalizer: Literal["auto", "english", "basic", "none"] = "auto"  # auto: by language
    max_new_tokens: Count | None = None  # per window; null: 224, openai/whisper's own
    window: Literal["full", "speech"] = "full"  # what the encoder reads of a window

    @model_validator(mode="after")
    def no_dataset_twice(self) -> "Evaluation":
        names = self.display_names
        for index, name in enumerate(names):
            if self.datasets[index] in self.datasets[:index]:
                raise ValueError(
                    f"datasets[{index}] ('{name}') repeats an earlier entry; remove it"
                )
            if name in names[:index]:
                raise ValueError(
                    f"datasets[{index}] and an earlier entry would both be called '{name}' in the "
                    "report; rename one of them"
                )
        return self

    @property
    def display_names(self) -> list[str]:
        """What each dataset is called in transcripts, tables and summary.json: its `name`, and
        where that repeats also what differs ("librispeech test-clean"); of paths, what is left
        below the folder that holds them all.
        """
        return [" ".join([dataset.name, *self._differing(dataset)]) for dataset in self.datasets]

    def _differing(self, dataset: Dataset) -> Iterator[str]:
        namesakes = [other for other in self.datasets if other.name == dataset.name]
        paths = {other.path for other in namesakes}
        if dataset.path and len(paths) > 1:
            above = os.path.commonpath([os.path.dirname(path) for path in paths if path])
            yield os.path.relpath(dataset.path, above)
        for key in ("subset", "split", "language"):
            value = getattr(dataset, key)
            if value and any(getattr(other, key) != value for other in namesakes):
                yield value


class Quantization(Section):
    enabled: bool = False  # adds the form in so many bits of every format that has one
    bits: Literal[8, 5, 4] = 8
    method: Literal["dynamic", "calibrated"] = "dynamic"

    @model_validator(mode="after")
    def bits_of_the_method(self) -> "Quantization":
        if self.method == "dynamic" and self.bits != 8:
            raise ValueError(
                f'optimization.quantization.bits {self.bits} goes with method "calibrated"; '
                '"dynamic" has 8, and plain rounding to fewer is a format of its own '
                "(FORMATS=ggml-q5_0)"
            )
        return self


class Compile(Section):
    enabled: bool = False
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = (
        "default"
    )


class Optimization(Section):
    quantization: Quantization = Quantization()
    compile: Compile = Compile()


class Output(Section):
    dir: Folder = str(ROOT / "runs")
    save_model: bool = True
    log_to_tensorboard: bool = False
    save_pruned_checkpoints: bool = False  # keep the model of every round
    formats: Annotated[list[Literal[*FORMATS]], UNIQUE] = ["hf"]
    # other dense models (folder or Hub id), e.g. a smaller one, measured beside the exports
    compare_with: Annotated[list[ModelName], UNIQUE] = []
    # measure the dense model in what people take instead (`formats.PEERS`), and every row's
    # divergence: minutes
    peers: bool = False


class Hardware(Section):
    device: str = Field(
        "auto",
        pattern=r"^(auto|cuda(:[0-9]+)?|mps|cpu)$",
        description="must be one of auto, cuda, cuda:0 (1, …), mps, cpu",
    )
    use_mps: bool = True  # false keeps "auto" from choosing MPS
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
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
        """What is exported, in order; with quantization each plain format is followed by its 8-bit
        form, and ONNX's is added if there is none, or, where it is calibrated, by its forms of so
        many bits, rounded plainly and calibrated.
        """
        names, wanted = self.output.formats, self.optimization.quantization
        if not wanted.enabled:
            return names
        return (
            with_int8(names) if wanted.method == "dynamic" else with_calibrated(names, wanted.bits)
        )

    @model_validator(mode="after")
    def formats_have_the_bits(self) -> "Config":
        self.formats  # noqa: B018  # refused now, not at the export
        return self

    @model_validator(mode="after")
    def one_shape_to_compile(self) -> "Config":
        if self.optimization.compile.enabled and self.evaluation.window == "speech":
            raise ValueError(
                'evaluation.window "speech" has windows of many lengths, and '
                "optimization.compile.enabled compiles the encoder for one; leave out one of them"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """Every key as JSON types, paths absolute."""
        return self.model_dump(mode="json")

    def portable(self) -> dict[str, Any]:
        """`resolved` with paths relative to the repository root."""
        return self.model_dump(mode="json", context=PORTABLE)

    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over `portable` as canonical JSON."""
        text = json.dumps(self.portable(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
