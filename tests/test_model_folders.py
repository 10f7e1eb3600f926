"""Folders that people have instead of a whole model: each is refused by name, or works.

Against a reference: plain transformers 5 and 4 read what we export and say the same text. The rest
is behaviour.
"""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

import owl
from owl.config.load import Config
from owl.data.audio import read_audio
from owl.errors import ModelError
from owl.export import formats, huggingface
from owl.export.ct2 import ct2_decoder, export_ct2
from owl.model import decoding, whisper
from owl.model.whisper import Whisper
from owl.run import experiment
from tests import tiny
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # every test makes a model folder and loads it
DEMO = ROOT / "models" / "demo"
LORA = "model.encoder.layers.0.self_attn.q_proj.lora_A.default.weight"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DEMO, tmp_path / "mine")


def say(name, **changes):
    """Change keys of a JSON file."""

    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def drop(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def put(name, text="x"):
    return lambda folder: (folder / name).write_text(text)


def instead(name, text="x"):
    """Another file in place of the weights."""
    return lambda folder: (drop("model.safetensors")(folder), put(name, text)(folder))


def tensors(change):
    def rewrite(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return rewrite


def nest(folder):
    for name in ("checkpoint-50", "checkpoint-1000"):
        (folder / name).mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        shutil.copy(path, folder / "checkpoint-50")
        path.rename(folder / "checkpoint-1000" / path.name)


def shard(folder):
    instead("model.safetensors.index.json", json.dumps({"weight_map": {"a": "part-2"}}))(folder)


def damaged_part(folder):
    shard(folder)
    put("part-2", "cut")(folder)


def beside(name):
    """A file in a folder of its own, in place of the weights."""

    def change(folder):
        drop("model.safetensors")(folder)
        (folder / name).parent.mkdir()
        put(name)(folder)

    return change


def cached(where):
    def change(folder):
        files = [path for path in folder.iterdir() if path.is_file()]
        (folder / where).mkdir(parents=True)
        for path in files:
            path.rename(folder / where / path.name)

    return change


def add_word(folder, **keys):
    path = folder / "tokenizer.json"
    made, plain = json.loads(path.read_text()), {"single_word": False, "normalized": True}
    plain |= {"lstrip": False, "rstrip": False, "special": False, "id": 2110, "content": "kaboom"}
    made["added_tokens"].append(plain | keys)
    path.write_text(json.dumps(made))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 151061672\n"
ADAPTER = json.dumps({"base_model_name_or_path": "openai/whisper-small"})


@pytest.mark.parametrize(
    "spoil, words",
    [
        (put("model.safetensors", POINTER), "Git LFS pointer .*151,061,672 bytes.*git lfs pull"),
        (put("tokenizer.json", POINTER), "tokenizer.json' is a Git LFS pointer"),
        (instead("adapter_config.json", ADAPTER), "adapter.*whisper-small.*merge_and_unload"),
        (
            lambda folder: (
                put("adapter_config.json", ADAPTER)(folder),
                put("adapter_model.bin")(folder),
            ),
            "it holds an adapter",
        ),
        (instead("model-00001-of-00002.safetensors"), "the index of them is missing"),
        (put("model.safetensors", ""), "model.safetensors is cut off or damaged .*; copy it again"),
        (damaged_part, "part-2 is cut off or damaged .*; copy it again"),
        (put("config.json", "[1]"), "config.json is broken: it holds no JSON object"),
        (instead("model.safetensors.index.json", "{"), "index.json is broken: it holds no JSON"),
        (
            instead("model.safetensors.index.json", '{"weight_map": 1}'),
            "index.json is broken: it has no weight_map",
        ),
        (put("generation_config.json", "{"), "generation_config.json is not JSON .*line 1"),
        (put("generation_config.json", "[1]"), "generation_config.json holds no JSON object"),
        (instead("optimizer.pt"), "model.safetensors is missing; give a folder with"),
        (beside("global_step500/mp.pt"), "global_step500' is a DeepSpeed check.*zero_to_fp32.py"),
        (beside("onnx/encoder_model.onnx"), "onnx/encoder_model.onnx' is an ONNX model"),
        (
            lambda folder: (
                (folder / "checkpoint-100").mkdir(),
                (folder / "model.safetensors").rename(folder / "checkpoint-100/model.safetensors"),
                shutil.copy(folder / "config.json", folder / "checkpoint-100"),
            ),
            "no model itself, but '.*checkpoint-100' looks like one",
        ),
        (cached("models--me--mine/snapshots/1a"), "but '.*/snapshots/1a' looks like one"),
        (cached("hub/models--me--mine/snapshots/1a"), "but '.*/snapshots/1a' looks like one"),
        (
            lambda folder: (drop("config.json")(folder), (folder / "config.json").symlink_to("no")),
            "config.json is a link to 'no', which is not there",
        ),
        (say("config.json", d_model=256), r"has the shape \(.*128.*asks for \(.*256"),
        (instead("pytorch_model.bin"), "pytorch_model.bin' is weights as Python pickles.*-c"),
        (instead("pytorch_model.bin.index.json"), "pickles"),
        (instead("encoder_model.onnx"), "encoder_model.onnx' is an ONNX model"),
        (instead("model.bin"), "model.bin' is a CTranslate2 model"),
        (instead("ggml-tiny.bin"), "ggml-tiny.bin' is a whisper.cpp model"),
        (instead("tiny.pt"), "tiny.pt' is a PyTorch pickle, as OpenAI's own"),
        (instead("model.fp16.safetensors"), "rename it to model.safetensors"),
        (instead("notes.txt"), "model.safetensors is missing; give a folder with"),
        (shard, "index.json names part-2, missing here"),
        (nest, "no model itself, but '.*checkpoint-1000' looks like one"),
        (drop("config.json"), "config.json is missing"),
        (say("config.json", quantization_config={"quant_method": "bnb"}), r"quantised \(bnb\)"),
        (drop("tokenizer.json"), "no tokenizer: neither tokenizer.json nor vocab.json"),
        (drop("tokenizer.json", "tokenizer_config.json"), "it has no tokenizer"),
        (drop("preprocessor_config.json", "processor_config.json"), "preprocessor_config.json is"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_named_for_what_it_is(folder, spoil, words):
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        owl.load(folder)
    assert str(folder) in str(caught.value)


def test_a_checkpoint_folder_is_told_that_the_tokenizer_lies_above_it(folder):
    inner = folder / "checkpoint-9"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copy(folder / name, inner)
    with pytest.raises(ModelError, match=f"it has no tokenizer.*copy .* from '{folder}'"):
        owl.load(inner)


def test_a_file_is_told_to_be_one(folder):
    with pytest.raises(ModelError, match=f"is a file; give the folder that it is in: {folder}$"):
        owl.load(folder / "model.safetensors")


@pytest.mark.parametrize(
    "spoil, words",
    [
        (tensors(lambda found: found | {LORA: torch.ones(8, 128)}), "1 LoRA matrices.*lora_A"),
        (
            tensors(lambda found: found | {"projector.weight": torch.ones(2)}),
            "1 tensors that a Whisper does not have, such as projector.weight",
        ),
        (
            tensors(lambda found: {f"_orig_mod.{key}": one for key, one in found.items()}),
            "take '_orig_mod.' off their names",
        ),
        (
            tensors(
                lambda found: {key: one for key, one in found.items() if "decoder." not in key}
            ),
            "the checkpoint is incomplete: .* tensors are missing",
        ),
        (
            tensors(
                lambda found: (
                    found | {"proj_out.weight": found["model.decoder.embed_tokens.weight"] + 1}
                )
            ),
            "proj_out.weight and model.decoder.embed_tokens.weight differ",
        ),
        (say("config.json", vocab_size=2000), r"the shape \(2110, 128\).*asks for \(2000, 128\)"),
        (add_word, "tokenizer.json knows 2111 tokens, the last 'kaboom', and .*vocab_size 2110"),
        (say("config.json", decoder_start_token_id=602), "config.json says .*602.*says 601"),
        (say("config.json", eos_token_id=7), "config.json says eos_token_id 7, .*says 600"),
        (
            say("generation_config.json", no_timestamps_token_id=607),
            "generation_config.json says no_timestamps_token_id 607, .*tokenizer.json says 608",
        ),
        (
            say("generation_config.json", is_multilingual=True, lang_to_id={"<|en|>": 603}),
            "says lang_to_id\\['<|en|>'\\] 603, .*tokenizer.json says 602",
        ),
        (
            say("generation_config.json", is_multilingual=True, task_to_id={"transcribe": 603}),
            "says task_to_id\\['transcribe'\\] 603, .*says 604",
        ),
        (
            lambda folder: (
                drop("processor_config.json")(folder),
                say("preprocessor_config.json", feature_size=128)(folder),
            ),
            "preprocessor_config.json says feature_size 128, and config.json num_mel_bins says 80",
        ),
        (
            lambda folder: (
                drop("processor_config.json")(folder),
                say("preprocessor_config.json", chunk_length=10)(folder),
            ),
            "preprocessor_config.json says a window of mel frames 1000, .* says 3000",
        ),
    ],
)
def test_parts_that_disagree_are_refused_with_file_and_values(folder, spoil, words):
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        owl.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        tensors(lambda found: {key.removeprefix("model."): one for key, one in found.items()}),
        tensors(
            lambda found: (
                found | {"proj_out.weight": found["model.decoder.embed_tokens.weight"].clone()}
            )
        ),
        drop("processor_config.json"),
        say("generation_config.json", eos_token_id=[600]),
        put("optimizer.pt"),
        put("adapter_config.json", ADAPTER),
    ],
)
def test_other_ways_to_store_the_same_model_are_fine(folder, change):
    change(folder)
    model, _ = owl.load(folder)
    state = owl.load(DEMO)[0].state_dict()
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())


def test_a_tokenizer_in_two_files_and_one_in_shards_of_weights_are_fine(folder):
    model, processor = owl.load(DEMO)
    found = json.loads((DEMO / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(found["model"]["vocab"]))
    lines = [" ".join(pair) for pair in found["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]))
    added = {one["content"]: one["id"] for one in found["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    drop("tokenizer.json", "model.safetensors")(folder)
    WhisperForConditionalGeneration.from_pretrained(DEMO).save_pretrained(
        folder, max_shard_size="2MB"
    )
    assert len(list(folder.glob("*.safetensors"))) > 1
    again, same = owl.load(folder)
    assert same.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters()))


def test_rows_that_no_token_uses_are_fine(folder):
    name = "model.decoder.embed_tokens.weight"
    tensors(lambda found: found | {name: torch.cat([found[name], found[name][:2]])})(folder)
    say("config.json", vocab_size=2112)(folder)
    model, _ = owl.load(folder)
    assert decoding.suppressed(model)[-1] == 2111


def test_a_word_behind_the_timestamps_is_said_by_every_runtime(folder, tmp_path):
    """The added word's row is twice that of a word which the model says: it wins there."""
    name = "model.decoder.embed_tokens.weight"
    audio = heard(1)
    row = demo_says()[0].tokens[0]
    tensors(lambda found: found | {name: torch.cat([found[name], 2 * found[name][row][None]])})(
        folder
    )
    say("config.json", vocab_size=2111)(folder)
    add_word(folder)
    model, processor = owl.load(folder)
    expected = decoding.torch_decoder(Whisper(model, processor), max_new_tokens=4)(audio)
    assert expected[0].tokens[0] == 2110
    (tmp_path / "ct2").mkdir()
    export_ct2(Whisper(model, processor), tmp_path / "ct2")
    assert ct2_decoder(tmp_path / "ct2", processor, max_new_tokens=4)(audio) == expected


@pytest.mark.parametrize(
    "knobs",
    [
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 5.0, "num_beams": 3},
        {"return_dict_in_generate": True, "output_scores": True},
        {"no_speech_threshold": 0.6, "logprob_threshold": -1.0, "temperature": 0.5},
        {"min_new_tokens": 40, "bad_words_ids": [[5]], "use_cache": False},
        {"forced_decoder_ids": [[1, 602], [2, 603]], "prompt_condition_type": "all-segments"},
    ],
)
def test_saved_decoding_settings_change_no_text(folder, knobs):
    say("generation_config.json", **knobs)(folder)
    say("config.json", **knobs)(folder)
    model, processor = owl.load(folder)
    assert decoding.torch_decoder(Whisper(model, processor))(heard(1)) == demo_says()
    (folder / "ct2").mkdir()
    export_ct2(Whisper(model, processor), folder / "ct2")
    assert ct2_decoder(folder / "ct2", processor)(heard(1)) == demo_says()


def heard(count):
    return [read_audio(ROOT / f"data/demo/evaluation/{index:03d}.ogg") for index in range(count)]


@cache
def demo_says():
    return decoding.torch_decoder(owl.load(DEMO))(heard(1))


def stock(folder, generation=99, rows=51865, bins=80, **saved):
    """A random Whisper of one second with the ids of OpenAI's multilingual models, no
    generation_config.json and words of no sense. `generation`: its tokenizer's languages; `saved`:
    what its tokenizer is told of language and task.
    """
    languages = list(LANGUAGES)[:generation]
    names = ["startoftranscript", *languages, "translate", "transcribe", "startoflm"]
    names += ["startofprev", "nospeech", "notimestamps"]
    special = ["<|endoftext|>", *(f"<|{name}|>" for name in names)]
    letters = list("abcdefghijklmnopqrstuvwxyzĠ")
    words = [*letters, *(f"filler{index}" for index in range(50257 - len(letters)))]
    times = [f"<|{0.02 * index:.2f}|>" for index in range(1501)]
    vocabulary = {token: index for index, token in enumerate([*words, *special, *times])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], extra_special_tokens=special, **saved)
    extractor = WhisperFeatureExtractor(feature_size=bins, chunk_length=1)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=rows)
    sizes |= dict(num_mel_bins=bins)
    layers = dict(encoder_layers=1, decoder_layers=1, max_source_positions=50)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2)
    ids = dict(bos_token_id=50257, eos_token_id=50257, pad_token_id=50257)
    config = WhisperConfig(
        **sizes, **layers, **heads, **ids, decoder_start_token_id=50258, begin_suppress_tokens=None
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    return folder


def test_a_german_fine_tune_without_settings_is_german_here_and_in_plain_transformers(tmp_path):
    model, processor = owl.load(stock(tmp_path / "mine", language="german", task="transcribe"))
    assert whisper.spoken(model) == "de, transcribe (the model's own setting)"
    assert whisper.prompt_tokens(model) == [50258, 50261, 50359, 50363]
    audio = [clip.audio for clip in tiny.make_clips(2)]
    said = decoding.torch_decoder(Whisper(model, processor), max_new_tokens=6)(audio)
    huggingface.save_settings(Whisper(model, processor), tmp_path, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    plain = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    features = WhisperProcessor.from_pretrained(tmp_path)(
        audio, sampling_rate=16000, return_tensors="pt"
    ).input_features
    tokens = plain.generate(features, max_new_tokens=6)
    assert [row[-6:] for row in tokens.tolist()] == [one.tokens for one in said]


def test_a_tokenizer_of_another_generation_is_refused(tmp_path):
    """large-v3 has one language more: every id behind the languages is one higher."""
    match = "of another generation: .* 50363, .* num_mel_bins 128 it is 50364"
    mixed = stock(tmp_path / "v2-in-v3", rows=51866, bins=128)
    with pytest.raises(ModelError, match=match):
        owl.load(mixed)
    # as when v3's tokenizer_config.json names the missing language: it goes behind the timestamps
    path = mixed / "tokenizer_config.json"
    made = json.loads(path.read_text())
    made["extra_special_tokens"] = [*made["extra_special_tokens"], "<|yue|>"]
    path.write_text(json.dumps(made))
    assert WhisperProcessor.from_pretrained(mixed).tokenizer.get_vocab()["<|yue|>"] == 51865
    with pytest.raises(ModelError, match=match):
        owl.load(mixed)
    padded, _ = owl.load(stock(tmp_path / "v2-padded", rows=51866))
    assert whisper.prompt_tokens(padded, "de") == [50258, 50261, 50359, 50363]
    v3, _ = owl.load(stock(tmp_path / "v3", generation=100, rows=51866, bins=128))
    assert whisper.prompt_tokens(v3, "yue") == [50258, 50358, 50360, 50364]
    with pytest.raises(ModelError, match="knows 51866 tokens.*vocab_size 51865"):
        owl.load(stock(tmp_path / "v3-in-v2", generation=100))


FULL = {
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 50259, "<|de|>": 50261, "<|hi|>": 50276},
    "task_to_id": {"transcribe": 50359, "translate": 50358},
    "no_timestamps_token_id": 50363,
}


def test_a_generation_config_that_was_made_from_the_config_says_what_it_says(tmp_path):
    folder = stock(tmp_path / "mine")
    put("generation_config.json", json.dumps(FULL | {"language": "hi"}))(folder)
    say("generation_config.json", _from_model_config=True, task="translate")(folder)
    model, _ = owl.load(folder)
    assert whisper.spoken(model) == "hi, translate (the model's own setting)"
    say("generation_config.json", lang_to_id={"<|hi|>": 50277})(folder)
    with pytest.raises(ModelError, match="says lang_to_id.* 50277, which .* says 50276"):
        owl.load(folder)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"language": ["de"]}, r"says language \['de'\]; write it as \"de\""),
        ({"suppress_tokens": "-1"}, r"says suppress_tokens '-1'; write it as \[1, 2\]"),
        ({"forced_decoder_ids": [1, 50261]}, r"forced_decoder_ids \[1, 50261\]; .*\[\[1, 50261"),
        ({"forced_decoder_ids": {"1": 50261}}, r"forced_decoder_ids {'1': 50261}; write it as"),
        ({"lang_to_id": ["<|de|>"]}, r"lang_to_id \['<|de|>'\]; write it as {"),
        ({"language": "zh-CN"}, "'<.zh-cn.>' is none of the model's.* there: write 'zh'"),
        ({"language": "Deutsch"}, "'<.deutsch.>' is none .* there: write 'de'"),
        (
            {"lang_to_id": {"<|en|>": 50260, "<|de|>": 50262}},
            r"lang_to_id\['<.en.>'\] 50260, .* \(1 more of its entries differ too\)$",
        ),
        ({"is_multilingual": False}, "is_multilingual false, .* is 50257, as .* multilingual"),
    ],
)
def test_generation_settings_of_another_form_are_refused_with_the_right_one(tmp_path, wrong, words):
    folder = stock(tmp_path / "mine")
    put("generation_config.json", json.dumps(FULL | wrong))(folder)
    with pytest.raises(ModelError, match=words):
        owl.load(folder)


def test_a_multilingual_model_without_settings_does_not_end_at_once(tmp_path):
    """A WhisperConfig that says nothing has the English-only list."""
    folder = stock(tmp_path / "mine")
    say("config.json", begin_suppress_tokens=[220, 50256])(folder)
    blank = WhisperProcessor.from_pretrained(folder).tokenizer.get_vocab()["Ġ"]
    assert owl.load(folder)[0].generation_config.begin_suppress_tokens == [blank, 50257]


def test_forced_ids_of_another_generation_in_the_config_are_left_over(tmp_path):
    folder = stock(tmp_path / "v3", generation=100, rows=51866, bins=128)
    for forced in ([[1, 50259], [2, 50359], [3, 50363]], [[1, None], [2, 50359]], [2, 50359]):
        say("config.json", forced_decoder_ids=forced)(folder)
        model, _ = owl.load(folder)
        assert whisper.spoken(model) == "en, transcribe (nobody says)"
    say("config.json", forced_decoder_ids=[[1, 50261], [2, 50360]])(folder)
    assert whisper.spoken(owl.load(folder)[0]) == "de, transcribe (the model's own setting)"


def test_a_path_that_is_not_there_is_told_to_be_a_path(tmp_path):
    for name in (tmp_path / "no", "./no", "runs/no/hf"):
        with pytest.raises(ModelError, match="there is no such folder"):
            owl.load(name)


def test_a_compact_folder_with_a_broken_tokenizer_is_refused(tmp_path):
    model, processor = owl.load(DEMO)
    formats.save(
        "compact",
        Whisper(model, processor),
        tmp_path,
        dtype=torch.float32,
        papers={"metadata": {}, "metrics": {}, "card": ""},
    )
    put("tokenizer.json", "{}")(tmp_path)
    with pytest.raises(ModelError, match="(?s)cannot load the compact model .*Copy the whole"):
        owl.load(tmp_path)


def test_a_datasets_language_that_the_model_cannot_have_stops_before_anything_long():
    asked = {"datasets": [{"name": "demo", "language": "de", "path": "nowhere"}]}
    config = Config.model_validate({"model": {"name": str(DEMO)}, "evaluation": asked})
    with pytest.raises(ModelError, match="'de' was asked for, but the model is English-only"):
        experiment.load_model(config)


@pytest.fixture(scope="session")
def transformers4():
    """A Python with transformers 4.57 and everything else of this one; made once, below runs/."""
    home = ROOT / "runs" / ".transformers4"
    python = home / "bin" / "python"
    if not (home / "made").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        (site,) = home.glob("lib/python*/site-packages")
        (site / "parent.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")
        install = [python, "-I", "-m", "pip", "install", "-q", "transformers==4.57.*"]
        tried = subprocess.run(install, capture_output=True, text=True, timeout=600)
        if tried.returncode:
            pytest.skip(f"transformers 4 cannot be installed here: {tried.stderr.strip()[-200:]}")
        (home / "made").touch()
    return python


READ = """
import sys, numpy, transformers
from transformers import AutoProcessor, WhisperForConditionalGeneration, WhisperProcessor
assert transformers.__version__.startswith("4."), transformers.__version__
*folders, audio = sys.argv[1:]
for folder in folders:
    processor = WhisperProcessor.from_pretrained(folder)
    print(len(processor.tokenizer), len(AutoProcessor.from_pretrained(folder).tokenizer))
processor = WhisperProcessor.from_pretrained(folders[0])
model = WhisperForConditionalGeneration.from_pretrained(folders[0]).eval()
heard = processor(numpy.load(audio), sampling_rate=16000, return_tensors="pt").input_features
print(processor.batch_decode(model.generate(heard), skip_special_tokens=True)[0])
"""


@pytest.mark.slow
def test_transformers_4_opens_every_export_and_says_the_same(transformers4, tmp_path):
    model, processor = owl.load(DEMO)
    wanted = ("hf", "compact", "onnx", "ct2")
    for name in wanted:
        (tmp_path / name).mkdir()
        papers = {"metadata": {}, "metrics": {}, "card": ""}
        formats.save(
            name, Whisper(model, processor), tmp_path / name, dtype=torch.float32, papers=papers
        )
    audio = heard(1)
    np.save(tmp_path / "audio.npy", audio[0])
    (said,) = decoding.torch_decoder(Whisper(model, processor))(audio)
    text = processor.tokenizer.decode(said.tokens, skip_special_tokens=True)
    paths = [str(tmp_path / name) for name in (*wanted, "audio.npy")]
    read = subprocess.run(
        [transformers4, "-I", "-c", READ, *paths], capture_output=True, text=True, timeout=300
    )
    assert read.returncode == 0, read.stderr[-2000:]
    assert read.stdout.splitlines() == ["2110 2110"] * len(wanted) + [text]
