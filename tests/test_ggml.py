"""Against a reference: the file's layout, read here by code of its own that follows whisper.cpp's
loader and ggml's block definitions; what whisper.cpp says of it beside PyTorch's greedy tokens; the
bytes of whisper.cpp's published files. Behaviour only: refusals and damaged files. The random model
has OpenAI's vocabulary sizes and window, the other sizes are small.
"""

import copy
import struct
from functools import cache

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from owl.config.formats import FORMATS, short_folder, with_int8
from owl.config.load import load as load_config
from owl.errors import ModelError, UnsupportedFormat
from owl.export import formats
from owl.export.ggml import FILE, SILENCE, export_ggml, export_short, load_ggml
from owl.export.ggml_file import GRIDS, check, layout, openai_name
from owl.export.ggml_file import read as read_whole
from owl.export.measure import in_fresh_process, measure
from owl.export.whispercpp import CppWhisper, cpp_decoder, short_frames
from owl.model import loading
from owl.model.decoding import encode, greedy, input_features, torch_decoder
from owl.model.shapes import drop_layers, remember
from owl.model.whisper import Whisper
from owl.run.experiment import evaluation_sets
from owl.run.record import Run
from tests.conftest import ROOT
from tests.test_deployment import PRUNING, run_in
from tests.tiny import make_clips, make_model

pytestmark = pytest.mark.slow  # every test exports

TYPES = {0: "f32", 1: "f16", 2: "q4_0", 6: "q5_0", 8: "q8_0"}
FILE_TYPES = {"f16": 1, "q4_0": 2002, "q8_0": 2007, "q5_0": 2008}
SIZES = {"f16": 77_704_715, "q8_0": 43_550_795}  # ggml-tiny.en.bin, ggml-tiny.en-q8_0.bin


@cache
def processor(multilingual: bool = False, letter: str = "") -> WhisperProcessor:
    """One with OpenAI's numbers of tokens: bytes and pairs of them; `letter` in one of them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in shown] + [chr(256 + place) for place in range(68)]
    pairs = (first + second for first in letters for second in letters)
    count = 50_257 if multilingual else 50_256
    words = [*letters, *(next(pairs) for _ in range(count - 256))]
    words[777] += letter
    special = ["<|endoftext|>", "<|startoftranscript|>"]
    special += [f"<|{code}|>" for code in list(LANGUAGES)[:99]]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    special += ["<|nospeech|>", "<|notimestamps|>"]
    times = [f"<|{0.02 * place:.2f}|>" for place in range(1501)]
    tokenizer = WhisperTokenizer(
        vocab={token: place for place, token in enumerate([*words, *special, *times])},
        merges=[],
        pad_token=special[0],
        extra_special_tokens=special[1:],
    )
    return WhisperProcessor(WhisperFeatureExtractor(), tokenizer)


def tiny(multilingual: bool = False, **changes) -> Whisper:
    """A random Whisper that whisper.cpp has a place for; weights as float16 has them."""
    known = processor(multilingual).tokenizer.get_vocab()
    end, start = known["<|endoftext|>"], known["<|startoftranscript|>"]
    special = dict(
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start
    )
    sizes = dict(
        vocab_size=51_865 if multilingual else 51_864,
        d_model=32,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=1500,
        max_target_positions=448,
        num_mel_bins=80,
        decoder_layers=3,
        decoder_attention_heads=4,
    )
    model = make_model(**sizes | special | changes)
    settings = model.generation_config
    for name, value in special.items():
        setattr(settings, name, value)
    settings.no_timestamps_token_id = known["<|notimestamps|>"]
    settings.begin_suppress_tokens = [known["Ġ"], end]
    settings.suppress_tokens = [known["#"], known["("]]
    settings.is_multilingual = multilingual
    if multilingual:
        settings.lang_to_id = {f"<|{code}|>": known[f"<|{code}|>"] for code in ("en", "de", "su")}
        settings.task_to_id = {task: known[f"<|{task}|>"] for task in ("transcribe", "translate")}
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
        model.model.decoder.embed_positions.weight *= 4
    return Whisper(model, processor(multilingual))


def read(path):
    """(sizes, filters, words, {name: (type, values)}) as whisper.cpp reads a file: values as
    float32, matrices that are rounded multiplied out.
    """
    data, at = path.read_bytes(), 0

    def take(form, count=1):
        nonlocal at
        found = np.frombuffer(data, np.dtype(form).newbyteorder("<"), count, at)
        at += found.nbytes
        return found

    assert data[:4] == b"lmgg" and take("u4")[0] == 0x67676D6C
    sizes, (bins, frequencies) = take("i4", 11).tolist(), take("i4", 2)
    filters = take("f4", bins * frequencies).reshape(bins, frequencies)
    words, (count,) = [], take("i4")
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, at)
        words.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    tensors = {}
    while at < len(data):
        dimensions, length, kind = take("i4", 3)
        shape = take("i4", dimensions)[::-1]
        name, kind = take("u1", length).tobytes().decode(), TYPES[kind]
        count = shape.prod()
        if kind in ("f32", "f16"):
            values = take(kind[0] + {"f32": "4", "f16": "2"}[kind], count).astype(np.float32)
        else:
            size = {"q4_0": 18, "q5_0": 22, "q8_0": 34}[kind]
            values = unpack(kind, take("u1", count // 32 * size).reshape(-1, size))
        tensors[name] = kind, values.reshape(shape)
    return sizes, filters, words, tensors


def unpack(kind, blocks):
    """ggml's dequantize_row_q…: of 32 levels the first 16 lie in the low halves of the bytes."""
    scales, rest = blocks[:, :2].copy().view("<f2").astype(np.float32), blocks[:, 2:]
    if kind == "q8_0":
        return scales * rest.view(np.int8)
    halves = lambda one: np.concatenate([one & 15, one >> 4], axis=1).astype(int)
    if kind == "q4_0":
        return scales * (halves(rest) - 8)
    fifth = np.unpackbits(rest[:, :4], axis=1, bitorder="little").astype(int)
    return scales * ((halves(rest[:, 4:]) | fifth << 4) - 16)


@pytest.fixture(scope="module")
def asr():
    return tiny()


@pytest.fixture(scope="module")
def written(asr, tmp_path_factory):
    """grid → folder of the tiny model."""
    folders = {grid: tmp_path_factory.mktemp(grid) for grid in GRIDS}
    for grid, folder in folders.items():
        export_ggml(asr, folder, grid=grid)
    return folders


@pytest.fixture(scope="module")
def contents(written):
    """grid → what `read` finds in its file."""
    return {grid: read(folder / FILE) for grid, folder in written.items()}


def test_the_head_is_what_whisper_cpp_reads(asr, contents):
    for grid, (sizes, *_) in contents.items():
        assert sizes == [51_864, 1500, 32, 2, 2, 448, 32, 4, 3, 80, FILE_TYPES[grid]]
    _, filters, words, _ = contents["q5_0"]
    assert np.array_equal(filters, asr.processor.feature_extractor.mel_filters.T.astype("f4"))
    assert len(words) == 50_257 and words[-1] == b"<|endoftext|>"
    assert {bytes([byte]) for byte in range(256)} <= set(words)
    assert words[words.index(b"A")] == b"A" and words.index(b" ") == 188 + 32


def test_float16_tensors_have_openais_names_and_our_values(asr, contents):
    *_, tensors = contents["f16"]
    named = {
        "encoder.conv1.weight": "encoder.conv1.weight",
        "encoder.positional_embedding": "encoder.embed_positions.weight",
        "encoder.blocks.1.attn.query.weight": "encoder.layers.1.self_attn.q_proj.weight",
        "encoder.blocks.1.attn_ln.bias": "encoder.layers.1.self_attn_layer_norm.bias",
        "encoder.blocks.0.mlp.0.weight": "encoder.layers.0.fc1.weight",
        "encoder.ln_post.weight": "encoder.layer_norm.weight",
        "decoder.token_embedding.weight": "decoder.embed_tokens.weight",
        "decoder.positional_embedding": "decoder.embed_positions.weight",
        "decoder.blocks.2.attn.out.bias": "decoder.layers.2.self_attn.out_proj.bias",
        "decoder.blocks.2.cross_attn.key.weight": "decoder.layers.2.encoder_attn.k_proj.weight",
        "decoder.blocks.2.cross_attn.value.bias": "decoder.layers.2.encoder_attn.v_proj.bias",
        "decoder.blocks.2.cross_attn_ln.weight": "decoder.layers.2.encoder_attn_layer_norm.weight",
        "decoder.blocks.0.mlp.2.bias": "decoder.layers.0.fc2.bias",
        "decoder.blocks.0.mlp_ln.weight": "decoder.layers.0.final_layer_norm.weight",
        "decoder.ln.bias": "decoder.layer_norm.bias",
    }
    own = dict(asr.model.model.named_parameters())
    for name, ours in named.items():
        values = own[ours].detach().numpy()
        assert np.array_equal(tensors[name][1].reshape(values.shape), values), name
    assert len(tensors) == len(own)  # the output layer is the embedding, once
    assert {name: kind for name, (kind, values) in tensors.items() if values.ndim == 1} == {
        name: "f32" for name, (_, values) in tensors.items() if values.ndim == 1
    }
    for name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        assert tensors[name][0] == "f32" and tensors[name][1].shape == (32, 1)


@pytest.mark.parametrize("grid", ["q8_0", "q5_0", "q4_0"])
def test_a_grid_rounds_all_matrices_and_nothing_else(contents, grid):
    *_, plain = contents["f16"]
    *_, rounded = contents[grid]
    levels = {"q8_0": 127, "q5_0": 16, "q4_0": 8}[grid]
    for name, (kind, values) in plain.items():
        if kind == "f32" or "conv" in name:
            assert rounded[name][0] == kind and np.array_equal(rounded[name][1], values)
            continue
        assert rounded[name][0] == grid
        blocks, found = values.reshape(-1, 32), rounded[name][1].reshape(-1, 32)
        # at most one level: q5_0 and q4_0 have none for the largest value of the other sign
        step = abs(blocks).max(axis=1, keepdims=True) / levels
        assert (abs(found - blocks) <= 1.01 * step).all() and not np.array_equal(found, blocks)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_pruned_weight_stays_zero(tmp_path, grid):
    model, _ = pruned = tiny()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = model.model.encoder.layers[0].fc1.weight.detach()
        weight[torch.rand(weight.shape, generator=generator) < 0.6] = 0
        weight[:2] = 0  # blocks of nothing else
    export_ggml(pruned, tmp_path, grid=grid)
    _, found = read(tmp_path / FILE)[3]["encoder.blocks.0.mlp.0.weight"]
    assert (found[weight.numpy() == 0] == 0).all()
    assert (found[weight.numpy() != 0] != 0).mean() > 0.8


def test_the_model_stays_as_it_was(asr, written):
    other = tiny()
    assert all(
        torch.equal(value, other.model.state_dict()[name])
        for name, value in asr.model.state_dict().items()
    )


def audio():
    return [clip.audio for clip in make_clips(2, seed=3)]


@pytest.mark.parametrize("cap", [1, 2])
def test_whisper_cpp_says_what_pytorch_says(asr, written, cap):
    """The shorter clip is shorter than what whisper.cpp listens to. It computes in half precision,
    which random weights forgive for a few tokens only.
    """
    waves = [audio()[1], audio()[0][:1000]]
    expected = torch_decoder(asr, max_new_tokens=cap)(waves)
    said = cpp_decoder(CppWhisper(written["f16"], asr, 1), asr.processor, max_new_tokens=cap)(waves)
    assert said == expected and all(len(one.tokens) == cap for one in said)


@pytest.fixture(scope="module")
def shortened(tmp_path_factory, asr):
    """A folder with the file, and beside it the one for short windows."""
    folder = tmp_path_factory.mktemp("short") / "ggml"
    folder.mkdir()
    export_ggml(asr, folder)
    export_short(folder)
    return folder


def test_the_file_for_short_windows_begins_with_the_windows_last_second(shortened):
    whole, turned = (dict(read_whole(one / FILE)) for one in (shortened, short_folder(shortened)))
    name = "encoder.positional_embedding"
    assert np.array_equal(turned[name], np.concatenate([whole[name][-50:], whole[name][:-50]]))
    rest = whole.keys() - {name}
    assert rest and all(np.array_equal(whole[one], turned[one]) for one in rest)
    silence, rate = soundfile.read(short_folder(shortened) / SILENCE)
    assert (rate, len(silence), np.abs(silence).max()) == (16_000, 16_000, 0)


@pytest.mark.parametrize(
    "seconds, frames", [(0.1, 512), (9.0, 512), (9.02, 768), (24.3, 1280), (24.4, 1536)]
)
def test_short_windows_are_as_long_as_whisper_cpps_attention_reads(seconds, frames):
    """A second of silence, the speech and .24 s, in whole multiples of 256 frames of .02 s, two of
    them at least.
    """
    assert short_frames(round(16_000 * seconds)) == frames


def in_short_windows(asr, waves, cap=None, silence=16_000, turned=50):
    """What PyTorch says with the window's last second before the speech."""
    encoder, said = copy.deepcopy(asr.model), []
    positions = encoder.model.encoder.embed_positions.weight
    positions.data.copy_(positions.data.roll(turned, dims=0))
    for wave in waves:
        behind = np.concatenate([np.zeros(silence, np.float32), wave])
        features = input_features(asr, [behind])[:, :, : 2 * short_frames(len(wave))]
        said += greedy(asr.model, encode(encoder, features), language=None, max_new_tokens=cap)
    return said


def test_whisper_cpp_reads_short_windows_as_pytorch_would(tmp_path):
    """A model that looks at what it hears and where: without the silence before, or without turning
    the positions, it says something else.
    """
    word, shorter = audio()
    asr, waves = tiny(), [shorter, word, np.tile(word, 8), np.tile(word, 30)]  # to 10.3 s
    with torch.no_grad():
        asr.model.model.encoder.embed_positions.weight.mul_(3)
        for layer in asr.model.model.decoder.layers:
            for linear in (layer.encoder_attn.q_proj, layer.encoder_attn.k_proj):
                linear.weight.mul_(10)
            layer.encoder_attn.v_proj.weight.mul_(10)
            layer.encoder_attn.out_proj.weight.mul_(10)
    folder = tmp_path / "ggml"
    folder.mkdir()
    export_ggml(asr, folder)
    export_short(folder)
    whisper, expected = CppWhisper(folder, asr, 1, "speech"), in_short_windows(asr, waves, 2)
    assert cpp_decoder(whisper, asr.processor, max_new_tokens=2)(waves) == expected
    for others in (in_short_windows(asr, waves, 2, turned=0), in_short_windows(asr, waves, 2, 0)):
        assert all(one != other for one, other in zip(expected, others))


def test_a_clip_too_long_for_a_short_window_is_read_in_a_full_one(asr, shortened):
    long = np.tile(audio()[0], 80)[: 16_000 * 25]
    said = [
        cpp_decoder(CppWhisper(shortened, asr, 1, window), asr.processor, max_new_tokens=2)([long])
        for window in ("full", "speech")
    ]
    assert len(long) == 16_000 * 25 and said[0] == said[1]


def test_a_missing_file_for_short_windows_is_one_error(asr, written):
    with pytest.raises(ModelError, match="-speech/ggml-model.bin.*No such file"):
        CppWhisper(written["f16"], asr, 1, "speech")


def test_a_multilingual_model_is_asked_for_a_language_and_a_task(tmp_path):
    """The model says a word that stands for language and task of its prompt."""
    asked = [("en", "transcribe"), ("de", "transcribe"), ("de", "translate")]
    asr = parrot({1000 + place: pair for place, pair in enumerate(asked)})
    export_ggml(asr, tmp_path)
    whisper = CppWhisper(tmp_path, asr, 1)
    for place, (language, asr.model.generation_config.task) in enumerate(asked):
        options = dict(language=language, max_new_tokens=1)
        said = cpp_decoder(whisper, asr.processor, **options)(audio())
        assert [one.tokens for one in said] == [[1000 + place]] * 2
        assert said == torch_decoder(asr, **options)(audio())


def parrot(words) -> Whisper:
    """A model that looks at its prompt alone, all of it alike; `words`: token → the language and
    task for which it is the answer.
    """
    asr = tiny(multilingual=True)
    known, decoder = asr.processor.tokenizer.get_vocab(), asr.model.model.decoder
    with torch.no_grad():
        for layer in decoder.layers:
            for last in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                last.weight.zero_(), last.bias.zero_()
        first = decoder.layers[0].self_attn
        first.q_proj.weight.zero_(), first.q_proj.bias.zero_(), first.v_proj.bias.zero_()
        first.v_proj.weight.copy_(torch.eye(32)), first.out_proj.weight.copy_(100 * torch.eye(32))
        decoder.embed_positions.weight.zero_()
        table = decoder.embed_tokens.weight
        for word, names in words.items():
            table[word] = 5 * sum(table[known[f"<|{name}|>"]] for name in names)
    return asr


def demo():
    return loading.load(str(ROOT / "models" / "demo"))


def narrowed(part: str) -> Whisper:
    """As if one of four heads, or half of the neurons, were gone."""
    asr = tiny()
    layer = asr.model.model.decoder.layers[1]
    if part == "heads":
        layer.self_attn.q_proj = torch.nn.Linear(32, 24)
    else:
        layer.fc1, layer.fc2 = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    return asr


def too_large() -> Whisper:
    asr = tiny()
    with torch.no_grad():
        asr.model.model.decoder.layers[0].fc2.weight[0, 0] = 1e5
    return asr


def flagged() -> Whisper:
    asr = tiny()
    asr.model.generation_config.is_multilingual = True
    return asr


REFUSED = {
    "window": (lambda: tiny(max_source_positions=500), "f16", "model's window is 10 s"),
    "grid": (tiny, "q3_k", "unknown grid 'q3_k': whisper.cpp's are f16, q8_0, q5_0, q4_0"),
    "demo": (demo, "f16", "places in OpenAI's vocabularies"),
    "rows": (lambda: tiny(vocab_size=51_900), "f16", "51,900 for multilingual, and the model"),
    "flag": (flagged, "f16", "51,864 for English-only, and the model's is not"),
    "heads": (lambda: narrowed("heads"), "f16", "lost heads: .*query.weight is 24 × 32"),
    "neurons": (lambda: narrowed("neurons"), "q5_0", "neurons: .*blocks.1.mlp.0.weight is 64"),
    "ffn": (lambda: tiny(encoder_ffn_dim=64), "f16", "neurons: .*blocks.0.mlp.0.weight is 64"),
    "blocks": (lambda: tiny(d_model=24, encoder_ffn_dim=96), "q4_0", "32 weights; the .* have 24"),
    "gelu": (lambda: tiny(activation_function="relu"), "f16", "activation_function 'relu'"),
    "half": (too_large, "q8_0", "decoder.blocks.0.mlp.2.weight has a value beyond float16"),
    "letters": (
        lambda: tiny()._replace(processor=processor(letter="中")),
        "f16",
        "byte-level vocabulary; token 777 is '.*中'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_whisper_cpp_has_no_place_for_is_refused_with_the_reason(tmp_path, case):
    make, grid, reason = REFUSED[case]
    with pytest.raises(UnsupportedFormat, match=reason):
        export_ggml(make(), tmp_path, grid=grid)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("owl.export.ggml.write_tensor", fail)
    with pytest.raises(OSError, match="no space left"):
        export_ggml(tiny(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_lost_whole_layers_is_written(tmp_path):
    asr = tiny()
    drop_layers(asr.model, ["decoder.1", "encoder.0"])
    remember(asr.model)
    export_ggml(asr, tmp_path)
    sizes = check(tmp_path / FILE)
    assert (sizes.audio_layers, sizes.text_layers) == (1, 2)


def test_a_whole_file_is_known_by_its_sizes(written, contents):
    for grid, folder in written.items():
        sizes = check(folder / FILE)
        assert (sizes.vocabulary, sizes.file_type) == (51_864, FILE_TYPES[grid])
        assert list(layout(sizes)) == list(contents[grid][3])


def place_of(data, name):
    """Where the tensor `name` begins."""
    return data.index(name.encode()) - 4 * 3 - 4 * (1 if name.endswith("bias") else 2)


DAMAGED = {
    "empty": (lambda data: b"", "empty|mmap|ends at"),
    "no magic": (lambda data: b"x" + data[1:], "does not begin as one"),
    "in the sizes": (lambda data: data[:20], "ends at 20 bytes"),
    "in the words": (lambda data: data[:100_000], "ends at 100,000 bytes"),
    "in a tensor": (lambda data: data[: len(data) // 2], "ends at"),
    "a byte short": (lambda data: data[:-1], "ends at"),
    "a byte more": (lambda data: data + b"x", "ends at"),
    "without the last": (
        lambda data: data[: place_of(data, "decoder.ln.bias")],
        "1 tensors are missing, such as decoder.ln.bias",
    ),
    "grid": (lambda data: data[:44] + struct.pack("<i", 2003) + data[48:], "file type is 2003"),
    "sizes": (lambda data: data[:12] + struct.pack("<i", -5) + data[16:], "make no sense"),
    "layers": (lambda data: data[:36] + struct.pack("<i", 9) + data[40:], "missing, such as"),
    "width": (lambda data: data[:12] + struct.pack("<i", 64) + data[16:], "do not fit together"),
    "heads": (lambda data: data[:16] + struct.pack("<i", 5) + data[20:], "do not fit together"),
    "positions": (lambda data: data[:8] + struct.pack("<i", 64) + data[12:], "has the shape"),
    "name": (lambda data: data.replace(b"decoder.ln.bias", b"decoder.ln.bios"), "bios' too many"),
    "filters": (lambda data: data[:48] + struct.pack("<i", 10**8) + data[52:], "mel filters are"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_error_and_never_given_to_whisper_cpp(asr, written, tmp_path, case):
    damage, reason = DAMAGED[case]
    (tmp_path / FILE).write_bytes(damage((written["f16"] / FILE).read_bytes()))
    with pytest.raises(ModelError, match=f"is no whole ggml Whisper: .*({reason})") as raised:
        CppWhisper(tmp_path, asr)
    assert "export it again with FORMATS=ggml" in str(raised.value)


def test_what_whisper_cpp_refuses_itself_is_one_error_too(asr, tmp_path, monkeypatch):
    monkeypatch.setattr("owl.export.whispercpp.check", lambda path: None)
    (tmp_path / FILE).write_bytes(b"no model")
    with pytest.raises(ModelError, match="whisper.cpp cannot load .*bad magic"):
        CppWhisper(tmp_path, asr)


def test_a_folder_without_the_file_is_one_error(asr, tmp_path):
    with pytest.raises(ModelError, match="is no whole ggml Whisper: .*No such file"):
        CppWhisper(tmp_path, asr)


def test_every_parameter_has_its_openai_name(asr, contents):
    names = {openai_name(name) for name, _ in asr.model.named_parameters()}
    assert names == set(contents["q4_0"][3])


def test_quantization_adds_the_8_bit_form():
    assert with_int8(["ggml", "hf"]) == ["ggml", "ggml-q8_0", "hf"]
    assert with_int8(["ggml-q5_0"]) == ["ggml-q5_0"]
    assert [FORMATS[f"ggml-{grid}"].rounds for grid in ("q8_0", "q5_0", "q4_0")] == ["ggml"] * 3


def test_an_outline_has_settings_and_no_weights(tmp_path):
    path = str(ROOT / "models" / "demo")
    whole, outline = loading.load(path), loading.outline(path)
    assert outline.model.generation_config.to_dict() == whole.model.generation_config.to_dict()
    assert {one.device.type for one in outline.model.parameters()} == {"meta"}


@pytest.mark.parametrize("window", ["full", "speech"])
def test_a_fresh_process_measures_what_is_written_for_the_runs_windows(tmp_path, asr, window):
    asr.model.save_pretrained(tmp_path / "model")
    asr.processor.save_pretrained(tmp_path / "model")
    overrides = {"samples": 2, "model": str(tmp_path / "model"), "window": window}
    run = run_in(tmp_path, load_config(ROOT / "configs" / "demo.json", overrides))
    folder, reason = formats.write("ggml-q8_0", run, asr, PRUNING, {"datasets": []})
    assert reason is None and short_folder(folder).is_dir() == (window == "speech")
    given = FORMATS["ggml-q8_0"], str(folder), run.config, evaluation_sets(run.config)
    found = in_fresh_process(measure, *given, torch.float16, {}, window)
    assert (found.runtime, found.window, found.device) == ("whisper.cpp", window, "cpu")
    assert found.weights is None and found.first_token_seconds > 0 and found.said[0].rtfx > 0
    assert all(one.tokens > 0 for said in found.said for one in said.transcripts)
    short_folder(folder).mkdir(exist_ok=True)  # of an earlier run
    full = run.config.model_copy(update={"evaluation": evaluation_in_full(run.config)})
    formats.write("ggml-q8_0", Run("mine", tmp_path, full), asr, PRUNING, {"datasets": []})
    assert folder.is_dir() and not short_folder(folder).exists()
    short_folder(folder).mkdir()
    formats.remove_others([], run)
    assert not folder.exists() and not short_folder(folder).exists()


def evaluation_in_full(config):
    return config.evaluation.model_copy(update={"window": "full"})


def test_openais_model_has_the_published_bytes_and_says_the_same(shared, tmp_path):
    folder = shared / "whisper" / "tiny.en"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/whisper/tiny.en with OpenAI's weights is not here")
    asr = loading.load(str(folder))
    for grid, size in SIZES.items():
        (tmp_path / grid).mkdir()
        export_ggml(asr, tmp_path / grid, grid=grid)
        assert (tmp_path / grid / FILE).stat().st_size == size
    clips = sorted((shared / "speech" / "LibriSpeech" / "test-other").rglob("*.flac"))[:3]
    waves = [soundfile.read(clip, dtype="float32")[0] for clip in clips]
    said = cpp_decoder(CppWhisper(tmp_path / "f16", asr, 1), asr.processor)(waves)
    assert said == torch_decoder(asr)(waves)
    export_short(tmp_path / "f16")
    said = cpp_decoder(CppWhisper(tmp_path / "f16", asr, 1, "speech"), asr.processor)(waves)
    assert said == in_short_windows(asr, waves)


@pytest.mark.parametrize("grid", GRIDS)
def test_what_a_file_holds_comes_back_into_pytorch(tmp_path, grid):
    asr = tiny()
    export_ggml(asr, tmp_path, grid=grid)
    settings = tiny()._replace(processor=asr.processor)
    held = load_ggml(tmp_path, settings).model
    *_, tensors = read(tmp_path / FILE)
    for name, parameter in held.named_parameters():
        values = torch.tensor(tensors[openai_name(name)][1]).view(parameter.shape)
        assert torch.equal(parameter, values), name
    assert held.proj_out.weight is held.model.decoder.embed_tokens.weight
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-1])
    with pytest.raises(ModelError, match="no whole ggml Whisper"):
        load_ggml(tmp_path, settings)
