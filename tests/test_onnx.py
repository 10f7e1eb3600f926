"""Against a reference: PyTorch itself. Encoder outputs, and greedy tokens of whole batches, are
those of owl.model.decoding. Behaviour only: file, input and output names, what else lies in the
folder, errors.

The tiny model is random, but made to say different things for different clips and steps; the bench
model understands speech.
"""

import copy

import numpy as np
import onnx
import pytest
import soundfile
import torch

from owl.errors import ModelError
from owl.export import onnx as onnx_module
from owl.export import onnx_graphs
from owl.export.onnx import OnnxWhisper, export_onnx, onnx_decoder
from owl.model.decoding import encode, input_features, torch_decoder
from owl.model.whisper import Whisper, blocks, load
from tests.tiny import END, START, make_model, make_processor

pytestmark = pytest.mark.slow  # every test exports graphs
GRAPHS = ["decoder_model.onnx", "decoder_with_past_model.onnx", "encoder_model.onnx"]
SHARED = "decoder_model.onnx_data"  # the weights of both decoders
CACHE = [
    f"{block}.{stack}.{which}"
    for block in (0, 1)
    for stack in ("decoder", "encoder")
    for which in ("key", "value")
]
# float32 sums taken in another order: about 1e-6 of values between 1 and 10
ENCODER_TOLERANCE = 1e-4


def tiny():
    model = make_model(d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64)
    with torch.no_grad():
        model.model.decoder.embed_positions.weight *= 4
        # which it would say now and then: END beats it narrowly
        model.proj_out.weight[END] = 1.05 * model.proj_out.weight[18]
    return model


def noise(lengths=(1600, 4000, 6400, 2900, 5100)) -> list[np.ndarray]:
    """One waveform per length in samples."""
    draw = np.random.default_rng(1)
    return [(0.3 * draw.standard_normal(length)).astype(np.float32) for length in lengths]


def assert_same_tokens(asr: Whisper, folder, audio, cap=None):
    expected = torch_decoder(asr, max_new_tokens=cap)(audio)
    assert onnx_decoder(folder, asr.processor, max_new_tokens=cap, threads=2)(audio) == expected
    return expected


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model with processor, folder) of the tiny model."""
    model, folder = tiny(), tmp_path_factory.mktemp("onnx")
    asr = Whisper(model, make_processor())
    export_onnx(asr, folder)
    return asr, folder


@pytest.fixture(scope="module")
def bench(shared, tmp_path_factory):
    """(model with processor, folder) of the bench model."""
    model, processor = load(str(shared / "bench" / "model"))
    folder = tmp_path_factory.mktemp("bench")
    export_onnx(Whisper(model, processor), folder)
    return Whisper(model, processor), folder


@pytest.fixture(scope="module")
def speech(shared) -> list[np.ndarray]:
    """Every eighth AN4 evaluation clip."""
    paths = sorted((shared / "speech" / "an4-test-a").glob("*.flac"))[::8]
    if not paths:
        pytest.skip("no clips in ../shared/speech/an4-test-a")
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def test_a_batch_of_clips_that_end_at_different_steps_gets_the_tokens_that_pytorch_gives(exported):
    said = assert_same_tokens(*exported, noise())
    assert len({len(one.tokens) for one in said}) > 2, (
        "the clips end at one step: this shows nothing about ended rows"
    )


def test_one_clip_alone_gets_the_tokens_that_pytorch_gives(exported):
    assert_same_tokens(*exported, noise()[:1])


def test_a_cap_below_the_end_is_reported_by_both_runtimes(exported):
    said = assert_same_tokens(*exported, noise(), cap=2)
    assert any(one.ended == "cap" for one in said)


def test_text_that_loops_ends_where_it_does_in_pytorch_and_takes_no_more_steps(
    tmp_path, monkeypatch
):
    model, processor = make_model(max_target_positions=120), make_processor()
    export_onnx(Whisper(model, processor), tmp_path)
    steps, run = [], onnx_module._run
    monkeypatch.setattr(onnx_module, "_run", lambda *given: steps.append(1) or run(*given))
    said = assert_same_tokens(Whisper(model, processor), tmp_path, noise())
    longest = max(len(one.tokens) for one in said)
    assert {one.ended for one in said} == {"loop"} and longest <= len(steps) < longest + 16 < 118


def test_the_bench_model_says_the_same_through_both_runtimes(bench, speech):
    said = assert_same_tokens(*bench, speech, cap=50)
    assert sum(one.ended == "end" and len(one.tokens) > 3 for one in said) > len(said) / 2, (
        "this is no real speech"
    )


def test_suppressed_tokens_are_suppressed_as_generate_does_it(tmp_path):
    model, processor = tiny(), make_processor()
    usual = torch_decoder(Whisper(model, processor))(noise())
    model.generation_config.suppress_tokens = sorted(
        {token for one in usual for token in one.tokens}
    )[:3]
    export_onnx(Whisper(model, processor), tmp_path)
    assert assert_same_tokens(Whisper(model, processor), tmp_path, noise()) != usual


def test_the_end_token_suppressed_at_the_beginning_comes_later(tmp_path):
    model, processor = tiny(), make_processor()
    first = {
        one.tokens[0] if one.tokens else END
        for one in torch_decoder(Whisper(model, processor))(noise())
    }
    model.generation_config.begin_suppress_tokens = sorted(first | {END})
    export_onnx(Whisper(model, processor), tmp_path)
    said = assert_same_tokens(Whisper(model, processor), tmp_path, noise())
    assert not {one.tokens[0] for one in said} & first
    assert not all(one.ended == "cap" for one in said), (
        "begin_suppress reached beyond the first token"
    )


def test_greedy_takes_prompt_end_and_suppression_as_plain_lists(exported):
    asr, folder = exported
    features = input_features(asr, noise())
    lists = dict(
        prompt=[START, 37], end=END, suppress=[38, 39], begin_suppress=[], max_new_tokens=22
    )
    whisper = OnnxWhisper(folder)
    assert whisper.greedy(whisper.encode(features), **lists) == torch_decoder(asr)(noise())


@pytest.mark.parametrize("which", ["exported", "bench"])
def test_the_encoder_gives_what_pytorch_gives(which, request):
    asr, folder = request.getfixturevalue(which)
    features = input_features(asr, noise())
    half = features.shape[2] // 4 * 2
    for given in (features, features[:, :, :half]):
        difference = OnnxWhisper(folder).encode(given) - encode(asr.model, given)
        assert difference.shape[1] == given.shape[2] // 2
        assert difference.abs().max() < ENCODER_TOLERANCE


def test_files_inputs_and_outputs_are_named_as_optimum_names_them(exported):
    _, folder = exported
    graphs = {name: onnx.load(folder / name).graph for name in GRAPHS}
    names = {
        name: ([one.name for one in graph.input], [one.name for one in graph.output])
        for name, graph in graphs.items()
    }
    present, past = (
        [f"{prefix}.{name}" for name in CACHE] for prefix in ("present", "past_key_values")
    )
    own = [name for name in present if ".decoder." in name]
    assert names["encoder_model.onnx"] == (["input_features"], ["last_hidden_state"])
    assert names["decoder_model.onnx"] == (
        ["input_ids", "encoder_hidden_states"],
        ["logits", *present],
    )
    assert names["decoder_with_past_model.onnx"] == (["input_ids", *past], ["logits", *own])


def test_the_graphs_pass_the_checker_and_leave_batch_and_text_length_open(exported):
    _, folder = exported
    for name in GRAPHS:
        onnx.checker.check_model(folder / name, full_check=True)
        for value in onnx.load(folder / name).graph.input:
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch_size"
    tokens, *past = onnx.load(folder / "decoder_with_past_model.onnx").graph.input
    assert tokens.type.tensor_type.shape.dim[1].dim_param == "decoder_sequence_length"
    assert past[0].type.tensor_type.shape.dim[2].dim_param == "past_decoder_sequence_length"


def test_the_folder_holds_configs_and_processor_and_nothing_left_over(exported):
    (model, processor), folder = exported
    files = {path.name for path in folder.iterdir()}
    assert files >= {
        *GRAPHS,
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
    }
    assert all(path.is_file() for path in folder.iterdir())
    assert {path for path in files if "onnx" in path} == {*GRAPHS, SHARED}


def test_the_token_embedding_is_stored_once_in_each_decoder(bench):
    (model, _), folder = bench
    parameters = sum(one.numel() for one in model.model.decoder.parameters())
    for name in GRAPHS[:2]:
        stored = sum(np.prod(one.dims) for one in onnx.load(folder / name).graph.initializer)
        assert stored < parameters + model.config.vocab_size * model.config.d_model / 2


def test_weights_too_large_for_one_file_lie_beside_the_graph(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_graphs, "EXTERNAL_BYTES", 0)
    model, processor = tiny(), make_processor()
    written = export_onnx(Whisper(model, processor), tmp_path)
    assert [path.name for path in written] == sorted([*GRAPHS, SHARED, "encoder_model.onnx_data"])
    graph, weights = (
        (tmp_path / name).stat() for name in ("encoder_model.onnx", "encoder_model.onnx_data")
    )
    assert graph.st_size < weights.st_size and graph.st_mode == weights.st_mode
    assert_same_tokens(Whisper(model, processor), tmp_path, noise())


def test_an_output_layer_of_its_own_is_exported_as_it_is(tmp_path):
    model, processor = make_model(tie_word_embeddings=False), make_processor()
    assert not torch.equal(model.proj_out.weight, model.model.decoder.embed_tokens.weight)
    export_onnx(Whisper(model, processor), tmp_path)
    assert_same_tokens(Whisper(model, processor), tmp_path, noise())


def test_both_decoders_read_their_weights_from_one_copy(bench):
    (model, _), folder = bench
    decoder = 4 * sum(one.numel() for one in model.model.decoder.parameters())
    sizes = {name: (folder / name).stat().st_size for name in [*GRAPHS[:2], SHARED]}
    assert sizes[SHARED] < 1.01 * decoder
    assert sizes["decoder_model.onnx"] + sizes["decoder_with_past_model.onnx"] < 0.2 * decoder


def test_a_pruned_model_keeps_its_zeros_and_its_tokens(tmp_path):
    model, processor = tiny(), make_processor()
    linears = [linear for block in blocks(model) for linear in block.linears]
    with torch.no_grad():
        for linear in linears:
            linear.module.weight[
                linear.module.weight.abs() < linear.module.weight.abs().median()
            ] = 0
    export_onnx(Whisper(model, processor), tmp_path)
    assert_same_tokens(Whisper(model, processor), tmp_path, noise())
    wanted = sum(
        (linear.module.weight == 0).sum().item()
        for linear in linears
        if not linear.name.startswith("decoder")
    )
    matrices = [
        one
        for one in onnx.load(tmp_path / "encoder_model.onnx").graph.initializer
        if len(one.dims) == 2
    ]
    embedding = model.model.encoder.embed_positions.weight
    zeros = sum(
        (onnx.numpy_helper.to_array(one) == 0).sum()
        for one in matrices
        if list(one.dims) != list(embedding.shape)
    )
    assert zeros == wanted


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = tiny().half().train()
    model.model.decoder.requires_grad_(False)
    before, flags = (
        copy.deepcopy(model.state_dict()),
        [one.requires_grad for one in model.parameters()],
    )
    settings = model.config.to_dict(), model.config._attn_implementation
    export_onnx(Whisper(model, make_processor()), tmp_path)
    assert all(
        torch.equal(value, before[name]) and value.dtype == torch.float16
        for name, value in model.state_dict().items()
    )
    assert [one.requires_grad for one in model.parameters()] == flags and model.training
    assert (model.config.to_dict(), model.config._attn_implementation) == settings


def test_a_half_precision_model_is_exported_in_single_precision(tmp_path):
    model, processor = tiny().half(), make_processor()
    export_onnx(Whisper(model, processor), tmp_path)
    kinds = {one.data_type for one in onnx.load(tmp_path / "encoder_model.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds
    assert_same_tokens(Whisper(model.float(), processor), tmp_path, noise())


def test_exporting_says_nothing_on_the_terminal(tmp_path, capfd, recwarn):
    export_onnx(Whisper(tiny(), make_processor()), tmp_path)
    printed = capfd.readouterr()
    assert (printed.out, printed.err, len(recwarn)) == ("", "", 0)


@pytest.mark.parametrize("name", [*GRAPHS, "config.json"])
def test_a_folder_with_a_file_missing_is_refused_by_name(exported, tmp_path, name):
    for path in exported[1].iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ModelError, match=f"{name} missing; export it again"):
        OnnxWhisper(tmp_path)


def test_a_broken_graph_is_refused_by_name(exported, tmp_path):
    for path in exported[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "encoder_model.onnx").write_bytes(b"not a graph")
    with pytest.raises(
        ModelError, match="(?s)cannot load .*encoder_model.onnx.*Export the folder again"
    ):
        OnnxWhisper(tmp_path)
