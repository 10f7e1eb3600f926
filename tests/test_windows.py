"""Short windows. Against a reference: the model's own encoder, and the parts that a window's states
are made of, put together by hand; PyTorch's tokens, which onnxruntime and ctranslate2 give too.
Behaviour: that batches change nothing, and that the demo model and OpenAI's tiny.en are as good in
short windows as in full ones.
"""

import json

import numpy as np
import pytest
import torch

from owl.config.load import load as load_config
from owl.data.load import load_dataset
from owl.errors import ConfigError
from owl.evaluate import compare
from owl.evaluate.transcribe import transcribe
from owl.export.ct2 import ct2_decoder, export_ct2
from owl.export.onnx import export_onnx, onnx_decoder
from owl.kernels.scoring import score
from owl.model import whisper
from owl.model.decoding import encode, input_features, torch_decoder
from owl.model.whisper import Whisper
from owl.model.windows import MARGIN, SECOND, listener, speech_window
from tests import tiny
from tests.conftest import ROOT

FRAMES = 4 * SECOND


@pytest.fixture(scope="module")
def asr() -> Whisper:
    """The tiny model with a window of four seconds."""
    return Whisper(tiny.make_model(max_source_positions=FRAMES), tiny.make_processor(FRAMES))


def noise(*seconds: float) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [(0.1 * draw.standard_normal(round(16_000 * one))).astype(np.float32) for one in seconds]


def short(asr: Whisper):
    features = lambda audio: input_features(asr, audio)
    return listener(features, lambda mel: encode(asr.model, mel), "speech")


@pytest.mark.parametrize(
    "seconds, expected",
    [(0, 1), (1 - MARGIN / SECOND, 1), (0.77, 2), (1.5, 2), (2.9, 4), (3.5, 4), (9, 4)],
)
def test_a_window_is_the_speech_and_its_margin_in_whole_seconds(seconds, expected):
    assert speech_window(round(16_000 * seconds), FRAMES) == expected * SECOND


def test_the_encoder_of_fewer_frames_is_the_models_own_where_all_are_there(asr):
    mel = input_features(asr, noise(3.5))
    with torch.inference_mode():
        own = asr.model.model.encoder(mel).last_hidden_state
        assert torch.allclose(whisper.encode_audio(asr.model, mel), own, atol=1e-6)
        assert whisper.encode_audio(asr.model, mel[:, :, : 2 * SECOND]).shape[1] == SECOND


def test_behind_the_speech_lies_the_end_of_a_silent_window(asr):
    (clip,) = noise(1.2)
    mel = input_features(asr, [clip])
    silence = encode(asr.model, input_features(asr, [np.zeros(64_000, np.float32)]))
    by_hand = torch.cat([encode(asr.model, mel[:, :, : 4 * SECOND]), silence[:, -SECOND:]], dim=1)
    assert torch.equal(short(asr)([clip]), by_hand)
    # the rest of the window is not read
    assert not torch.equal(by_hand[:, : 2 * SECOND], encode(asr.model, mel)[:, : 2 * SECOND])


def test_a_batch_gives_every_clip_its_own_window_filled_with_silence(asr):
    clips = noise(0.5, 1.5, 0.6)
    together, alone = short(asr)(clips), [short(asr)([clip])[0] for clip in clips]
    assert together.shape == (3, 3 * SECOND, asr.model.config.d_model)
    assert torch.allclose(together[1], alone[1], atol=1e-6)
    for row in (0, 2):
        assert torch.allclose(together[row, :SECOND], alone[row][:SECOND], atol=1e-6)
        assert torch.equal(together[row, -SECOND:], alone[row][-SECOND:])
    silence = encode(asr.model, input_features(asr, [np.zeros(64_000, np.float32)]))[0]
    assert torch.equal(together[0, SECOND : 2 * SECOND], silence[SECOND : 2 * SECOND])


@pytest.mark.parametrize("seconds, frames", [(2.5, FRAMES), (2.9, FRAMES), (7.0, FRAMES)])
def test_a_clip_nearly_as_long_as_the_window_gets_no_more_than_it(asr, seconds, frames):
    (clip,) = noise(seconds)
    states = short(asr)([clip[: FRAMES * 320]])
    assert states.shape[1] == frames
    if seconds > 2.76:
        full = encode(asr.model, input_features(asr, [clip]))
        assert torch.equal(states, full)


def test_a_decoder_listens_as_it_is_told(asr):
    audio = noise(0.5, 1.5)
    full, speech = (torch_decoder(asr, window=window)(audio) for window in ("full", "speech"))
    assert full == torch_decoder(asr)(audio) != speech


def test_short_windows_are_not_compiled_for(tmp_path):
    wanted = {"evaluation": {"window": "speech"}, "optimization": {"compile": {"enabled": True}}}
    (tmp_path / "mine.json").write_text(json.dumps(wanted))
    with pytest.raises(ConfigError, match='"speech" has windows of many lengths'):
        load_config(tmp_path / "mine.json")


@pytest.mark.slow
def test_the_demo_in_short_windows_is_as_good_and_more_than_twice_as_fast():
    demo = whisper.load(str(ROOT / "models" / "demo"))
    clips = load_dataset("demo", path=str(ROOT / "data" / "demo" / "evaluation")).clips[:24]
    said = {
        window: transcribe(torch_decoder(demo, window=window), demo.processor, clips)
        for window in ("full", "speech")
    }
    full, short = (score(*compare.pairs(said[window])).wer for window in ("full", "speech"))
    assert short <= full + 0.02 and not said["speech"].repeats and not said["speech"].cap_hits
    # 30 s windows hold three seconds of speech
    assert said["speech"].rtfx > 2 * said["full"].rtfx


@pytest.mark.slow
@pytest.mark.parametrize(
    "export, decoder", [(export_onnx, onnx_decoder), (export_ct2, ct2_decoder)]
)
def test_other_runtimes_say_in_short_windows_what_pytorch_says(export, decoder, tmp_path):
    demo = whisper.load(str(ROOT / "models" / "demo"))
    clips = load_dataset("demo", path=str(ROOT / "data" / "demo" / "evaluation")).clips[:8]
    audio = [clip.audio for clip in clips]
    folder = tmp_path / "folder"
    folder.mkdir()
    export(demo, folder)
    said = decoder(folder, demo.processor, window="speech")(audio)
    assert said == torch_decoder(demo, window="speech")(audio)


@pytest.mark.slow
def test_openais_model_stops_where_the_speech_does(shared):
    """Cut behind the speech without the end of a silent window it goes on: WER 1.5 where it is
    .19.
    """
    folder = shared / "whisper" / "tiny.en"
    if not folder.is_dir():
        pytest.skip("OpenAI's whisper-tiny.en is not in ../shared/whisper")
    dense = whisper.load(str(folder))
    clips = load_dataset("other", path=str(shared / "speech" / "LibriSpeech" / "test-other")).clips
    said = transcribe(torch_decoder(dense, window="speech"), dense.processor, clips[:20])
    assert not said.repeats and not said.cap_hits
    full = transcribe(torch_decoder(dense), dense.processor, clips[:20])
    rates = [score(*compare.pairs(one)).wer for one in (full, said)]
    assert rates[1] <= rates[0] + 0.02
