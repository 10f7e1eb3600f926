"""Acceleration: the decisions from plain facts, and that what is compiled is what transcription
calls. Only behaviour; the sparse products themselves need CUDA and run only where it is."""

import copy

import pytest
import torch

from owl.config.load import load
from owl.errors import ConfigError
from owl.kernels.solvers import prune_weight
from owl.model import accelerate
from owl.model.decoding import torch_decoder
from owl.model.whisper import Whisper
from owl.run import experiment, provenance
from tests import tiny
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # compiles

AUDIO = [clip.audio for clip in tiny.make_clips(3)]


@pytest.mark.parametrize(
    "pattern, device, capability, dtype, done, words",
    [
        (
            "2:4",
            "cuda",
            (8, 0),
            torch.float16,
            True,
            "2:4 sparse products in the encoder's linears",
        ),
        ("2:4", "cuda", (9, 0), torch.bfloat16, True, "2:4 sparse products"),
        ("2:4", "cuda", (7, 5), torch.float16, False, "compute capability 8.0, and this is 7.5"),
        (
            "2:4",
            "cuda",
            (8, 6),
            torch.float32,
            False,
            'not torch.float32; set hardware.precision to "float16"',
        ),
        ("2:4", "cpu", None, torch.float32, False, "need a CUDA device, and this is cpu"),
        ("2:4", "mps", None, torch.float16, False, "need a CUDA device, and this is mps"),
        ("4:8", "cuda", (8, 0), torch.float16, False, "the pattern is 4:8"),
        ("unstructured", "cuda", (8, 0), torch.float16, False, "the pattern is unstructured"),
    ],
)
def test_sparse_products_are_used_where_device_precision_and_pattern_allow(
    pattern, device, capability, dtype, done, words
):
    decision = accelerate.decide_sparse(pattern, device, capability, dtype)
    assert decision.done == done and words in decision.reason


def test_compiling_on_a_cpu_without_a_compiler_is_refused_with_the_fix(monkeypatch):
    assert accelerate.decide_compile(False, "default", "cpu") == (
        False,
        "not compiled: optimization.compile is off",
    )
    monkeypatch.setattr(accelerate.shutil, "which", lambda name: None)
    with pytest.raises(
        RuntimeError,
        match=r"none of .*g\+\+.* is on PATH; install one \(apt-get install g\+\+\) or set",
    ):
        accelerate.decide_compile(True, "default", "cpu")
    assert accelerate.decide_compile(True, "default", "cuda").done


def test_only_linears_with_the_pattern_in_a_shape_that_fits_are_converted():
    layers = torch.nn.ModuleList(
        [torch.nn.Linear(64, 32), torch.nn.Linear(64, 32), torch.nn.Linear(36, 32)]
    )
    with torch.no_grad():
        for linear in (layers[0], layers[2]):
            inputs = torch.eye(linear.in_features)
            linear.weight.copy_(
                prune_weight(linear.weight.detach(), inputs, method="magnitude", pattern="2:4")
            )
    converted = []
    before = layers[1].weight
    assert accelerate.sparsify(
        layers, convert=lambda weight: converted.append(weight.shape) or weight.clone()
    ) == (1, 3)
    assert converted == [(32, 64)] and layers[1].weight is before


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="needs CUDA with sparse cores",
)
def test_sparse_products_say_what_dense_ones_say():
    layer = torch.nn.Linear(128, 64, device="cuda", dtype=torch.float16)
    inputs = torch.randn(2, 48, 128, device="cuda", dtype=torch.float16)
    layer.weight.data = prune_weight(
        layer.weight.data, torch.eye(128, device="cuda"), method="magnitude", pattern="2:4"
    )
    with torch.inference_mode():
        expected, weight = layer(inputs), layer.weight.clone()
        assert accelerate.sparsify(layer) == (1, 1)
        torch.testing.assert_close(layer(inputs), expected, rtol=1e-2, atol=1e-3)
        assert torch.equal(accelerate.dense(layer.weight), weight)


@pytest.mark.slow
def test_transcription_runs_the_compiled_encoder_and_decoder_and_says_the_same():
    model = tiny.make_model()
    model.generation_config.suppress_tokens = [0]  # it never ends: many decoder steps
    usual = torch_decoder(Whisper(model, tiny.make_processor()), max_new_tokens=8)(AUDIO)
    ran = []

    def backend(graph, inputs):
        return lambda *values: ran.append(graph) or graph(*values)

    torch._dynamo.reset()
    accelerate.compile_parts(model.model.encoder, model.model.decoder, "default", backend=backend)
    assert torch_decoder(Whisper(model, tiny.make_processor()), max_new_tokens=8)(AUDIO) == usual
    text = "\n".join(str(graph.graph) for graph in set(ran))
    assert "conv1" in text and "embed_tokens" in text, "encoder and decoder are not both compiled"
    assert len(ran) >= 1 + 8, "the decoder's steps ran outside the compiled code"
    plain = copy.deepcopy(model)
    ran.clear()
    assert (
        torch_decoder(Whisper(plain, tiny.make_processor()), max_new_tokens=8)(AUDIO) == usual
        and ran == []
    )


def test_the_compiled_code_has_the_mode_that_the_config_names(monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, **options: asked.append((type(self).__name__, options)),
    )
    raw = load(ROOT / "configs" / "demo.json")
    compile = raw.optimization.compile.model_copy(
        update={"enabled": True, "mode": "reduce-overhead"}
    )
    config = raw.model_copy(
        update={"optimization": raw.optimization.model_copy(update={"compile": compile})}
    )
    experiment.load_model(config)
    assert asked == []  # pruning and exports work on the plain model
    experiment.load_model(config, accelerated=True)
    assert asked == [
        (f"Whisper{part}", {"backend": "inductor", "mode": "reduce-overhead"})
        for part in ("Encoder", "Decoder")
    ]
    assert (
        "encoder and decoder compiled, mode reduce-overhead"
        in provenance.collect(config)["acceleration"]
    )


def test_a_run_that_cannot_compile_stops_with_a_config_error(monkeypatch):
    monkeypatch.setattr(accelerate.shutil, "which", lambda name: None)
    raw = load(ROOT / "configs" / "demo.json")
    compile = raw.optimization.compile.model_copy(update={"enabled": True})
    config = raw.model_copy(
        update={"optimization": raw.optimization.model_copy(update={"compile": compile})}
    )
    with pytest.raises(ConfigError, match="install one"):
        provenance.acceleration(config)


def test_the_provenance_says_why_two_of_four_is_not_sparse_here():
    config = load(
        ROOT / "configs" / "demo.json", {"pattern": "2:4", "allocation": "uniform", "device": "cpu"}
    )
    facts = provenance.collect(config)
    assert "need a CUDA device, and this is cpu" in facts["acceleration"]
    assert ("acceleration", facts["acceleration"]) in provenance.rows(facts)
