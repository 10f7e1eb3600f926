"""OpenAI's own checkpoints on LibriSpeech: what a toy cannot show. Behaviour, with whisper-tiny.en
beside the checkout, and whisper-base (multilingual) where WHISPER_BASE names its folder; skipped
where these are absent.
"""

import copy
import os
from pathlib import Path

import pytest
import torch

from owl import load as load_export
from owl.data.load import load_dataset
from owl.evaluate.compare import pairs
from owl.evaluate.transcribe import transcribe
from owl.export.ct2 import ct2_decoder, export_ct2
from owl.export.huggingface import export_compact
from owl.export.onnx import export_onnx, onnx_decoder
from owl.kernels.scoring import clip_errors
from owl.model import whisper
from owl.model.decoding import torch_decoder
from owl.model.whisper import Whisper
from owl.prune import calibration, calibration_text, weights

pytestmark = pytest.mark.slow
# what OpenAI's tiny.en hears in three clips, word for word
HEARD = {
    "1688-142285-0002": "You don't mean that you thought me so silly.",
    "1688-142285-0003": "I really like that account of himself, better than anything else he said.",
    "1688-142285-0005": "You who were always accusing people of being shopy at Halston.",
}


@pytest.fixture(scope="module")
def dense(shared) -> Whisper:
    folder = shared / "whisper" / "tiny.en"
    if not folder.is_dir():
        pytest.skip("OpenAI's whisper-tiny.en is not in ../shared/whisper")
    return whisper.load(str(folder))


@pytest.fixture(scope="module")
def clips(shared) -> list:
    speech = load_dataset("other", path=str(shared / "speech" / "LibriSpeech" / "test-other"))
    by_id = {clip.id: clip for clip in speech.clips}
    return [*(by_id.pop(name) for name in HEARD), *list(by_id.values())[:2]]


@pytest.fixture(scope="module")
def pruned(dense, shared) -> Whisper:
    """At 0.3 by SparseGPT on ten packed clips, in the float16 that files hold."""
    folder = str(shared / "speech" / "libri-calibration")
    some = load_dataset("calibration", path=folder, max_samples=10, shuffle_seed=0)
    asr = dense._replace(model=copy.deepcopy(dense.model))
    ids = [
        asr.processor.tokenizer(" " + clip.text.capitalize(), add_special_tokens=False).input_ids
        for clip in some.clips
    ]
    labels = calibration_text.Labels(some.clips, ids, {}, None)
    windows = calibration_text.packed(labels, asr.processor)
    options = {"language": None, "padding": "exclude", "batch_size": 4}
    batches = calibration.prepare(asr, windows.clips, windows.tokens, **options)
    every = whisper.blocks(asr.model)
    weights.prune(
        asr.model, every, batches, weights.spread(every, [0.3] * len(every)), method="sparsegpt"
    )
    asr.model.half().float()
    return asr


def hear(asr: Whisper, clips: list, language: str | None = None) -> list[str]:
    decode = torch_decoder(asr, language=language)
    return pairs(transcribe(decode, asr.processor, clips))[1]


def test_openais_vocabulary_and_words(dense, clips):
    assert dense.model.config.vocab_size == 51_864
    assert hear(dense, clips[:3]) == list(HEARD.values())


# ten clips are few for fc2's 1,536 inputs
@pytest.mark.filterwarnings("ignore:.*singular Gram matrix")
def test_a_model_pruned_at_30_percent_mishears_few_words_more(dense, pruned, clips):
    texts = [clip.text for clip in clips]
    errors = [
        int(clip_errors(texts, hear(asr, clips), "english")[0].sum()) for asr in (dense, pruned)
    ]
    linears = [one.module.weight for block in whisper.blocks(pruned.model) for one in block.linears]
    zeros = sum((weight == 0).sum().item() for weight in linears)
    assert zeros / sum(weight.numel() for weight in linears) == pytest.approx(0.3, abs=0.001)
    assert errors[1] <= errors[0] + 8


@pytest.mark.filterwarnings("ignore:.*singular Gram matrix")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_format_says_the_same_tokens(pruned, clips, tmp_path):
    folders = {name: tmp_path / name for name in ("hf", "compact", "onnx", "ct2")}
    for folder in folders.values():
        folder.mkdir()
    pruned.model.save_pretrained(folders["hf"])
    pruned.processor.save_pretrained(folders["hf"])
    pruned.processor.feature_extractor.save_pretrained(folders["hf"])
    export_compact(pruned, folders["compact"])
    export_onnx(pruned, folders["onnx"])
    export_ct2(pruned, folders["ct2"])
    audio = [clip.audio for clip in clips]
    expected = torch_decoder(pruned)(audio)
    for name in ("hf", "compact"):
        assert torch_decoder(Whisper(*load_export(folders[name])))(audio) == expected, name
    assert onnx_decoder(folders["onnx"], pruned.processor, threads=2)(audio) == expected
    assert ct2_decoder(folders["ct2"], pruned.processor, threads=2)(audio) == expected
    from faster_whisper import WhisperModel

    opened = WhisperModel(str(folders["ct2"]), device="cpu", cpu_threads=2)
    segments, _ = opened.transcribe(audio[0], beam_size=1, without_timestamps=True)
    assert "silly" in " ".join(one.text for one in segments)


def test_base_is_multilingual_and_hears_the_same_clips(clips):
    folder = os.environ.get("WHISPER_BASE")
    if not folder or not Path(folder).is_dir():
        pytest.skip("WHISPER_BASE names no folder with OpenAI's whisper-base")
    asr = whisper.load(folder)
    tokens = whisper.prompt_tokens(asr.model, "en")
    assert asr.processor.tokenizer.convert_ids_to_tokens(tokens) == [
        "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>",
    ]  # fmt: skip
    assert asr.model.config.vocab_size == 51_865 and torch.is_tensor(asr.model.proj_out.weight)
    first = hear(asr, clips[:1], "en")
    assert int(clip_errors([clips[0].text], first, "english")[0].sum()) <= 1
