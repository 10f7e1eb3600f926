"""A clip as a live stream. Against a reference: cases by hand, and greedy decoding from nothing,
whose text a draft must not change. Behaviour: the simulated clock, full buffers, and streams that
are empty, break off or hold noise.
"""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from owl import plots
from owl.data.load import Clip
from owl.evaluate import streaming
from owl.kernels import agreement
from owl.model.decoding import encode, greedy, input_features
from owl.model.following import follow
from owl.model.whisper import Whisper
from owl.model.windows import listener
from tests import tiny

FRAMES = 100  # a window of two seconds


@pytest.fixture(scope="module")
def asr() -> Whisper:
    """Random, and mostly undecided about its end token."""
    model = tiny.make_model(seed=3, max_source_positions=FRAMES, max_target_positions=60)
    return Whisper(model, tiny.fitting_processor(FRAMES))


def clip(seconds: float, seed: int = 0, text: str = "a b") -> Clip:
    draw = np.random.default_rng(seed)
    audio = (0.1 * draw.standard_normal(round(16_000 * seconds))).astype(np.float32)
    return Clip(f"clip {seed}", audio, text, None, f"{seed}/{seconds}")


@pytest.mark.parametrize(
    "previous, present, stands",
    [
        ([], [1, 2], 0),
        ([1, 2], [1, 2], 1),  # the last word may go on
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 5], [1, 2, 3, 4], 2),
        ([1, 2], [1, 2, 3], 2),  # the earlier one ended there
        ([1, -2, 3], [1, -2, 4, 5], 2),  # -2 goes on with the word of 1
        ([1, 2, -3], [1, 2, 4], 1),  # the earlier one said more of that word
        ([1, 2, 3], [4, 2, 3], 0),
    ],
)
def test_what_two_hypotheses_begin_with_stands_in_whole_words(previous, present, stands):
    assert agreement.settled(previous, present, lambda token: token > 0) == stands


def test_words_end_where_their_characters_would():
    assert agreement.word_ends(["ab", "cdef", "gh"], 4.0) == [1.0, 3.0, 4.0]
    assert agreement.word_ends([], 4.0) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_draft_changes_nothing_in_what_is_said(asr, seed):
    states = encode(asr.model, input_features(asr, [clip(1.0, seed).audio]))
    (plain,) = greedy(asr.model, states, language=None, max_new_tokens=20)
    said = plain.tokens
    for draft in ([], said, said[:3], [*said[:2], 30, 31, 32], [35] * 9):
        found = follow(asr.model, states, draft=draft, max_new_tokens=20)
        assert found == plain
    onwards = follow(asr.model, states, said[:2], said[2:4], max_new_tokens=20)
    assert onwards == plain


def test_what_is_settled_is_kept_and_the_rest_is_greedy_behind_it(asr):
    states = encode(asr.model, input_features(asr, [clip(1.0).audio]))
    found = follow(asr.model, states, [5, 6], max_new_tokens=6)
    tokens = torch.tensor([[tiny.START, 37, 5, 6]])
    with torch.inference_mode():
        logits = asr.model.proj_out(
            asr.model.model.decoder(tokens, encoder_hidden_states=states).last_hidden_state
        )[0, -1]
    likeliest = logits[:38].argmax().item()  # behind are timestamps
    assert found.tokens[:3] == [5, 6, likeliest] and len(found.tokens) <= 6


def listening(asr: Whisper):
    return listener(partial(input_features, asr), partial(encode, asr.model), "speech")


def test_the_clock_waits_for_audio_and_for_the_work_before(asr, monkeypatch):
    """Every look at the clock takes 0.2 s: a hypothesis 0.4 s, in steps of 0.25 s."""
    ticks = iter(range(1000))
    monkeypatch.setattr(streaming.time, "perf_counter", lambda: 0.2 * next(ticks))
    hypotheses = iter([[4], [4, 5, 6], [4, 5, 6, 7], [4, 5, 6, 7]])
    monkeypatch.setattr(streaming, "follow", lambda *_, **__: streaming_decoded(next(hypotheses)))
    monkeypatch.setattr(streaming, "_begins_word", lambda *_: True)
    found = streaming.one_stream(asr, listening(asr), clip(1.0), step=0.25)
    # done at .65, 1.05, 1.45, 1.85: each begins when the one before is done
    assert [when for _, when in found.confirmed] == pytest.approx([1.05, 1.45, 1.85])
    assert "".join(text for text, _ in found.confirmed) == asr.processor.decode([4, 5, 6, 7])
    assert found.encoder_seconds == pytest.approx(0.8) == pytest.approx(found.decoder_seconds)
    late = [word.latency for word in found.words]
    assert late == pytest.approx([word.confirmed - word.ended for word in found.words])


def streaming_decoded(tokens: list[int]):
    from owl.model.decoding import Decoded

    return Decoded(tokens, "end")


def test_a_stream_repeats_and_what_is_confirmed_stays(asr):
    clips = [clip(1.3, 1), clip(0.7, 2)]
    first, second = (streaming.stream(asr, clips, "speech", step=0.5) for _ in range(2))
    assert [one.hypothesis for one in first] == [one.hypothesis for one in second]
    for one in first:
        times = [when for _, when in one.confirmed]
        assert times == sorted(times)
        assert all(when >= 0.5 for when in times)


@pytest.mark.parametrize("seconds, turns", [(0.0, 0), (0.2, 1), (0.5, 1), (1.2, 3), (5.0, 10)])
def test_streams_of_any_length_come_to_an_end(asr, seconds, turns, monkeypatch):
    """5 s are more than the window: the buffer is begun anew."""
    heard = []
    listen = listening(asr)
    noted = lambda audio: heard.append(len(audio[0])) or listen(audio)
    found = streaming.one_stream(asr, noted, clip(seconds), step=0.5)
    assert len(heard) == turns and max(heard, default=0) <= FRAMES * 320
    assert bool(found.words) == bool(turns)


def test_the_summary_counts_words_seconds_and_errors():
    one = streaming.Streamed(clip(2.0, text="one two"), [(" one", 1.5), (" too", 2.5)], 0.4, 0.2)
    found = streaming.summary([one], "none")
    assert (found["wer"], found["words"]) == (0.5, 2)
    assert (found["encoder"], found["decoder"]) == pytest.approx((0.2, 0.1))
    assert found["latency"] == pytest.approx(0.5)  # both words are half a second late
    silent = streaming.summary([streaming.Streamed(clip(2.0, text=""))], "none")
    assert silent["wer"] == 0 and np.isnan(silent["latency"])


def test_where_words_have_no_spaces_characters_are_confirmed_and_counted():
    one = streaming.Streamed(
        clip(3.0, text="日本語"), [("日本", 1.5), ("後", 3.5)], 0.4, 0.2, "characters"
    )
    assert [word.text for word in one.words] == ["日", "本", "後"]
    assert [word.latency for word in one.words] == pytest.approx([0.5, -0.5, 0.5])
    found = streaming.summary([one], "basic")
    assert found["cer"] == pytest.approx(1 / 3) and "wer" not in found


def test_a_token_of_a_characters_later_bytes_begins_none():
    tokenizer = tiny.make_processor().tokenizer
    tokens = tokenizer("日本", add_special_tokens=False).input_ids
    begins = [streaming._begins_character(tokenizer, token) for token in tokens]
    assert begins == [True, False, False, True, False, False]
    (letter,) = tokenizer("a", add_special_tokens=False).input_ids
    assert streaming._begins_character(tokenizer, letter)


def test_the_latency_figure_has_a_line_per_model_and_window_and_its_median():
    rows = [("dense", "full", 2.0), ("dense", "full", 4.0), ("pruned", "speech", 0.5)]
    table = pd.DataFrame(rows, columns=["model", "window", "latency"])
    figure, ax = plt.subplots()
    plots.word_latency(table, ax)
    (full, speech) = ax.lines
    assert full.get_xdata()[-1] == 4.0 and full.get_linestyle() == ":"
    assert speech.get_color() == plots.PRUNED and speech.get_xdata()[-1] == 0.5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "dense, full: median 3.00 s",
        "pruned, speech: median 0.50 s",
    ]
    plt.close(figure)
