"""Against a reference: the model cast to float16, bit for bit after a round trip, and the size that
the format must take at least. Behaviour only: refusals of files that are not whole, int8 rounding,
`owl.load`.
"""

import hashlib
import json
import zlib

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors import safe_open

import owl
from owl.errors import CompactError, ModelError, UnsupportedFormat
from owl.export.huggingface import export_compact
from owl.kernels import bitmask
from owl.model import compact
from owl.model.loading import COMPACT_FILE, SETTINGS
from owl.model.whisper import Whisper, blocks, load
from tests.conftest import ROOT
from tests.tiny import fitting_processor, make_model


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half().view(torch.int16)


def prune(model, sparsity: float):
    with torch.no_grad():
        for linear in (linear for block in blocks(model) for linear in block.linears):
            weight = linear.module.weight
            weight[weight.abs() <= weight.abs().quantile(sparsity)] = 0
    return model


@pytest.fixture
def folder(tmp_path):
    """A tiny pruned Whisper in the compact format."""
    export_compact(Whisper(prune(make_model(), 0.7), fitting_processor()), tmp_path)
    return tmp_path


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.7, 1.0])
def test_every_tensor_comes_back_bit_for_bit(tmp_path, sparsity):
    torch.manual_seed(0)
    tensors = {
        "matrix": torch.randn(33, 57),
        "vector": torch.randn(5),
        "kernel": torch.randn(4, 3, 3),
        "nothing": torch.zeros(3, 3),
    }
    tensors["matrix"][torch.rand(33, 57) < sparsity] = 0
    # a negative zero, one that becomes it, the smallest float16
    tensors["matrix"][0, :3] = torch.tensor([-0.0, -1e-9, 6e-8])
    compact.write(tmp_path / "x", tensors)
    found = dict(compact.read(tmp_path / "x"))
    assert list(found) == list(tensors)
    assert all(
        torch.equal(bits(tensor), bits(found[name])) and found[name].shape == tensor.shape
        for name, tensor in tensors.items()
    )


def test_a_file_of_two_by_eight_weights_is_written_as_expected(tmp_path):
    weight = torch.tensor([[0, 1.0, 0, 0, 0, 0, 0, -2.0], [0, 0, 0, 0.5, 0, 0, 0, 0]])
    compact.write(tmp_path / "x", {"w": weight, "b": torch.tensor([3.0])})
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.get_tensor("masks").tolist() == [0b01000001, 0b00010000]
        assert file.get_tensor("values").tolist() == [1.0, -2.0, 0.5]
        assert file.get_tensor("rest").tolist() == [3.0]
        assert file.metadata()["version"] == "2"


def test_a_matrix_whose_mask_takes_more_than_it_saves_is_stored_dense(tmp_path):
    weight = torch.ones(16, 16)
    weight[0] = 0  # 1 in 16 is zero: the mask takes what it saves
    compact.write(tmp_path / "x", {"w": weight})
    with safe_open(tmp_path / "x", "pt") as file:
        assert len(file.get_tensor("rest")) == 256 and len(file.get_tensor("masks")) == 0


def test_values_beyond_float16_are_refused(tmp_path):
    for value in (1e6, float("inf"), float("nan")):
        with pytest.raises(CompactError, match="w holds values beyond float16 .*FORMATS=hf"):
            compact.write(tmp_path / "x", {"w": torch.full((2, 2), value)})


@pytest.mark.parametrize("sparsity", [0.0, 0.7])
def test_int8_rounds_each_row_to_half_a_level_of_its_own_scale(tmp_path, sparsity):
    torch.manual_seed(0)
    weight = torch.randn(20, 40) * torch.logspace(-3, 0, 20)[:, None]
    weight[torch.rand(20, 40) < sparsity] = 0
    weight[3] = 0
    compact.write(tmp_path / "x", {"w": weight, "b": torch.randn(5)}, bits={"w": 8})
    found = dict(compact.read(tmp_path / "x"))["w"].float()
    level = weight.half().float().abs().amax(1, keepdim=True) / 127
    assert (
        (found - weight).abs() <= 0.5 * level + 2e-3 * weight.abs() + 1e-7
    ).all()  # and float16's own rounding, 2⁻¹⁰, there and back
    assert (found[weight == 0] == 0).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
def test_int4_is_ggmls_q4_0_without_the_zeros(tmp_path, sparsity):
    torch.manual_seed(0)
    weight = (torch.randn(20, 96) * torch.logspace(-6, 0, 20)[:, None]).half().float()
    weight[torch.rand(20, 96) < sparsity] = 0
    weight[3] = 0
    compact.write(tmp_path / "x", {"w": weight, "b": torch.randn(5)}, bits={"w": 4})
    found = dict(compact.read(tmp_path / "x"))["w"].float()
    kind = GGMLQuantizationType.Q4_0
    wanted = quants.dequantize(quants.quantize(weight.numpy(), kind), kind)
    # below float16's normal range the scale itself is rounded, and ggml divides by the exact one
    normal = weight.abs().amax(1) > 8 * 2**-14
    assert normal.sum() > 10
    # a tie between two levels may go either way
    level = weight.unflatten(1, (-1, 32)).abs().amax(-1).repeat_interleave(32, 1) / 8
    differs = found != torch.from_numpy(wanted).half().float()
    assert differs[normal].float().mean() < 0.01
    assert ((found - weight).abs() <= 1.01 * level + 8 * 2**-24).all()
    assert (found[weight == 0] == 0).all() and not torch.signbit(found[weight == 0]).any()
    # what was rounded once comes back bit for bit
    compact.write(tmp_path / "y", {"w": found}, bits={"w": 4})
    again = dict(compact.read(tmp_path / "y"))["w"]
    assert torch.equal(bits(again)[normal], bits(found)[normal])


def test_a_file_of_4_bit_weights_is_written_as_expected(tmp_path):
    weight = torch.zeros(1, 32)
    weight[0, :3], weight[0, 31] = torch.tensor([-4.0, 1.5, 1.0]), 3.5
    compact.write(tmp_path / "x", {"w": weight}, bits={"w": 4})
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.get_tensor("group_scales").tolist() == [0.5]
        assert file.get_tensor("masks").tolist() == [0b11100000, 0, 0, 1]
        levels = zlib.decompress(file.get_tensor("levels").numpy())
    assert list(levels) == [0 << 4 | 11, 10 << 4 | 15]  # level + 8
    assert torch.equal(dict(compact.read(tmp_path / "x"))["w"].float(), weight)


def test_a_file_of_5_bit_weights_is_written_as_expected(tmp_path):
    weight = torch.zeros(1, 32)
    weight[0, :2] = torch.tensor([-8.0, 1.5])  # levels -16 and 3
    compact.write(tmp_path / "x", {"w": weight}, bits={"w": 5})
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.get_tensor("masks").tolist() == [0b11000000, 0, 0, 0]
        levels = zlib.decompress(file.get_tensor("levels").numpy())
    assert list(levels) == [0b00000_100, 0b11_000000]
    assert torch.equal(dict(compact.read(tmp_path / "x"))["w"].float(), weight)


def test_rows_that_are_no_whole_groups_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(CompactError, match="w has rows of 40; 4 bits go by 32.*FORMATS=hf"):
        compact.write(tmp_path / "x", {"w": torch.ones(3, 40)}, bits={"w": 4})
    with pytest.raises(CompactError, match="16, 8, 5 or 4 bits, not 3"):
        compact.write(tmp_path / "x", {"w": torch.ones(3, 32)}, bits={"w": 3})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("bits", [8, 4])
def test_levels_that_are_not_equally_frequent_take_fewer_bytes_and_come_back(tmp_path, bits):
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(2))
    size = compact.write(tmp_path / "x", {"w": weight}, bits={"w": bits})
    found = dict(compact.read(tmp_path / "x"))["w"]
    one = bitmask.describe("w", weight, bits)
    parts = bitmask.pack(one, weight)
    assert torch.equal(torch.from_numpy(bitmask.unpack(one, parts)).view(64, 512), found)
    values = parts["int8" if bits == 8 else "levels"].nbytes
    scales = parts["scales" if bits == 8 else "group_scales"].nbytes
    assert size - scales < 0.95 * values + 1500  # and a header


@pytest.mark.parametrize("bits", [8, 5, 4])
@pytest.mark.parametrize("rows", [0, 4])
def test_a_matrix_of_zeros_or_without_rows_comes_back(tmp_path, rows, bits):
    compact.write(tmp_path / "x", {"w": torch.zeros(rows, 32)}, bits={"w": bits})
    assert torch.equal(dict(compact.read(tmp_path / "x"))["w"], torch.zeros(rows, 32).half())


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.7])
def test_the_demo_model_in_int4_takes_no_more_than_its_values_without_coding(tmp_path, sparsity):
    model, processor = load(str(ROOT / "models" / "demo"))
    prune(model, sparsity)
    size = export_compact(Whisper(model, processor), tmp_path, bits=4)
    bound = 0.0
    rounded = {f"{linear.path}.weight" for block in blocks(model) for linear in block.linears}
    rounded.add("model.decoder.embed_tokens.weight")
    for name, one in model.named_parameters():
        kept = int((one.half() != 0).sum())
        if name in rounded:
            masked = one.numel() / 8 + kept / 2
            bound += min(masked, one.numel() / 2) + one.numel() / 16
        else:
            bound += 2 * one.numel()
    assert 0.75 * bound <= size <= bound


def test_an_int4_folder_is_a_plain_whisper_of_rounded_values(tmp_path):
    original = prune(make_model(d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64), 0.5)
    export_compact(Whisper(original, fitting_processor()), tmp_path, bits=4)
    model, _ = owl.load(tmp_path)
    assert type(model) is type(original)
    rounded = [linear.path for block in blocks(model) for linear in block.linears]
    for (name, dense), (_, loaded) in zip(original.named_parameters(), model.named_parameters()):
        assert (loaded[dense == 0] == 0).all(), name
        few = name.removesuffix(".weight") in [*rounded, "model.decoder.embed_tokens"]
        steps = 8 if few else 127
        assert torch.allclose(loaded, dense, atol=1.01 * dense.detach().abs().max().item() / steps)
    (tmp_path / COMPACT_FILE).write_bytes((tmp_path / COMPACT_FILE).read_bytes()[:-1])
    with pytest.raises(ModelError, match="it is truncated"):
        owl.load(tmp_path)


def test_int4_is_refused_where_neurons_are_no_multiple_of_32(tmp_path):
    model = make_model(d_model=32, encoder_ffn_dim=40)
    with pytest.raises(UnsupportedFormat, match="encoder.layers.0.fc2.weight has rows of 40"):
        export_compact(Whisper(model, fitting_processor()), tmp_path, bits=4)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_the_demo_model_takes_at_most_two_percent_more_than_its_bound(tmp_path, sparsity):
    model, processor = load(str(ROOT / "models" / "demo"))
    prune(model, sparsity)
    size = export_compact(Whisper(model, processor), tmp_path)
    names = {f"{linear.path}.weight" for block in blocks(model) for linear in block.linears}
    parts = {
        name: (np.prod(one.shape), int((one.half() != 0).sum()))
        for name, one in model.named_parameters()
    }
    bound = sum(
        count / 8 + 2 * kept if name in names else 2 * count
        for name, (count, kept) in parts.items()
    )
    assert size == (tmp_path / COMPACT_FILE).stat().st_size
    assert bound <= size <= 1.02 * bound


def test_owl_load_gives_a_plain_whisper_with_the_same_weights_logits_and_processor(folder):
    original = prune(make_model(), 0.7)
    model, processor = owl.load(folder)
    assert type(model) is type(original) and not model.training
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    state = original.half().float().state_dict()
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == dict.fromkeys(
        state, torch.float32
    )
    assert all(
        torch.equal(bits(tensor), bits(state[name])) for name, tensor in model.state_dict().items()
    )
    features, tokens = torch.randn(1, 8, 40), torch.tensor([[1, 37, 5]])
    with torch.no_grad():
        assert torch.equal(
            model(features, decoder_input_ids=tokens).logits,
            original(features, decoder_input_ids=tokens).logits,
        )
    assert processor.tokenizer.get_vocab() == fitting_processor().tokenizer.get_vocab()
    assert model.generation_config.no_timestamps_token_id == 37


def test_an_int8_folder_loads_with_the_same_zeros(tmp_path):
    original = prune(make_model(), 0.5)
    plain = export_compact(Whisper(original, fitting_processor()), tmp_path)
    assert export_compact(Whisper(original, fitting_processor()), tmp_path, int8=True) < plain
    model, _ = owl.load(tmp_path)
    for (_, dense), (name, loaded) in zip(original.named_parameters(), model.named_parameters()):
        assert (loaded[dense == 0] == 0).all(), name
        assert torch.allclose(loaded, dense, atol=dense.detach().abs().max().item() / 127)


def damage(data: bytearray, kind: str) -> bytes:
    """`data` of a compact file, damaged."""
    length = int.from_bytes(data[:8], "little")
    changes = {
        "empty": lambda: b"",
        "cut in the header": lambda: data[:40],
        "cut in the data": lambda: data[:-3],
        "longer": lambda: data + b"x",
        "a changed value": lambda: (
            data[: 8 + length + 1] + bytes([data[8 + length + 1] ^ 1]) + data[8 + length + 2 :]
        ),
        "a changed shape": lambda: data.replace(b'\\"shape\\":[16,16]', b'\\"shape\\":[8,132]', 1),
        "another version": lambda: data.replace(b'"version":"2"', b'"version":"9"', 1),
        "another format": lambda: data.replace(
            b'"format":"owl-compact"', b'"format":"owl-sideway"', 1
        ),
        "no numbers": lambda: (2).to_bytes(8, "little") + b"[]",
    }
    return bytes(changes[kind]())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "header cannot be read"),
        ("cut in the header", "header cannot be read"),
        ("cut in the data", "it is truncated"),
        ("longer", "something was added"),
        ("a changed value", "checksum does not fit"),
        ("a changed shape", "header does not fit|checksum does not fit|header cannot be read"),
        ("another version", "version 9, and this code reads 'owl-compact' version 2"),
        ("another format", "'owl-sideway'"),
        ("no numbers", "header cannot be read"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_refused_with_cause_and_fix(folder, kind, reason):
    path = folder / COMPACT_FILE
    changed = damage(bytearray(path.read_bytes()), kind)
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(
        ModelError,
        match=f"(?s){folder}.*({reason}).*Copy the whole folder again, or export it: "
        "FORMATS=compact",
    ):
        owl.load(folder)


@pytest.mark.parametrize("rounded", [16, 4])
def test_every_single_changed_byte_of_a_small_file_is_noticed(tmp_path, rounded):
    weight = torch.tensor([[0.0, 1.0, 0.0, 0.0] * 8])
    compact.write(tmp_path / "x", {"w": weight, "b": torch.ones(2)}, bits={"w": rounded})
    data = (tmp_path / "x").read_bytes()
    for position in range(len(data)):
        (tmp_path / "x").write_bytes(
            data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]
        )
        with pytest.raises(CompactError):
            list(compact.read(tmp_path / "x"))


def test_the_checksum_is_sha256_over_layout_and_data(tmp_path):
    compact.write(tmp_path / "x", {"w": torch.eye(8)})
    data = (tmp_path / "x").read_bytes()
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    assert (
        metadata["sha256"]
        == hashlib.sha256(metadata["layout"].encode() + data[8 + length :]).hexdigest()
    )


def test_weights_that_do_not_fit_the_config_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"encoder_layers": 3}))
    with pytest.raises(ModelError, match="does not fit its config.json.*encoder.layers.2"):
        owl.load(folder)


def test_a_model_beyond_float16_is_an_unsupported_format_not_a_crash(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.model.encoder.layers[0].fc1.weight[0, 0] = 1e6
    with pytest.raises(UnsupportedFormat, match="encoder.layers.0.fc1.weight"):
        export_compact(Whisper(model, fitting_processor()), tmp_path)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_folder_with_a_file_missing_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{folder}.*{name} missing"):
        owl.load(folder)
