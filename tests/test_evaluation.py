"""Transcribing and comparing on the embedded demo model and tiny random ones.

Against references: batched transcripts against one clip at a time; the divergence against its
definition in plain loops. Only behaviour: cutting at silences, saving and reading, probes.
"""

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from owl.config.load import Config
from owl.data.load import Dataset, load_dataset
from owl.evaluate import compare, divergence, probes, stored, transcribe
from owl.evaluate.transcribe import FRAME, split_at_silences
from owl.kernels import texts
from owl.model import decoding, whisper
from owl.model.decoding import Decoded, States
from owl.model.whisper import Whisper
from tests import tiny
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def demo():
    return whisper.load(str(ROOT / "models" / "demo"))


@pytest.fixture(scope="module")
def clips():
    return load_dataset("demo", path=ROOT / "data" / "demo" / "evaluation", max_samples=6).clips


@pytest.fixture(scope="module")
def transcription(demo, clips):
    model, processor = demo
    return transcribe.transcribe(
        decoding.torch_decoder(Whisper(model, processor)), processor, clips, batch_size=4
    )


@pytest.mark.slow
def test_batched_transcripts_are_those_of_one_clip_at_a_time(demo, clips, transcription):
    """Against transformers' own `generate` called with waveforms' features, the way its
    documentation shows.
    """
    model, processor = demo
    for clip, ours in zip(clips, transcription.transcripts):
        features = processor(clip.audio, sampling_rate=16_000, return_tensors="pt").input_features
        tokens = model.generate(features, max_length=None, max_new_tokens=60)
        assert (
            processor.batch_decode(tokens, skip_special_tokens=True)[0].strip() == ours.hypothesis
        )


def test_transcripts_come_in_the_order_of_the_clips_with_their_facts(clips, transcription):
    assert [one.id for one in transcription.transcripts] == [clip.id for clip in clips]
    assert [one.reference for one in transcription.transcripts] == [clip.text for clip in clips]
    assert all(
        (one.windows, one.ended) == (1, "end") and one.tokens > 3
        for one in transcription.transcripts
    )
    assert transcription.rtfx == pytest.approx(
        sum(clip.seconds for clip in clips) / transcription.seconds
    )


def test_a_transcription_is_read_back_as_it_was_saved(transcription, tmp_path):
    stored.save(tmp_path / "some.jsonl", transcription, {"git_commit": "abc"})
    assert stored.read(tmp_path / "some.jsonl") == transcription
    assert (
        '"provenance": {"git_commit": "abc"}'
        in (tmp_path / "some.jsonl").read_text().splitlines()[0]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["some.jsonl"]


def test_a_decoder_that_never_ends_is_bounded_and_counted():
    """A random tiny model does not know its end token: every clip must hit the cap, and the call
    must return.
    """
    model, processor = tiny.make_model(), tiny.make_processor()
    with torch.no_grad():
        model.proj_out.weight[tiny.END] = -10
    said = transcribe.transcribe(
        decoding.torch_decoder(Whisper(model, processor), max_new_tokens=7),
        processor,
        tiny.make_clips(3),
    )
    assert said.cap_hits == 3 and all(one.tokens == 7 for one in said.transcripts)


def looping_decoder(cap=None):
    """A random tiny model with room for loops, one that never says its end token."""
    model = tiny.make_model(max_target_positions=120)
    return model, decoding.torch_decoder(Whisper(model, tiny.make_processor()), max_new_tokens=cap)


def test_text_that_loops_ends_there_whether_stopped_or_cut():
    """Against the whole text up to the cap, cut afterwards."""
    model, decode = looping_decoder()
    audio = [clip.audio for clip in tiny.make_clips(6)]
    encoded = decoding.encode(
        model, decoding.input_features(Whisper(model, tiny.make_processor()), audio)
    )
    settings = decoding.generate_settings(model, None, None)
    stopped, whole = (
        model.generate(encoder_outputs=BaseModelOutput(encoded), **chosen)
        for chosen in (settings, settings | {"stopping_criteria": None})
    )
    assert stopped.shape[1] < whole.shape[1] == 120
    said = decode(audio)
    assert said == decoding.text_tokens(whole[:, 2:], tiny.END)
    assert {one.ended for one in said} == {"loop"} and len({len(one.tokens) for one in said}) > 1


def test_clips_that_loop_are_counted_apart_from_the_cap_with_their_insertions():
    clips = [replace(clip, text="one two") for clip in tiny.make_clips(6)]
    # at this cap some clips loop and others do not yet
    _, decode = looping_decoder(cap=40)
    said = transcribe.transcribe(decode, tiny.fitting_processor(), clips)
    ended = [one.ended for one in said.transcripts]
    assert (said.repeats, said.cap_hits) == (ended.count("loop"), ended.count("cap")) == (4, 2)
    found = compare.of_one(said, "none", "characters")
    theirs = [one for one in said.transcripts if one.ended == "loop"]
    alone = compare.of_one(transcribe.Transcription(theirs, 1.0), "none", "characters")
    assert (found["repeats"], found["cap_hits"]) == (4, 2)
    assert found["insertions_looping"] == alone["insertions"] == alone["insertions_looping"]
    assert 0 < found["insertions_looping"] < found["insertions"]


def test_a_clip_of_several_windows_loops_where_one_of_them_does():
    parts = cycle([Decoded([2], "end"), Decoded([3], "loop"), Decoded([4], "cap")])
    clip = replace(tiny.make_clips(1)[0], audio=np.ones(16_000, np.float32))
    said = transcribe.transcribe(
        lambda audio: [next(parts) for _ in audio], tiny.fitting_processor(), [clip]
    )
    (one,) = said.transcripts
    assert (one.windows > 2, one.ended, said.repeats, said.cap_hits) == (True, "loop", 1, 0)


@pytest.mark.parametrize(
    "counts, words",
    [
        ((0, 0, 0), ""),
        ((12, 0, 180), "12 of 50 clips loop and end there; 180 of 298 insertions are theirs."),
        ((1, 0, 7), "1 of 50 clips loops and ends there; 7 of 298 insertions are theirs."),
        ((0, 2, 0), "2 of 50 clips hit the token cap."),
    ],
)
def test_what_is_broken_is_said_in_plain_words(counts, words):
    one = dict(zip(("repeats", "cap_hits", "insertions_looping"), counts), insertions=298)
    assert texts.broken(one, 50) == words


def test_timestamp_tokens_are_never_said():
    model, processor = tiny.make_model(), tiny.make_processor()
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight[38:] *= (
            20  # ids behind <|notimestamps|> (37) would win every step
        )
    features = decoding.input_features(
        Whisper(model, processor), [clip.audio for clip in tiny.make_clips(4)]
    )
    for one in decoding.greedy(
        model, decoding.encode(model, features), language=None, max_new_tokens=8
    ):
        assert max(one.tokens, default=0) < 38


def test_the_token_cap_respects_the_decoder_and_the_prompt():
    model = tiny.make_model()
    assert decoding.token_cap(model, None) == 22  # 24 positions, 2 of them the prompt
    assert decoding.token_cap(model, 5) == 5 and decoding.token_cap(model, 500) == 22


@pytest.mark.slow
def test_the_divergence_is_the_mean_kl_of_the_next_token_by_definition(demo, clips):
    model, processor = demo
    other, _ = whisper.load(str(ROOT / "models" / "demo"))
    with torch.no_grad():
        for block in whisper.blocks(other):
            block.linears[0].module.weight *= 0.8
    rows = {
        row["id"]: row
        for row in divergence.divergence(
            Whisper(model, processor), Whisper(other, processor), clips[:3], batch_size=2
        )
    }
    for clip in clips[:3]:
        text = processor.tokenizer(clip.text, add_special_tokens=False).input_ids
        tokens = torch.tensor([[*whisper.prompt_tokens(model), *text]])
        features = processor(clip.audio, sampling_rate=16_000, return_tensors="pt").input_features
        with torch.no_grad():
            p, q = (
                one(input_features=features, decoder_input_ids=tokens)
                .logits[0]
                .double()
                .softmax(-1)
                for one in (model, other)
            )
        by_hand = sum((p[i] * (p[i] / q[i]).log()).sum().item() for i in range(1, tokens.shape[1]))
        assert rows[clip.id]["tokens"] == len(text) + 1
        # float32 logits of a batch: about 1e-5 each
        assert rows[clip.id]["kl"] == pytest.approx(by_hand, abs=1e-4)
        assert by_hand > 0.001


@pytest.mark.slow
def test_the_divergence_splits_batches_whose_logits_would_not_fit(demo, clips, monkeypatch):
    model, processor = demo
    other, _ = whisper.load(str(ROOT / "models" / "demo"))
    with torch.no_grad():
        whisper.blocks(other)[0].linears[0].module.weight *= 0.8
    whole = divergence.divergence(
        Whisper(model, processor), Whisper(other, processor), clips, batch_size=6
    )
    sizes, real = [], divergence.predictions

    def measured(asr: Whisper, batch, states):
        sizes.append(4 * len(batch.clips) * max(batch.counts) * asr.model.config.vocab_size)
        return real(asr, batch, states)

    monkeypatch.setattr(divergence, "predictions", measured)
    monkeypatch.setattr(divergence, "MOST_BYTES", 400_000)
    split = divergence.divergence(
        Whisper(model, processor), Whisper(other, processor), clips, batch_size=6
    )
    assert max(sizes) <= 400_000 and len(sizes) > 4
    assert [row["id"] for row in split] == [row["id"] for row in whole]
    assert [row["kl"] for row in split] == pytest.approx([row["kl"] for row in whole], abs=1e-4)
    monkeypatch.setattr(divergence, "MOST_BYTES", 1)  # no clip fits: one at a time all the same
    assert (
        len(divergence.divergence(Whisper(model, processor), Whisper(other, processor), clips[:2]))
        == 2
    )


@pytest.mark.slow
def test_what_was_transcribed_is_not_encoded_again_for_the_divergence(demo, clips, monkeypatch):
    model, processor = demo
    other, _ = whisper.load(str(ROOT / "models" / "demo"))
    with torch.no_grad():
        whisper.blocks(other)[0].linears[0].module.weight *= 0.8
    plain = divergence.divergence(Whisper(model, processor), Whisper(other, processor), clips)
    heard = States(), States()
    for one, states in zip((model, other), heard):
        transcribe.transcribe(
            decoding.torch_decoder(Whisper(one, processor), states=states),
            processor,
            clips,
            batch_size=4,
        )
    with monkeypatch.context() as patched:
        patched.setattr(divergence, "encode", lambda *_: pytest.fail("the encoder ran again"))
        known = divergence.divergence(
            Whisper(model, processor), Whisper(other, processor), clips, states=heard
        )
    assert [row["kl"] for row in known] == pytest.approx([row["kl"] for row in plain], abs=1e-4)
    assert [
        row["kl"]
        for row in divergence.divergence(
            Whisper(model, processor), Whisper(other, processor), clips, states=(heard[0], None)
        )
    ] == pytest.approx([row["kl"] for row in plain], abs=1e-4)


def test_states_are_kept_while_there_is_room_and_only_for_the_very_waveform():
    audio, outputs = (
        [np.zeros(10, np.float32), np.zeros(10, np.float32)],
        torch.arange(12.0).reshape(2, 3, 2),
    )
    states = States(most_bytes=outputs[0].nbytes)
    states.keep(audio, outputs)
    assert torch.equal(states.recall(audio[:1]), outputs[:1])
    assert states.recall(audio) is None  # no room for the second
    assert states.recall([audio[0].copy()]) is None
    states.keep(audio[:1], outputs[1:])  # heard again: what is there stays
    assert torch.equal(states.recall(audio[:1]), outputs[:1])


def test_a_model_does_not_diverge_from_itself(demo, clips):
    model, processor = demo
    assert all(
        abs(row["kl"]) < 1e-6
        for row in divergence.divergence(
            Whisper(model, processor), Whisper(model, processor), clips[:3]
        )
    )


def test_long_audio_is_cut_where_it_is_quiet():
    loud = np.random.default_rng(0).standard_normal(100 * FRAME).astype(np.float32)
    loud[70 * FRAME : 76 * FRAME] *= 0.001
    first, *rest = split_at_silences(loud, 90 * FRAME)
    assert 70 * FRAME <= len(first) <= 76 * FRAME
    assert np.array_equal(np.concatenate([first, *rest]), loud)


@pytest.mark.parametrize("samples", [1, 1000, 9 * FRAME, 50 * FRAME + 7, 1000 * FRAME])
def test_no_piece_exceeds_the_window_and_nothing_is_lost(samples):
    audio = np.random.default_rng(1).standard_normal(samples).astype(np.float32)
    pieces = split_at_silences(audio, 40 * FRAME)
    assert all(0 < len(piece) <= 40 * FRAME for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), audio)


def test_a_clip_beyond_the_window_is_transcribed_in_pieces_and_joined(demo, clips):
    model, processor = demo
    gap = np.zeros(14 * 16_000, np.float32)
    long = np.concatenate([clips[0].audio, gap, clips[1].audio, gap, clips[2].audio])
    clip = type(clips[0])("long", long, "", None, "x")
    (said,) = transcribe.transcribe(
        decoding.torch_decoder(Whisper(model, processor)), processor, [clip]
    ).transcripts
    assert said.windows >= 2
    alone = (
        transcribe.transcribe(
            decoding.torch_decoder(Whisper(model, processor)), processor, clips[:1]
        )
        .transcripts[0]
        .hypothesis
    )
    assert said.hypothesis.startswith(alone.split()[0])


def test_probes_have_no_words_and_are_the_same_every_time():
    first, second = probes.clips(1.0), probes.clips(1.0)
    assert [clip.id for clip in first] == ["silence", "brown noise", "quiet noise", "loud noise"]
    assert all(clip.text == "" and len(clip.audio) == 16_000 for clip in first)
    assert all(np.array_equal(a.audio, b.audio) for a, b in zip(first, second))
    assert not first[0].audio.any() and first[3].audio.std() > 10 * first[2].audio.std()


@pytest.mark.parametrize(
    ("text", "normalizer"), [("hello there", "english"), ("नमस्ते दुनिया", "basic"), (None, "english")]
)
def test_where_nobody_says_the_language_the_references_choose_the_normaliser(text, normalizer):
    model = tiny.make_model()
    model.generation_config.is_multilingual = True
    model.generation_config.lang_to_id = {"<|en|>": 2, "<|hi|>": 3}
    clip = replace(tiny.make_clips(1)[0], text=text)
    dataset = Dataset("mine", [clip], [], None)
    assert stored.normalizer_of(Config.model_validate({}), model, dataset) == normalizer
