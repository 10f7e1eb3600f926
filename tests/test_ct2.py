"""Against a reference: PyTorch's greedy tokens, which ctranslate2 gives in float32 for the same
clips. Behaviour only: what lies in the folder, refusals, which loader it names. The tiny model is
random; the demo model understands speech.
"""

import json

import numpy as np
import pytest
import torch
from transformers import WhisperProcessor

from owl.config.load import load as load_config
from owl.errors import ModelError, UnsupportedFormat
from owl.export.ct2 import FILES, Ct2Whisper, ct2_decoder, export_ct2, loads_in
from owl.model.decoding import torch_decoder
from owl.model.whisper import Whisper, load, window_samples
from owl.run.experiment import evaluation_sets
from tests.conftest import ROOT
from tests.tiny import make_model, make_processor

pytestmark = pytest.mark.slow  # every test exports or converts


def tiny(**changes):
    """The tiny model with the vocabulary of its tokenizer, end and start where ctranslate2 looks
    for them; it ends now and then.
    """
    tokenizer = make_processor().tokenizer
    end, start, quiet = tokenizer.convert_tokens_to_ids(
        ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    )
    special = dict(
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start
    )
    model = make_model(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        **special,
        **changes,
    )
    for name, value in (special | {"no_timestamps_token_id": quiet}).items():
        setattr(model.generation_config, name, value)
    with torch.no_grad():
        model.model.decoder.embed_positions.weight *= 4
    return model


def noise(lengths=(1600, 4000, 6400, 2900, 5100)):
    draw = np.random.default_rng(1)
    return [(0.3 * draw.standard_normal(length)).astype(np.float32) for length in lengths]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, processor, folder) of the tiny model."""
    model, folder = tiny(), tmp_path_factory.mktemp("ct2") / "folder"
    folder.mkdir()
    export_ct2(Whisper(model, make_processor()), folder)
    return model, make_processor(), folder


@pytest.mark.parametrize("cap", [1, 2, 7, None])
def test_a_batch_gets_the_tokens_that_pytorch_gives_whatever_the_cap(exported, cap):
    """float16 on disk rounds the random weights, so PyTorch computes with the rounded ones."""
    model, processor, folder = exported
    expected = torch_decoder(Whisper(make_rounded(model), processor), max_new_tokens=cap)(noise())
    assert ct2_decoder(folder, processor, max_new_tokens=cap)(noise()) == expected
    assert any(one.ended == "cap" for one in expected) or cap is None


def test_text_that_loops_ends_where_it_does_in_pytorch(tmp_path):
    model, processor = tiny(max_target_positions=120), make_processor()
    with torch.no_grad():
        model.model.decoder.embed_positions.weight *= 0.25
    export_ct2(Whisper(model, processor), tmp_path)
    rounded = make_rounded(model, max_target_positions=120)
    expected = torch_decoder(Whisper(rounded, processor))(noise())
    assert ct2_decoder(tmp_path, processor)(noise()) == expected
    assert any(one.ended == "loop" and len(one.tokens) < 60 for one in expected)


def make_rounded(model, **changes):
    rounded = tiny(**changes)
    rounded.load_state_dict(
        {name: value.half().float() for name, value in model.state_dict().items()}
    )
    return rounded


def test_tokens_that_are_never_said_or_never_said_first_are_not(tmp_path):
    model, processor = make_rounded(tiny()), make_processor()
    usual = torch_decoder(Whisper(model, processor))(noise())
    model.generation_config.suppress_tokens = sorted(
        {token for one in usual for token in one.tokens[2:]}
    )[:3]
    model.generation_config.begin_suppress_tokens = sorted({one.tokens[0] for one in usual})
    expected = torch_decoder(Whisper(model, processor))(noise())
    export_ct2(Whisper(model, processor), tmp_path)
    assert ct2_decoder(tmp_path, processor)(noise()) == expected != usual


@pytest.mark.slow
def test_the_demo_model_says_the_same_through_both_runtimes_and_an_int8_folder_decodes(tmp_path):
    model, processor = load(str(ROOT / "models" / "demo"))
    dataset = evaluation_sets(load_config(ROOT / "configs" / "demo.json", {"samples": 2}))[0]
    audio = [clip.audio for clip in dataset.clips]
    export_ct2(Whisper(model, processor), tmp_path)
    said = torch_decoder(Whisper(model, processor))(audio)
    assert ct2_decoder(tmp_path, WhisperProcessor.from_pretrained(tmp_path))(audio) == said
    assert all(len(one.tokens) > 3 and one.ended == "end" for one in said)
    plain = (tmp_path / "model.bin").stat().st_size
    export_ct2(Whisper(model, processor), tmp_path, int8=True)
    assert (tmp_path / "model.bin").stat().st_size < 0.7 * plain
    assert [len(one.tokens) > 3 for one in ct2_decoder(tmp_path, processor)(audio)] == [True, True]


def test_faster_whisper_loads_and_transcribes_the_folder_of_a_30_second_model(tmp_path):
    """The clip is padded with silence here: faster-whisper pads its features with zeros instead,
    which our small demo has never seen.
    """
    faster_whisper = pytest.importorskip("faster_whisper")
    model, processor = load(str(ROOT / "models" / "demo"))
    clip = evaluation_sets(load_config(ROOT / "configs" / "demo.json", {"samples": 1}))[0].clips[0]
    export_ct2(Whisper(model, processor), tmp_path)
    assert loads_in(model) == "faster-whisper, ctranslate2"
    whisper = faster_whisper.WhisperModel(
        str(tmp_path), device="cpu", compute_type="float32", cpu_threads=1
    )
    segments, _ = whisper.transcribe(
        np.pad(clip.audio, (0, window_samples(processor) - len(clip.audio))),
        beam_size=1,
        without_timestamps=True,
        temperature=0.0,
    )
    (said,) = torch_decoder(Whisper(model, processor))([clip.audio])
    assert (
        " ".join(one.text.strip() for one in segments)
        == processor.tokenizer.decode(said.tokens, skip_special_tokens=True).strip()
    )


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = tiny()
    before, settings = (
        {name: value.clone() for name, value in model.state_dict().items()},
        model.config.to_dict(),
    )
    for int8 in (False, True):
        export_ct2(Whisper(model, make_processor()), tmp_path, int8=int8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == settings


def test_the_folder_holds_what_loaders_look_for(exported):
    files = {path.name for path in exported[2].iterdir()}
    assert files >= {*FILES, "tokenizer.json", "preprocessor_config.json"}
    assert json.loads((exported[2] / "whisper_config.json").read_text())["model_type"] == "whisper"
    assert "suppress_ids" in json.loads((exported[2] / "config.json").read_text())


def test_loaders_are_named_by_window_and_vocabulary():
    assert "not faster-whisper: window" in loads_in(make_model())
    model = make_model(max_source_positions=1500)
    assert loads_in(model) == "faster-whisper, ctranslate2"
    model.generation_config.is_multilingual = True
    assert "multilingual vocabulary without" in loads_in(model)
    model.generation_config.eos_token_id = 50257
    assert loads_in(model) == "faster-whisper, ctranslate2"


def test_a_model_that_ctranslate2_has_no_place_for_is_refused_with_the_reason(tmp_path):
    with pytest.raises(
        UnsupportedFormat, match="the tokenizer knows .* tokens, the model's vocabulary has 40"
    ):
        export_ct2(Whisper(make_model(), make_processor()), tmp_path)
    model = tiny()
    # as if one of its two heads were gone
    model.model.decoder.layers[1].self_attn.q_proj = torch.nn.Linear(32, 16)
    with pytest.raises(
        UnsupportedFormat, match="one number of heads per stack.* decoder has lost some"
    ):
        export_ct2(Whisper(model, make_processor()), tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_a_file_missing_is_refused_by_name(exported, tmp_path, name):
    for path in exported[2].iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ModelError, match=f"{name} missing; export it again"):
        Ct2Whisper(tmp_path)


def test_a_broken_weight_file_is_refused_by_name(exported, tmp_path):
    for path in exported[2].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="(?s)ctranslate2 cannot load .*\nExport the folder again"):
        Ct2Whisper(tmp_path)
