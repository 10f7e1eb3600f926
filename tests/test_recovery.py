"""Recovery of a tiny pruned Whisper. Against a reference: the loss of distillation against KL and
errors written out, the block's error against a direct forward of both models, an interrupted
training against an uninterrupted one (bit for bit), cropping against the full window.

Only behaviour: zeros stay zero, planted damage is repaired, nothing ends worse on the held-out
clips than it began, refusals.
"""

import copy
import json
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch

from owl.config.load import Config
from owl.errors import DataError
from owl.model import whisper
from owl.model.decoding import encode, input_features
from owl.model.whisper import Whisper
from owl.model.windows import listener
from owl.prune import calibration, weights
from owl.prune.calibration_text import Labels
from owl.recover import blockwise, distill, examples, norms, recovery, training
from owl.run.record import Run
from tests import tiny

CLIPS = tiny.make_clips(24)
TEXTS = [[5 + index % 20, 6 + index % 7, 7 + index % 5] for index in range(24)]
EXAMPLES = [examples.Example(clip.audio, tokens) for clip, tokens in zip(CLIPS, TEXTS)]
PROCESSOR = tiny.make_processor()


def make_model(**changes):
    """With a row of the vocabulary for every token that the processor writes."""
    return tiny.make_model(vocab_size=len(PROCESSOR.tokenizer), **changes)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Thousands of steps on tiny tensors: two threads that wait for each other on a busy machine
    take minutes instead of seconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batches(model, chosen):
    clips, texts = CLIPS[chosen], TEXTS[chosen]
    return calibration.prepare(
        Whisper(model, PROCESSOR), clips, texts, language=None, padding="exclude", batch_size=4
    )


def pruned_model(sparsity=0.6, **options):
    """(pruned, dense, blocks of the pruned one)."""
    dense = make_model()
    model = copy.deepcopy(dense)
    every = whisper.blocks(model)
    weights.prune(
        model,
        every,
        batches(model, slice(0, 24)),
        weights.spread(every, [sparsity] * 4),
        method="wanda",
        **options,
    )
    return model, dense, every


def answers(dense):
    return distill.lessons(Whisper(dense, PROCESSOR), EXAMPLES[18:], language=None, batch_size=4)


def train(model, dense, every, **options):
    settings = dict(language=None, rate=3e-3, batch_size=6, seed=0, steps=40) | options
    return distill.distill(
        model, Whisper(dense, PROCESSOR), every, EXAMPLES[:18], answers(dense), **settings
    )


def block_by_block(model, dense, every, epochs=4, rate=3e-3):
    parts = [batches(model, chosen) for chosen in (slice(0, 18), slice(18, 24))]
    return list(
        blockwise.recover_blocks(
            model, dense, every, whisper.blocks(dense), *parts, epochs=epochs, rate=rate, seed=0
        )
    )


def zeros(every):
    return {
        linear.name: linear.module.weight.detach() == 0
        for block in every
        for linear in block.linears
    }


@pytest.mark.slow
@pytest.mark.parametrize("recover", [train, block_by_block])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_stay_exactly_zero_and_kept_weights_move(recover, pattern):
    model, dense, every = pruned_model(0.5, pattern=pattern)
    masks, before = zeros(every), copy.deepcopy(model.state_dict())
    recover(model, dense, every)
    assert all(torch.equal(mask, zeros(every)[name]) for name, mask in masks.items())
    moved = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert {f"{linear.path}.weight" for block in every for linear in block.linears} <= moved
    # embeddings, convolutions and the final norms are the dense model's
    assert all(".layers." in name for name in moved)


@pytest.mark.slow
@pytest.mark.parametrize("recover", [train, block_by_block])
def test_the_teacher_is_left_alone(recover):
    model, dense, every = pruned_model()
    before = copy.deepcopy(dense.state_dict())
    recover(model, dense, every)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("recover", [train, block_by_block])
def test_the_same_seed_gives_the_same_bits(recover):
    states = []
    for _ in range(2):
        model, dense, every = pruned_model()
        recover(model, dense, every)
        states.append(model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


# --- blockwise


def test_blockwise_lowers_every_blocks_held_out_error_and_the_divergence():
    model, dense, every = pruned_model()
    before = distill.divergence(model, answers(dense))
    rows = block_by_block(model, dense, every)
    assert [row.block for row in rows] == ["encoder.0", "encoder.1", "decoder.0", "decoder.1"]
    assert all(row.after < 0.9 * row.before for row in rows)
    assert distill.divergence(model, answers(dense)) < 0.7 * before


def test_blocks_in_short_windows_are_compared_frame_by_frame_with_whole_ones():
    """Against both models' windows put together here, of clips of different lengths; one that fills
    the window leaves nothing to shorten.
    """
    dense = make_model(max_source_positions=200)
    asr = Whisper(dense, tiny.fitting_processor(200))
    silence = input_features(asr, [np.zeros(320, np.float32)])
    long = replace(CLIPS[0], audio=np.tile(CLIPS[0].audio, 40)[:63_000])
    sounds = [replace(long, audio=long.audio[:samples]) for samples in (1600, 20_000, 3200)]

    def calibrated(clips):
        texts, settings = TEXTS[: len(clips)], dict(padding="exclude", batch_size=3)
        return calibration.prepare(asr, clips, texts, language=None, **settings)

    def recovered(model, clips, epochs):
        given, settings = calibrated(clips), dict(epochs=epochs, rate=3e-3, seed=0)
        parts = (whisper.blocks(model), whisper.blocks(dense), given, given)
        return list(blockwise.recover_blocks(model, dense, *parts, silence=silence, **settings))

    model = copy.deepcopy(dense)
    for block in whisper.blocks(model):
        for linear in block.linears:
            linear.module.weight.data[:, ::2] = 0
    heard = [examples.Example(clip.audio, text) for clip, text in zip(sounds, TEXTS)]
    batch = examples.pad(asr, heard, language=None, crop=False)
    text_rows = calibrated(sounds)[0].text_rows
    with torch.no_grad():
        end = whisper.encode_audio(model, silence)[0, -50:]
        short, _ = whisper.teacher_forced(model, batch.features[:, :, :200], batch.tokens, end)
        whole, _ = whisper.teacher_forced(dense, batch.features, batch.tokens)
    for row in recovered(model, sounds, epochs=0):
        rows = text_rows if row.block.startswith("decoder") else batch.frames
        theirs = whole[row.block][rows]
        off = short[row.block][rows[:, : short[row.block].shape[1]]] - theirs
        # the convolutions see no edge here: the batch is cut behind them
        expected = off.square().sum() / theirs.square().sum()
        assert row.before == pytest.approx(expected.item(), rel=1e-3)
    assert all(row.after < 0.9 * row.before for row in recovered(model, sounds, epochs=9))
    assert all(row.before == 0 for row in recovered(dense, [long], epochs=0))


def test_a_learning_rate_that_ruins_everything_leaves_each_block_as_good_as_it_was():
    model, dense, every = pruned_model()
    rows = block_by_block(model, dense, every, rate=30.0)
    # what the first block began with does not depend on others
    assert rows[0].after <= rows[0].before < 1
    assert all(row.after <= row.before for row in rows)


def test_a_blocks_error_is_that_of_its_output_on_the_two_models_own_inputs():
    model, dense, every = pruned_model()
    (last,) = [
        row for row in block_by_block(model, dense, every, epochs=1) if row.block == "decoder.1"
    ]
    off = scale = 0.0
    for clip, text in zip(CLIPS[18:], TEXTS[18:]):
        batch = examples.pad(
            Whisper(dense, PROCESSOR),
            [examples.Example(clip.audio, text)],
            language=None,
            crop=False,
        )
        ours, theirs = (
            whisper.teacher_forced(one, batch.features, batch.tokens)[0]["decoder.1"]
            for one in (model, dense)
        )
        off, scale = (
            off + (ours - theirs).square().sum().item(),
            scale + theirs.square().sum().item(),
        )
    assert last.after == pytest.approx(off / scale, rel=1e-4)  # float32, another batching


def test_a_block_that_nothing_changed_is_not_trained():
    dense = make_model()
    model = copy.deepcopy(dense)
    rows = block_by_block(model, dense, whisper.blocks(model))
    assert {(row.steps, row.before, row.after) for row in rows} == {(0, 0.0, 0.0)}


@pytest.mark.parametrize("recover", [block_by_block, partial(train, steps=4)])
def test_blocks_in_which_nothing_is_targeted_stay_the_dense_models(recover):
    model, dense, every = pruned_model()
    for block in every[2:]:
        block.module.load_state_dict(dense.get_submodule(path_of(block)).state_dict())
    every = [*every[:2], *(replace(block, linears=()) for block in every[2:])]
    pruned = copy.deepcopy(model)
    recover(model, dense, every)
    for block in every:
        now, before = (one.get_submodule(path_of(block)).state_dict() for one in (model, pruned))
        same = all(torch.equal(tensor, before[name]) for name, tensor in now.items())
        assert same != bool(block.linears)


def path_of(block):
    return f"model.{block.name.replace('.', '.layers.')}"


# --- distillation


@pytest.mark.slow
def test_distillation_repairs_planted_damage():
    dense = make_model()
    model = copy.deepcopy(dense)
    every = whisper.blocks(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = every[2].linears[0].module.weight
        weight += 0.5 * torch.randn(weight.shape, generator=generator)
    course = train(model, dense, every, steps=80)
    best = min(point.kl for point in course.curve)
    assert best < 0.5 * course.kl_before
    assert distill.divergence(model, answers(dense)) == pytest.approx(best, rel=1e-6)
    assert [course.steps, course.curve[0].step, course.curve[-1].step] == [80, 0, 80]


def test_distillation_never_ends_worse_on_the_held_out_clips():
    model, dense, every = pruned_model()
    before = copy.deepcopy(model.state_dict())
    course = train(model, dense, every, rate=30.0, steps=10)
    assert course.kl_before == min(point.kl for point in course.curve)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_loss_is_the_divergence_and_the_relative_errors_written_out():
    model, dense, _ = pruned_model()
    batch = examples.pad(Whisper(dense, PROCESSOR), EXAMPLES[:3], language=None, crop=True)
    kl, hidden = distill.losses(model, distill.target(dense, batch))
    (ours, our_logits), (theirs, their_logits) = (
        whisper.teacher_forced(one, batch.features, batch.tokens) for one in (model, dense)
    )
    by_hand, (p, q) = 0.0, (logits.softmax(-1) for logits in (their_logits, our_logits))
    for clip, example in enumerate(EXAMPLES[:3]):
        for position in range(
            1, 2 + len(example.tokens)
        ):  # the prompt has two tokens; its last one predicts the first of the text
            by_hand += (
                (p[clip, position] * (p[clip, position] / q[clip, position]).log()).sum().item()
            )
    assert kl.item() == pytest.approx(by_hand, rel=1e-4)
    errors = {}
    for name in ours:
        rows = batch.frames if name.startswith("encoder") else batch.counted
        errors[name] = (
            (ours[name] - theirs[name])[rows].square().sum() / theirs[name][rows].square().sum()
        ).item()
    stacks = [
        [error for name, error in errors.items() if name.startswith(stack)]
        for stack in ("encoder", "decoder")
    ]
    assert hidden.item() == pytest.approx(
        sum(sum(stack) / len(stack) for stack in stacks), rel=1e-4
    )


def test_in_short_windows_the_student_reads_the_speech_and_the_teacher_all():
    """Against the window and the silence's end put together here; a clip that fills the window
    leaves nothing to shorten.
    """
    dense = make_model(max_source_positions=200)
    asr = Whisper(dense, tiny.fitting_processor(200))
    short = [examples.Example(one.audio[:3200], one.tokens) for one in EXAMPLES[:6]]
    silence = input_features(asr, [np.zeros(320, np.float32)])
    (wanted,) = distill.lessons(asr, short, language=None, batch_size=6)
    batch = wanted.batch
    assert distill.divergence(dense, [wanted]) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        end = whisper.encode_audio(dense, silence)[:, -50:].expand(6, -1, -1)
        heard = torch.cat([whisper.encode_audio(dense, batch.features[:, :, :100]), end], dim=1)
        logits = dense(encoder_outputs=(heard,), decoder_input_ids=batch.tokens).logits
    logs = logits[batch.counted].log_softmax(-1)
    kl = (wanted.logs.exp() * (wanted.logs - logs)).sum() / len(logs)
    assert kl > 1e-5
    assert distill.divergence(dense, [wanted], silence) == pytest.approx(kl.item(), rel=1e-3)
    trained_on, _ = distill.losses(dense, distill.target(dense, batch), silence)
    assert trained_on.item() == pytest.approx(kl.item() * len(logs), rel=1e-3)
    long = [examples.Example(np.tile(CLIPS[0].audio, 40)[:63_000], TEXTS[0])]
    (whole,) = distill.lessons(asr, long, language=None, batch_size=1)
    assert distill.divergence(dense, [whole], silence) == pytest.approx(0, abs=1e-6)
    student = copy.deepcopy(dense)
    settings = dict(language=None, rate=3e-3, batch_size=6, seed=0, steps=30, silence=silence)
    course = distill.distill(student, asr, whisper.blocks(student), short, [wanted], **settings)
    assert course.kept < 0.5 * course.kl_before == pytest.approx(0.5 * kl.item(), rel=1e-3)


def test_models_of_different_depth_share_the_two_outputs():
    deep, shallow = make_model(), make_model(decoder_layers=1)
    wanted = distill.target(
        deep, examples.pad(Whisper(deep, PROCESSOR), EXAMPLES[:3], language=None, crop=True)
    )
    assert all(torch.isfinite(loss) and loss > 0 for loss in distill.losses(shallow, wanted))


@pytest.mark.slow
def test_an_interrupted_training_goes_on_and_gives_the_same_bits(tmp_path, monkeypatch):
    reference, dense, every = pruned_model()
    whole = train(reference, dense, every)
    model, dense, every = pruned_model()
    state, real = tmp_path / "deep" / "state.pt", training.step
    resumable = dict(state_file=state, key="this run", save_every=0.0)
    calls = []

    def stop_at_the_27th(*arguments):
        calls.append(1)
        if len(calls) == 27:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "step", stop_at_the_27th)
    with pytest.raises(KeyboardInterrupt):
        train(model, dense, every, **resumable)
    assert state.exists()
    again, dense, every = pruned_model()
    resumed = train(again, dense, every, **resumable)
    assert len(calls) == 27 + 40 - 26  # 26 steps were kept
    assert all(
        torch.equal(tensor, again.state_dict()[name])
        for name, tensor in reference.state_dict().items()
    )
    assert [point.kl for point in resumed.curve] == [point.kl for point in whole.curve]
    assert not list(state.parent.iterdir())


def test_a_state_of_another_training_is_not_taken(tmp_path):
    training.save_state(tmp_path / "state.pt", "one", {"step": 3, "values": [torch.ones(2)]})
    assert training.load_state(tmp_path / "state.pt", "one")["step"] == 3
    assert training.load_state(tmp_path / "state.pt", "another") is None
    assert training.load_state(tmp_path / "missing.pt", "one") is None


def test_a_budget_of_minutes_ends_in_time():
    model, dense, every = pruned_model()
    course = train(model, dense, every, steps=None, minutes=0.02)
    # one step and one look may follow the last that began in time
    assert 1.2 <= course.seconds < 4 and course.steps > 3


def test_the_learning_rate_warms_up_and_ends_at_zero():
    assert training.learning_rate(1.0, 0.0) == pytest.approx(0.2)
    assert training.learning_rate(1.0, 0.5) == pytest.approx(0.5)
    assert training.learning_rate(1.0, 1.0) == pytest.approx(0.0)
    assert training.learning_rate(1.0, 0.05) > max(
        training.learning_rate(1.0, share) for share in (0.0, 0.02, 0.2)
    )


# --- examples


def test_a_pass_visits_every_example_once_in_batches_of_like_length():
    lengths = [len(clip.audio) for clip in CLIPS]
    batches = examples.order(lengths, 4, seed=0, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(24)) and len(
        batches
    ) == examples.batches_per_pass(24, 4)
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert np.mean(spread) < 0.5 * (max(lengths) - min(lengths))
    assert examples.order(lengths, 4, 0, 0) == batches != examples.order(lengths, 4, 0, 1)
    assert [len(examples.order(lengths[:n], 4, 0, 0)) for n in (1, 4, 17, 23)] == [
        examples.batches_per_pass(n, 4) for n in (1, 4, 17, 23)
    ]


def test_a_cropped_window_is_the_start_of_the_full_one():
    dense = make_model()
    # 5 of 20 frames
    short = [examples.Example(one.audio[:1600], one.tokens) for one in EXAMPLES[:4]]
    whole, cropped = (
        examples.pad(Whisper(dense, PROCESSOR), short, language=None, crop=crop)
        for crop in (False, True)
    )
    assert (whole.features.shape[2], cropped.features.shape[2]) == (40, 14)
    assert torch.equal(whole.features[:, :, :14], cropped.features)
    assert whole.frames.sum() == cropped.frames.sum() == 20
    first = [whisper.embed_audio(dense, batch.features)[:, :6] for batch in (whole, cropped)]
    assert torch.allclose(*first, atol=1e-6)


def test_our_forward_is_the_models_own():
    dense = make_model()
    batch = examples.pad(Whisper(dense, PROCESSOR), EXAMPLES[:4], language=None, crop=False)
    own = dense(input_features=batch.features, decoder_input_ids=batch.tokens)
    states, logits = whisper.teacher_forced(dense, batch.features, batch.tokens)
    assert torch.allclose(logits, own.logits, atol=1e-5) and torch.allclose(
        states["encoder"], own.encoder_last_hidden_state, atol=1e-5
    )


def test_joined_examples_are_whole_clips_with_their_texts_within_the_window(monkeypatch):
    monkeypatch.setattr(examples, "augment", lambda audio, draw, limit: audio)
    limit, text = whisper.window_samples(PROCESSOR), PROCESSOR.tokenizer.decode
    ids = [
        PROCESSOR.tokenizer(f"text {index}", add_special_tokens=False).input_ids
        for index in range(6)
    ]
    # up to three in a window
    plain = [examples.Example(clip.audio[:1700], tokens) for clip, tokens in zip(CLIPS, ids)]
    rounds = [examples.altered(plain, plain, PROCESSOR, 0, step) for step in range(40)]
    parts = [len(one.audio) // 1700 for heard in rounds for one in heard]
    assert set(parts) == {1, 2, 3} and 3 * 1700 <= limit < 4 * 1700
    assert 0.4 < np.mean(np.array(parts) > 1) < 0.6
    for heard in rounds:
        for one, first in zip(heard, plain):
            sources = [int(word) for word in text(one.tokens).split()[1::2]]
            assert np.array_equal(
                one.audio, np.concatenate([plain[index].audio for index in sources])
            )
            assert (
                text(one.tokens) == " ".join(f"text {index}" for index in sources)
                and plain[sources[0]] is first
            )


def test_the_same_seed_and_step_alter_alike():
    def drawn(seed, step):
        return examples.altered(EXAMPLES[:8], EXAMPLES, PROCESSOR, seed, step)

    def alike(one, other):
        return all(
            a.tokens == b.tokens and np.array_equal(a.audio, b.audio) for a, b in zip(one, other)
        )

    assert alike(drawn(0, 3), drawn(0, 3))
    assert not alike(drawn(0, 3), drawn(0, 4)) and not alike(drawn(0, 3), drawn(1, 3))


def test_augmentation_stays_within_its_limits():
    audio = np.sin(np.arange(4000) / 10).astype(np.float32)
    lengths, powers = [], []
    for seed in range(60):
        heard = examples.augment(audio, np.random.default_rng(seed), 4200)
        assert heard.dtype == np.float32 and np.isfinite(heard).all()
        (
            lengths.append(len(heard)),
            powers.append(10 * np.log10(np.mean(heard**2) / np.mean(audio**2))),
        )
    # ±10 %, and no longer than the window
    assert 3600 <= min(lengths) < 3800 and max(lengths) == 4200
    # ±6 dB, and noise of at most a tenth of the power
    assert -6.1 < min(powers) < -4 and 4 < max(powers) < 6.5


# --- of a run


def labels(count):
    return Labels(CLIPS[:count], TEXTS[:count], {}, None)


def test_every_eighth_clip_is_held_out_and_at_least_one():
    learned, held_out = labels(17).hold_out()
    assert [clip.id for clip in held_out.clips] == ["clip7", "clip15"] and held_out.tokens == [
        TEXTS[7],
        TEXTS[15],
    ]
    assert len(learned.clips) == 15 and not {clip.id for clip in learned.clips} & {
        "clip7",
        "clip15",
    }
    assert [len(part.clips) for part in labels(3).hold_out()] == [2, 1]


def test_a_single_calibration_clip_is_too_few(tmp_path):
    with pytest.raises(DataError, match="at least 2 calibration clips"):
        recovery.lessons_of(run_of(tmp_path, "blockwise"), Whisper(None, PROCESSOR), labels(1))


def run_of(tmp_path, method="none", epochs=2, **pruning):
    settings = {"method": method, "steps": 6, "epochs": epochs, "batch_size": 6}
    calibration = {"windows": "single"}  # the clips are counted below
    given = {"recovery": settings, "calibration": calibration} | pruning
    return Run("mine", tmp_path, Config.model_validate({"pruning": given}))


def after_recovery(run, number=1):
    model, dense, every = pruned_model()
    lessons = recovery.lessons_of(run, Whisper(dense, PROCESSOR), labels(24))
    return recovery.recover(lessons, model, every, number, sparsity=0.6), lessons, model


@pytest.mark.parametrize("method, steps", [("blockwise", 2 * 4 * 4), ("distill", 2 * 4 * 4 + 6)])
def test_a_round_says_what_it_cost_and_what_it_gave(tmp_path, method, steps):
    row, lessons, model = after_recovery(run_of(tmp_path, method))
    assert (row.method, row.round, row.steps, row.sparsity) == (method, 1, steps, 0.6)
    assert row.held_out_kl_after == distill.divergence(model, lessons.answers)
    assert row.held_out_kl_after < row.held_out_kl_before == row.curve[0].kl
    assert (len(row.blocks), row.seconds > 0) == (4, True)
    result = recovery.summary(lessons, [row])
    assert (result.clips, result.held_out_clips) == (21, 3)
    assert result.minutes == row.seconds / 60
    assert f"Recovery by {method}" in recovery.sentence(result)


def test_norms_trains_no_matrix_and_nothing_of_the_encoder(tmp_path):
    row, _, model = after_recovery(run_of(tmp_path, "norms", epochs=20))
    assert (row.method, row.steps, len(row.curve)) == ("norms", 20 * 4, 21)
    assert row.held_out_kl_after == min(point.kl for point in row.curve) < row.held_out_kl_before
    expected = pruned_model()[0].state_dict()
    moved = {name for name, one in model.state_dict().items() if not one.equal(expected[name])}
    assert moved and all("decoder.layers" in name for name in moved)
    assert all(expected[name].ndim == 1 for name in moved)
    assert all(one.requires_grad for one in model.model.decoder.layers.parameters())


def test_the_loss_of_norms_is_that_of_both_models_side_by_side():
    model, dense, _ = pruned_model()
    batch = examples.pad(Whisper(dense, PROCESSOR), EXAMPLES[:4], language=None, crop=False)
    rows = batch.counted
    with torch.no_grad():
        wanted, dense_logits = whisper.teacher_forced(dense, batch.features, batch.tokens)
        states, logits = whisper.teacher_forced(model, batch.features, batch.tokens)
    dense_logs, logs = (one[rows].log_softmax(-1) for one in (dense_logits, logits))
    off = states["decoder.1"][rows] - wanted["decoder.1"][rows]
    expected = (dense_logs.exp() * (dense_logs - logs)).sum() / len(logs)
    expected += off.square().sum() / wanted["decoder.1"][rows].square().sum()
    heard = encode(model, batch.features)
    found = norms._Lesson(dense, batch, heard).loss(model).item()
    assert found == pytest.approx(expected.item(), rel=2e-2)  # half precision


def test_norms_learns_in_the_windows_that_the_run_reads_from_a_teacher_in_full_ones():
    """The dense model as its own student: nothing to learn but the shorter windows."""
    dense = make_model(max_source_positions=200)
    asr = Whisper(dense, tiny.fitting_processor(200))
    short = [examples.Example(one.audio[:3200], one.tokens) for one in EXAMPLES]
    settings = dict(language=None, epochs=1, rate=1e-9, batch_size=6, seed=0)
    full, speech = (
        norms.train(asr, asr, whisper.blocks(dense), short, short[:6], window=window, **settings)
        for window in ("full", "speech")
    )
    assert full.kl_before == pytest.approx(0, abs=1e-5) and speech.kl_before > 1e-4
    listen = listener(partial(input_features, asr), partial(encode, dense), "speech")
    heard = listen([one.audio for one in short[:6]])
    batch = examples.pad(asr, short[:6], language=None, crop=False)
    by_hand = norms._Lesson(dense, batch, heard)
    assert speech.kl_before == pytest.approx(by_hand.kl(dense) / by_hand.count)


def test_the_artefact_keeps_its_keys(tmp_path):
    row, lessons, _ = after_recovery(run_of(tmp_path, "blockwise", epochs=1))
    kept = json.loads(json.dumps(asdict(recovery.summary(lessons, [row]))))
    kl = {"held_out_kl_before", "held_out_kl_after"}
    assert kept.keys() == {"method", "minutes", "steps", "clips", "held_out_clips", "rounds"} | kl
    one = kept["rounds"][0]
    told = {"round", "method", "sparsity", "steps", "seconds", "curve", "blocks"}
    assert one.keys() == told | kl
    assert one["curve"][0].keys() == {"step", "minutes", "kl"}
    assert one["blocks"][0].keys() == {"block", "before", "after", "steps", "seconds"}


def test_no_recovery_touches_and_measures_nothing(tmp_path):
    row, lessons, model = after_recovery(run_of(tmp_path))
    expected, _, _ = pruned_model()
    assert (row.steps, row.held_out_kl_before, len(row.curve), lessons.answers) == (0, None, 0, [])
    assert all(
        torch.equal(tensor, expected.state_dict()[name])
        for name, tensor in model.state_dict().items()
    )
    assert (
        recovery.sentence(recovery.summary(lessons, [row]))
        == "No recovery: this is the one-shot model."
    )
    assert recovery.curve([row]).empty


@pytest.mark.parametrize("method", ["blockwise", "distill"])
def test_a_run_in_short_windows_trains_and_measures_its_recovery_in_them(tmp_path, method):
    """The dense model as its own student: nothing is off but what the shorter windows change."""
    calibration = {"windows": "packed", "padding": "include"}
    run = run_of(tmp_path, method, epochs=1, calibration=calibration)
    read = run.config.evaluation.model_copy(update={"window": "speech"})
    run = replace(run, config=run.config.model_copy(update={"evaluation": read}))
    model = make_model(max_source_positions=200)
    asr = Whisper(copy.deepcopy(model), tiny.fitting_processor(200))
    sounds = [
        replace(clip, audio=np.resize(clip.audio, 1600 + 7000 * (index % 5)))
        for index, clip in enumerate(CLIPS)
    ]
    lessons = recovery.lessons_of(run, asr, Labels(sounds, TEXTS, {}, None))
    row = recovery.recover(lessons, model, whisper.blocks(model), sparsity=0.6)
    after = distill.divergence(model, lessons.answers, lessons.silence)
    assert row.held_out_kl_after == pytest.approx(after, rel=1e-5)
    assert row.held_out_kl_after < row.held_out_kl_before == row.curve[0].kl
    assert len(row.blocks) == 4 and all(block.before > 0 for block in row.blocks)
    read = recovery._batches(lessons, asr, lessons.learned)
    counted = torch.cat([batch.audio_rows.sum(1) for batch in read])
    lengths = [whisper.valid_frames(len(clip.audio), model) for clip in lessons.learned.clips]
    assert counted.tolist() == sorted(lengths) and len(lengths) == 21


@pytest.mark.parametrize("method, steps", [("blockwise", 3 * 4 * 4), ("distill", 3 * 4)])
def test_before_the_last_round_recovery_is_pruning_frequency_passes_long(tmp_path, method, steps):
    run = run_of(tmp_path, method, schedule={"name": "cubic", "iterations": 2, "frequency": 3})
    # 21 clips in batches of 6: 4 a pass; blockwise over 4 blocks
    assert after_recovery(run, number=1)[0].steps == steps


def test_half_precision_is_trained_in_single_and_comes_back_in_half(tmp_path):
    model, dense, every = pruned_model()
    model.bfloat16(), dense.bfloat16()
    run = run_of(tmp_path, "distill")
    lessons = recovery.lessons_of(run, Whisper(dense, PROCESSOR), labels(24))
    row = recovery.recover(lessons, model, every, sparsity=0.5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert row.held_out_kl_after < row.held_out_kl_before


def test_the_curve_of_several_rounds_runs_on_one_clock():
    curves = (
        [training.Point(0, 0.0, 0.5), training.Point(9, 1.0, 0.2)],
        [training.Point(0, 0.0, 0.9), training.Point(4, 0.5, 0.3)],
    )
    rounds = [
        recovery.Round(number, "distill", 0.6, 9, seconds, None, kept, one)
        for number, seconds, one, kept in zip((1, 2), (60.0, 30.0), curves, (0.2, 0.3))
    ]
    table = recovery.curve(rounds)
    assert table.kept.tolist() == [0.2, 0.2, 0.3, 0.3]
    assert table.minutes.tolist() == [0.0, 1.0, 1.0, 1.5] and table["round"].tolist() == [
        1,
        1,
        2,
        2,
    ]


def test_rounds_are_kept_only_where_the_config_asks(tmp_path):
    model, processor, run = tiny.make_model(), tiny.fitting_processor(), run_of(tmp_path)
    recovery.keep_round(run, Whisper(model, processor), 1)
    assert not (tmp_path / "checkpoints").exists()
    asked = Run(
        "mine", tmp_path, Config.model_validate({"output": {"save_pruned_checkpoints": True}})
    )
    recovery.keep_round(asked, Whisper(model, processor), 2)
    loaded, _ = whisper.load(str(tmp_path / "checkpoints" / "round-2"))
    assert all(
        torch.equal(tensor, loaded.state_dict()[name])
        for name, tensor in model.state_dict().items()
    )
