"""The adapter against the stock model: our block-by-block forward must be transformers' own
forward, bit for bit.

Only behaviour: names, selection, prompts, refusals.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from owl.errors import ConfigError, ModelError
from owl.model import decoding, whisper
from owl.model.prompt import complete_settings
from owl.prune import calibration
from tests import tiny
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def model():
    return tiny.make_model()


def test_blocks_come_in_order_with_all_their_linears(model):
    blocks = whisper.blocks(model)
    assert [block.name for block in blocks] == ["encoder.0", "encoder.1", "decoder.0", "decoder.1"]
    assert [len(block.linears) for block in blocks] == [6, 6, 10, 10]
    d = model.config.d_model
    # ffn is 2 d here
    assert [block.weight_count for block in blocks] == [
        8 * d * d,
        8 * d * d,
        12 * d * d,
        12 * d * d,
    ]
    assert blocks[2].linears[4].name == "decoder.0.encoder_attn.k_proj"
    assert model.get_submodule(blocks[2].linears[4].path) is blocks[2].linears[4].module


def test_the_token_embedding_is_never_offered(model):
    every = {
        id(linear.module.weight) for block in whisper.blocks(model) for linear in block.linears
    }
    assert id(model.proj_out.weight) not in every
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight


def test_walking_the_blocks_is_the_stock_forward(model):
    clips, texts = tiny.make_clips(3), [[5, 6, 7], [8], [9, 10]]
    processor = tiny.make_processor()
    batches = calibration.prepare(
        model, processor, clips, texts, language=None, padding="exclude", batch_size=3
    )
    tokens = torch.tensor([[1, 37, 5, 6, 7], [1, 37, 8, 0, 0], [1, 37, 9, 10, 0]])
    for _ in calibration.walk(
        model, whisper.blocks(model), batches, gram=False, modified=False, description="walk"
    ):
        pass
    with torch.inference_mode():
        features = decoding.input_features(model, processor, [clip.audio for clip in clips])
        stock = model.model(input_features=features, decoder_input_ids=tokens)
        ours = model.model.decoder.layer_norm(batches[0].text)
        rows = batches[0].text_rows
    assert torch.equal(batches[0].audio, stock.encoder_last_hidden_state)
    # the mask reaches SDPA in another form
    torch.testing.assert_close(ours[rows], stock.last_hidden_state[rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "target", ["decoder.layers", "model.decoder.layers", "decoder.layers.1.fc1"]
)
def test_targets_are_dot_bounded_prefixes_with_or_without_model(model, target):
    selected, warnings = whisper.select(whisper.blocks(model), [target], [])
    assert [len(block.linears) for block in selected] == (
        [0, 0, 0, 1] if target.endswith("fc1") else [0, 0, 10, 10]
    )
    assert warnings == []


def test_a_target_does_not_reach_half_a_name(model):
    with pytest.raises(ConfigError, match="decoder.layers.1.fc' matches no linear"):
        whisper.select(whisper.blocks(model), ["decoder.layers.1.fc"], [])


def test_an_exclusion_that_matches_nothing_is_a_warning_and_one_that_leaves_nothing_an_error(model):
    selected, warnings = whisper.select(
        whisper.blocks(model), ["encoder.layers"], ["encoder.layers.0", "encoder.layers.7"]
    )
    assert [len(block.linears) for block in selected] == [0, 6, 0, 0]
    assert len(warnings) == 1 and "encoder.layers.7" in warnings[0]
    with pytest.raises(ConfigError, match="leave no linear to prune"):
        whisper.select(whisper.blocks(model), ["encoder.layers"], ["encoder"])


def multilingual():
    model = tiny.make_model()
    model.generation_config.is_multilingual = True
    model.generation_config.lang_to_id = {"<|en|>": 2, "<|de|>": 3}
    model.generation_config.task_to_id = {"transcribe": 4}
    return model


def test_prompts_of_english_only_and_multilingual_models(model):
    assert whisper.prompt_tokens(model) == [1, 37]
    other = multilingual()
    assert whisper.prompt_tokens(other) == [1, 2, 4, 37]
    assert whisper.prompt_tokens(other, "de") == [1, 3, 4, 37]
    with pytest.raises(ModelError, match="knows no language 'tlh'"):
        whisper.prompt_tokens(other, "tlh")
    other.generation_config.language = "Klingon"
    with pytest.raises(ModelError, match="knows no language 'Klingon'"):
        whisper.prompt_tokens(other)


@pytest.mark.parametrize("language", ["de", "german", "German", "<|de|>"])
def test_a_language_is_a_code_a_name_or_a_token_wherever_it_is_written(language):
    """transformers itself accepts all of them in a fine-tune's generation_config.language."""
    other = multilingual()
    assert whisper.prompt_tokens(other, language) == [1, 3, 4, 37]
    other.generation_config.language = language
    assert (
        whisper.prompt_tokens(other) == [1, 3, 4, 37] and whisper.language_of(other, None) == "de"
    )
    spoken = tiny.make_clips(1)[0].audio
    assert decoding.torch_decoder(other, tiny.make_processor(), max_new_tokens=3)([spoken])


VOCABULARY = {
    "<|en|>": 2,
    "<|de|>": 3,
    "<|translate|>": 5,
    "<|transcribe|>": 4,
    "<|notimestamps|>": 37,
    "hello": 6,
}


def test_ids_that_an_old_fine_tune_left_out_come_from_its_tokenizer():
    settings = GenerationConfig()
    complete_settings(settings, VOCABULARY, size=51_865)
    assert settings.is_multilingual and settings.no_timestamps_token_id == 37
    assert settings.lang_to_id == {"<|en|>": 2, "<|de|>": 3} and settings.task_to_id == {
        "transcribe": 4,
        "translate": 5,
    }
    english = GenerationConfig()
    # its tokenizer has the language tokens all the same
    complete_settings(english, VOCABULARY, size=51_864)
    assert not english.is_multilingual and not hasattr(english, "lang_to_id")


def test_ids_that_are_there_are_kept():
    there = {
        "no_timestamps_token_id": 9,
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": 8},
        "task_to_id": {"transcribe": 7},
    }
    settings = GenerationConfig(**there)
    complete_settings(settings, VOCABULARY, size=40)
    assert {name: getattr(settings, name) for name in there} == there


@pytest.mark.parametrize(
    "vocabulary, size, words",
    [
        ({}, 51_865, "notimestamps"),
        ({"<|notimestamps|>": 1}, 51_865, "lang_to_id"),
        (VOCABULARY, 40, "is_multilingual"),
    ],
)
def test_settings_that_nothing_tells_are_asked_for(vocabulary, size, words):
    with pytest.raises(ValueError, match=f"{words}.*copy generation_config.json"):
        complete_settings(GenerationConfig(), vocabulary, size)


def test_valid_frames_round_up_and_stop_at_the_window(model):
    assert [whisper.valid_frames(samples, model) for samples in (1, 320, 321, 10**6)] == [
        1,
        1,
        2,
        20,
    ]


def test_weights_are_counted_once_where_tied(model):
    prunable, parameters = whisper.weight_counts(model, whisper.blocks(model))
    assert prunable == 2 * (8 + 12) * 16 * 16
    assert parameters == sum(
        tensor.numel() for name, tensor in model.state_dict().items() if name != "proj_out.weight"
    )


@pytest.mark.parametrize("wanted", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_here_is_refused(wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"'{wanted}' was asked for.*DEVICE=auto"):
        whisper.choose_device(wanted)
    assert whisper.choose_device("auto") == torch.device("cpu")


def test_half_precision_on_a_cpu_becomes_float32():
    assert whisper.choose_dtype("float16", torch.device("cpu")) == torch.float32
    assert whisper.choose_dtype("float16", torch.device("cuda")) == torch.float16


@pytest.fixture
def demo_copy(tmp_path):
    return shutil.copytree(ROOT / "models" / "demo", tmp_path / "copy")


def break_config(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def drop_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.encoder.layers.0.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "spoil, words",
    [
        (break_config, "is a 'bert' model, not a Whisper"),
        (truncate, "cannot load the model"),
        (drop_a_tensor, "is incomplete.*encoder.layers.0.fc1.weight"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot load the model"),
        (
            lambda folder: (folder / "generation_config.json").unlink(),
            "cannot load the model.*copy generation_config.json",
        ),
        (lambda folder: shutil.rmtree(folder), "cannot load the model"),
    ],
)
def test_a_broken_or_foreign_model_is_refused_by_name(demo_copy, spoil, words):
    spoil(demo_copy)
    with pytest.raises(ModelError, match=words) as caught:
        whisper.load(str(demo_copy))
    assert str(demo_copy) in str(caught.value)
