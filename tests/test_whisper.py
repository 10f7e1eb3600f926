"""The adapter against the stock model: our block-by-block forward must be transformers' own
forward, bit for bit.

Only behaviour: names, selection, prompts, refusals.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, WhisperConfig

from owl.errors import ConfigError, ModelError
from owl.model import decoding, whisper
from owl.model.generation import whole_settings
from owl.model.whisper import Whisper
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
        Whisper(model, processor), clips, texts, language=None, padding="exclude", batch_size=3
    )
    tokens = torch.tensor([[1, 37, 5, 6, 7], [1, 37, 8, 0, 0], [1, 37, 9, 10, 0]])
    for _ in calibration.walk(
        model, whisper.blocks(model), batches, gram=False, modified=False, description="walk"
    ):
        pass
    with torch.inference_mode():
        features = decoding.input_features(
            Whisper(model, processor), [clip.audio for clip in clips]
        )
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
    assert decoding.torch_decoder(Whisper(other, tiny.make_processor()), max_new_tokens=3)([spoken])


# the ids of OpenAI's multilingual vocabulary, where they matter, and a word behind the timestamps
MULTI = {
    "<|endoftext|>": 50257,
    "<|startoftranscript|>": 50258,
    "<|en|>": 50259,
    "<|de|>": 50261,
    "<|translate|>": 50358,
    "<|transcribe|>": 50359,
    "<|notimestamps|>": 50363,
    "<|0.00|>": 50364,
    "hello": 50365,
}
ENGLISH = MULTI | {"<|endoftext|>": 50256}
START = {"<|startoftranscript|>": 50258}
OPEN, GERMAN = [[1, None], [2, 50359]], [[1, 50261], [2, 50359], [3, 50363]]


class Tokenizer:
    """As much of a tokenizer as settings are made from."""

    def __init__(self, language=None, task=None):
        self.language, self.task = language, task


def settle(saved=None, vocabulary=MULTI, tokenizer=None, **config):
    """Whole settings of a checkpoint with a generation config that says `saved`."""
    config = WhisperConfig(vocab_size=51865, **config)
    saved = GenerationConfig(**(saved or {}))
    return whole_settings(saved, config, tokenizer or Tokenizer(), vocabulary)


def test_ids_that_an_old_fine_tune_left_out_come_from_its_tokenizer():
    settings = settle()
    assert settings.is_multilingual and settings.no_timestamps_token_id == 50363
    assert settings.decoder_start_token_id == 50258 and settings.eos_token_id == 50257
    assert settings.lang_to_id == {"<|en|>": 50259, "<|de|>": 50261}
    assert settings.task_to_id == {"transcribe": 50359, "translate": 50358}
    # its tokenizer has the language tokens all the same
    english = settle(vocabulary=ENGLISH)
    assert not english.is_multilingual and not hasattr(english, "lang_to_id")


def test_ids_that_are_there_are_kept():
    there = {"is_multilingual": True, "lang_to_id": {"<|en|>": 8}, "task_to_id": {"transcribe": 7}}
    settings = settle(there | {"alignment_heads": [[0, 1]]})
    assert {name: getattr(settings, name) for name in there} == there
    assert settings.alignment_heads == [[0, 1]]


@pytest.mark.parametrize(
    "vocabulary, words",
    [
        ({name: one for name, one in MULTI.items() if one not in (50259, 50261)}, "lang_to_id"),
        ({name: one for name, one in MULTI.items() if "trans" not in name} | START, "task_to_id"),
        (MULTI | {"<|endoftext|>": 600}, "is_multilingual"),
    ],
)
def test_settings_that_nothing_tells_are_asked_for(vocabulary, words):
    with pytest.raises(ValueError, match=f"{words}.*copy generation_config.json"):
        settle(vocabulary=vocabulary)


def test_what_a_checkpoint_saved_about_decoding_is_left_behind():
    knobs = {
        "no_repeat_ngram_size": 3,
        "repetition_penalty": 1.3,
        "num_beams": 5,
        "bad_words_ids": [[5]],
        "min_length": 10,
        "min_new_tokens": 4,
        "max_length": 20,
        "max_new_tokens": 30,
        "temperature": 0.7,
        "do_sample": True,
        "use_cache": False,
        "return_dict_in_generate": True,
        "output_scores": True,
        "no_speech_threshold": 0.6,
        "logprob_threshold": -1.0,
        "compression_ratio_threshold": 1.35,
        "condition_on_prev_tokens": True,
        "forced_eos_token_id": 50257,
        "sequence_bias": [[[5], -10.0]],
        "prompt_condition_type": "all-segments",
        "return_timestamps": True,
        "eos_token_id": [50257, 13],
    }
    assert settle(knobs).to_dict() == settle().to_dict()
    assert settle().max_length == 448, "all that the decoder has positions for"


@pytest.mark.parametrize(
    "saved, tokenizer, config, expected",
    [
        ({"language": "german", "task": "translate"}, None, {}, ("de", "translate")),
        ({"language": "<|de|>"}, Tokenizer("en"), {}, ("de", None)),
        ({"forced_decoder_ids": GERMAN}, Tokenizer("en"), {}, ("de", "transcribe")),
        ({"forced_decoder_ids": OPEN}, Tokenizer("German"), {}, ("de", "transcribe")),
        ({"task": "translate"}, None, {"forced_decoder_ids": GERMAN}, ("de", "translate")),
        ({}, Tokenizer("german", "transcribe"), {}, ("de", "transcribe")),
        ({}, None, {"forced_decoder_ids": GERMAN}, ("de", "transcribe")),
        # that OpenAI's config.json once forced English means nothing where this leaves it open
        ({"forced_decoder_ids": OPEN}, None, {"forced_decoder_ids": GERMAN}, (None, "transcribe")),
        ({"lang_to_id": {"<|de|>": 50261}}, None, {}, ("de", None)),
        ({}, None, {}, (None, None)),
    ],
)
def test_language_and_task_are_honoured_wherever_a_checkpoint_says_them(
    saved, tokenizer, config, expected
):
    settings = settle(saved, tokenizer=tokenizer, **config)
    found = getattr(settings, "language", None), getattr(settings, "task", None)
    assert found == expected
    assert getattr(settings, "forced_decoder_ids", None) is None


@pytest.mark.parametrize(
    "saved, vocabulary, tokenizer, words",
    [
        ({"forced_decoder_ids": [[1, 50261], [2, 50362]]}, MULTI, None, "hold .50362.*generation"),
        ({"language": "klingon"}, MULTI, None, "generation_config.json: '<.klingon.>' is none of"),
        ({"task": "sing"}, MULTI, None, "'sing' is none of the model's, which are"),
        ({"language": "de"}, ENGLISH, None, "generation_config.json says .*'de'.*English-only"),
        ({}, ENGLISH, Tokenizer("german"), "tokenizer_config.json says .*'german'.*English-only"),
    ],
)
def test_a_language_or_task_that_the_model_cannot_have_is_refused(
    saved, vocabulary, tokenizer, words
):
    with pytest.raises(ValueError, match=words):
        settle(saved, vocabulary, tokenizer)


@pytest.mark.parametrize(
    "vocabulary, never, kept",
    [
        (MULTI, [1, 2, 7], [1, 2, 7]),
        (MULTI, [1, 50258, 50363], [1, 50258, 50363]),
        (MULTI, [], None),
        (MULTI, [1, 50257], None),  # English-only's: here it is the end of the text
        (ENGLISH, [1, 50359, 50360], None),  # multilingual's: the start of a text is not in it
        (MULTI, [1, 51865], None),
    ],
)
def test_a_list_of_silent_tokens_is_kept_unless_it_is_another_vocabularys(vocabulary, never, kept):
    assert settle({"suppress_tokens": never}, vocabulary).suppress_tokens == kept


def test_words_that_a_fine_tune_added_behind_the_timestamps_are_said():
    model = tiny.make_model()
    assert decoding.suppressed(model) == [38, 39]
    model.generation_config.added_token_ids = [39]
    assert decoding.suppressed(model) == [38]
    assert settle().added_token_ids == [50365]
    assert not hasattr(settle(vocabulary={k: v for k, v in MULTI.items() if k != "hello"}), "added")


def test_an_english_only_model_is_asked_for_no_other_language(model):
    assert whisper.language_of(model, "English") == "en"
    for refused in (whisper.language_of, whisper.prompt_tokens, whisper.spoken):
        with pytest.raises(ModelError, match="'de' was asked for, but the model is English-only"):
            refused(model, "de")


def test_the_saved_task_is_in_the_prompt_and_told():
    other = multilingual()
    other.generation_config.task_to_id = {"transcribe": 4, "translate": 5}
    other.generation_config.language, other.generation_config.task = "de", "translate"
    assert whisper.prompt_tokens(other) == [1, 3, 5, 37]
    assert whisper.text_language(other, None) == "en"
    assert whisper.spoken(other) == "de, translate (the model's own setting)"
    assert whisper.spoken(other, "en") == "en, translate (asked for)"


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
