"""The measured allocation: the budget against brute force, the fitness against whole forward
passes, the search and its driver on a tiny Whisper.

What is only behaviour: the model comes out as it went in; equal seeds give equal results.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from owl.config.load import Config
from owl.model import whisper
from owl.model.whisper import Whisper
from owl.prune import calibration, calibration_text, measured, search
from owl.prune.fitness import Fitness
from tests import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.make_model()


def batches(model, count=4, seed=0):
    texts = [[5 + index, 9, 7 + index][: 2 + index % 2] for index in range(count)]
    return calibration.prepare(
        Whisper(model, tiny.make_processor()),
        tiny.make_clips(count, seed),
        texts,
        language=None,
        padding="exclude",
        batch_size=2,
    )


@pytest.fixture(scope="module")
def fitness(model):
    return Fitness(model, whisper.blocks(model), batches(model), prompt=2)


@pytest.fixture(scope="module")
def database(model):
    every = whisper.blocks(model)
    return search.build(
        model, every, batches(model), Fitness(model, every, batches(model), prompt=2), method="alps"
    )


def test_units_are_the_parts_of_each_block(model):
    names = [unit.name for unit in search.units(whisper.blocks(model))]
    assert names[:2] == ["encoder.0.self_attn", "encoder.0.feed_forward"]
    assert names[-3:] == ["decoder.1.self_attn", "decoder.1.encoder_attn", "decoder.1.feed_forward"]


def test_the_fitness_of_the_dense_weights_is_zero_and_of_others_is_the_whole_models_divergence(
    model, fitness
):
    assert fitness.divergence({}) == pytest.approx(0, abs=1e-9)
    linear = whisper.blocks(model)[1].linears[0]
    changed = linear.module.weight.data * 0.5
    found, total, count = fitness.divergence({linear.name: changed}), 0.0, 0
    for index in (0, 2):
        part = tiny.make_clips(4)[index : index + 2]
        features = (
            tiny.make_processor()
            .feature_extractor(
                [clip.audio for clip in part], sampling_rate=16000, return_tensors="pt"
            )
            .input_features
        )
        rows = [[1, 37, *[5 + i, 9, 7 + i][: 2 + i % 2]] for i in (index, index + 1)]
        for features_of_one, row in zip(features, rows):
            logs = []
            for weight in (linear.module.weight.data, changed):
                kept, linear.module.weight.data = linear.module.weight.data, weight
                logs.append(
                    model(features_of_one[None], decoder_input_ids=torch.tensor([row]))
                    .logits[0, 1:]
                    .log_softmax(-1)
                )
                linear.module.weight.data = kept
            total += (logs[0].exp() * (logs[0] - logs[1])).sum().item()
            count += len(row) - 1
    assert found > 1e-6 and found == pytest.approx(total / count, rel=1e-3)


@pytest.mark.slow
def test_the_database_leaves_the_model_and_measures_what_a_whole_pass_measures(
    model, fitness, database
):
    fresh = tiny.make_model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters()))
    for index in (0, 3, 5, 9):
        unit = database.units[index]
        weights = {linear.name: database.weights[4][linear.name] for linear in unit.linears}
        assert database.divergence[index, 4] == pytest.approx(fitness.divergence(weights), rel=1e-4)
    for level, weights in zip(search.LEVELS, database.weights):
        assert all(
            abs((weight == 0).float().mean().item() - level) <= 1 / weight.numel() + 1e-6
            for weight in weights.values()
        )


@pytest.mark.parametrize("sparsity", [0.2, 0.6, 0.85])
def test_the_budget_is_met_exactly_and_no_grid_allocation_is_better(sparsity):
    draw = np.random.default_rng(1)
    divergence = np.sort(np.exp(draw.uniform(-7, 0, (3, len(search.LEVELS)))), axis=1)
    weights = [4, 8, 4]
    chosen = search.solve_budget(divergence, weights, sparsity)
    assert np.dot(chosen, weights) / 16 == pytest.approx(sparsity, abs=1e-12)
    cost = lambda values: sum(
        search.curve_of(row, np.array([value]))[0] for row, value in zip(divergence, values)
    )
    grid = np.arange(0, 0.951, 0.05)
    spent = [
        way for way in product(grid, repeat=3) if abs(np.dot(way, weights) / 16 - sparsity) < 1e-9
    ]
    # one unit may stop inside a hull segment
    assert spent and cost(chosen) <= min(cost(way) for way in spent) * 1.02


def test_a_budget_beyond_the_last_level_is_spread_and_zero_prunes_nothing():
    divergence = np.tile(np.array(search.LEVELS), (2, 1))
    assert search.solve_budget(divergence, [1, 3], 0.97) == pytest.approx([0.97, 0.97])
    assert search.solve_budget(divergence, [1, 3], 0.0) == [0.0, 0.0]


@pytest.mark.slow
def test_assembled_weights_have_the_sparsity_asked_for(database):
    for sparsity in (0.0, 0.15, 0.5, 0.65, 0.95):
        weights = search.assemble(database, [sparsity] * len(database.units))
        zeros = sum((weight == 0).sum().item() for weight in weights.values())
        # rows of 16
        assert zeros / sum(weight.numel() for weight in weights.values()) == pytest.approx(
            sparsity, abs=0.03
        )


@pytest.mark.slow
def test_the_search_keeps_the_budget_and_never_ends_above_its_starts(database, fitness):
    sizes = np.array([unit.weights for unit in database.units])
    starts = {
        "uniform": [0.7] * len(sizes),
        "budget": search.solve_budget(database.divergence, sizes.tolist(), 0.7),
    }
    found = search.search(database, fitness, starts, offspring=6)
    assert found == search.search(database, fitness, starts, offspring=6)
    assert found[-1].name == "evolved" and found[-1].kl <= min(one.kl for one in found[:-1])
    for one in found:
        assert np.dot(one.sparsities, sizes) / sizes.sum() == pytest.approx(0.7, abs=1e-9)


@pytest.mark.slow
def test_the_driver_keeps_its_database_and_its_winner_is_the_best_on_held_out_clips(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(measured, "OFFSPRING", 3)
    config = Config.model_validate(
        {
            "pruning": {
                "method": "alps",
                "sparsity": 0.7,
                "allocation": "measured",
                "calibration": {"windows": "single"},
            }
        }
    )
    every, clips = whisper.blocks(model), tiny.make_clips(8)
    labels = calibration_text.Labels(clips, [[5, 6 + index] for index in range(8)], {}, None)
    starts = {"uniform": [0.7] * 4, "owl": [0.65, 0.75, 0.7, 0.7]}
    first = measured.allocate(
        config, Whisper(model, tiny.make_processor()), every, labels, starts, tmp_path
    )
    monkeypatch.setattr(search, "build", None)  # a second build would fail
    again = measured.allocate(
        config, Whisper(model, tiny.make_processor()), every, labels, starts, tmp_path
    )
    assert first.sparsities == again.sparsities and first.seconds_database == again.seconds_database
    table = first.candidates.set_index("name").held_out_kl
    assert table[first.winner] == table.min() and set(table.index) == {
        "uniform",
        "owl",
        "budget",
        "evolved",
    }
    other = replace(labels, tokens=[[8, 9]] * 8)
    assert measured.key_of(config, model, every, other) != measured.key_of(
        config, model, every, labels
    )


def test_clips_that_judge_never_measure():
    labels = calibration_text.Labels(tiny.make_clips(9), [[index] for index in range(9)], {}, None)
    measuring, judging = labels.hold_out(measured.JUDGE_EVERY)
    assert [tokens[0] for tokens in judging.tokens] == [3, 7]
    assert not {clip.id for clip in measuring.clips} & {clip.id for clip in judging.clips}


def test_heuristics_keep_the_budget_below_the_last_level(model):
    every = whisper.blocks(model)
    units, wanted = search.units(every), [1.0, 0.9, 0.8, 0.7]
    sizes = [unit.weights for unit in units]
    mean = sum(value * block.weight_count for value, block in zip(wanted, every)) / sum(sizes)
    found = measured.per_unit(units, every, wanted, mean)
    assert max(found) <= search.LEVELS[-1] and np.dot(found, sizes) / sum(sizes) == pytest.approx(
        mean, abs=1e-9
    )
