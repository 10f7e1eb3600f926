"""Figures against the tables they are drawn from: heights, positions, offsets and labels of the
artists, never pixels.

Only behaviour: the style, thinned-out labels, limits (zeros, one side only, one block) and names
with special characters.
"""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_hex, to_rgba
from matplotlib.text import Text

from owl import plots
from owl.plots.axes import block_positions

SMALL = [f"encoder.{i}" for i in range(4)] + [f"decoder.{i}" for i in range(4)]
LARGE = [f"encoder.{i}" for i in range(32)] + [f"decoder.{i}" for i in range(32)]
X = [0, 1, 2, 3, 5, 6, 7, 8]  # of SMALL: one empty place between the sides


@pytest.fixture(autouse=True)
def styled():
    with plt.style.context("default"):
        plots.use_style()
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots(figsize=(10, 4))[1]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def points(ax, index=0):
    return [c for c in ax.collections if isinstance(c, PathCollection)][index].get_offsets()


def house(blocks, target=0.5):
    axes = plt.subplots(2, 1, figsize=(10, 5.5), sharex=True)[1]
    ratios = np.linspace(0.01, 0.03, len(blocks))
    table = pd.DataFrame(
        {"block": blocks, "outlier_ratio": ratios, "sparsity": np.linspace(0.58, 0.42, len(blocks))}
    )
    assert plots.layer_allocation(table, axes, target=target) is axes
    return table, axes


def test_the_style_leaves_the_left_and_bottom_axes(ax):
    assert {side for side, spine in ax.spines.items() if spine.get_visible()} == {"left", "bottom"}


def test_blocks_are_ordered_encoder_first_and_by_number():
    assert block_positions(["decoder.1", "encoder.10", "encoder.2"]) == {
        "encoder.2": 0,
        "encoder.10": 1,
        "decoder.1": 3,
    }
    assert block_positions(["decoder.0", "decoder.1"]) == {"decoder.0": 0, "decoder.1": 1}


def test_the_house_figure_draws_ratios_as_bars_and_sparsities_as_points():
    table, (upper, lower) = house(SMALL)
    assert [bar.get_height() for bar in upper.patches] == pytest.approx(
        table.outlier_ratio.tolist()
    )
    assert [bar.get_x() + bar.get_width() / 2 for bar in upper.patches] == pytest.approx(X)
    assert {to_hex(bar.get_facecolor()) for bar in upper.patches[:4]} == {plots.ENCODER.lower()}
    assert {to_hex(bar.get_facecolor()) for bar in upper.patches[4:]} == {plots.DECODER.lower()}
    np.testing.assert_allclose(points(lower), np.stack([X, table.sparsity], 1))


def test_the_house_figure_draws_the_uniform_allocation_thin_and_grey():
    _, (_, lower) = house(SMALL, target=0.45)
    [line] = lower.lines
    assert (
        list(line.get_ydata()) == [0.45, 0.45]
        and line.get_color() == plots.REFERENCE
        and line.get_linewidth() < 1
    )
    assert "uniform\n45 %" in texts(lower)


def test_the_house_figure_writes_values_for_few_blocks_only():
    _, (upper, lower) = house(SMALL)
    assert texts(upper)[0] == "1.00 %" and "58.0 %" in texts(lower)
    _, (upper, lower) = house(LARGE)
    assert texts(upper) == [] and texts(lower) == [
        "encoder block",
        "decoder block",
        "uniform\n50 %",
    ]


def test_block_labels_are_thinned_out_for_a_large_model():
    _, (_, lower) = house(LARGE)
    labels = [label.get_text() for label in lower.get_xticklabels()]
    assert labels == [str(i) for i in range(0, 32, 4)] * 2
    assert list(lower.get_xticks()[:2]) == [0, 4] and lower.get_xticks()[8] == 33
    _, (_, lower) = house(SMALL)
    assert [label.get_text() for label in lower.get_xticklabels()] == ["0", "1", "2", "3"] * 2


def test_the_score_distribution_draws_the_threshold_and_the_medians(ax):
    levels = {
        "q01": 0.0,
        "q05": 0.1,
        "q25": 0.3,
        "q50": 0.6,
        "q75": 1.2,
        "q95": 3.0,
        "q99": 5.5,
        "q999": 12.0,
        "max": 80.0,
    }
    assert (
        plots.score_distribution(pd.DataFrame({"block": SMALL, **levels}), ax=ax, multiple=5) is ax
    )
    assert [line.get_ydata()[0] for line in ax.lines] == [1, 5]
    np.testing.assert_allclose(points(ax), np.stack([X, [0.6] * 8], 1))
    np.testing.assert_allclose(points(ax, 2)[:, 1], 80)
    # a quantile of zero is cut, not lost
    assert ax.get_yscale() == "log" and 0 < ax.get_ylim()[0] < 1e-3
    assert {"M = 5", "mean", "median", "maximum", "99.9 %"} <= set(texts(ax))


def test_the_sensitivity_figure_has_a_line_per_multiple_and_side(ax):
    table = pd.DataFrame(
        [{"multiple": m, "block": b, "outlier_ratio": 0.1 / m} for m in (3, 5) for b in SMALL]
    )
    assert plots.outlier_sensitivity(table, ax=ax) is ax
    assert [list(line.get_xdata()) for line in ax.lines[:2]] == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert [line.get_ydata()[0] for line in ax.lines] == pytest.approx(
        [0.1 / 3] * 2 + [0.1 / 5] * 2
    )
    assert ax.get_yscale() == "log" and {"M = 3", "M = 5"} <= set(texts(ax))


def test_outlier_ratios_of_zero_stay_on_the_sensitivity_figure(ax):
    table = pd.DataFrame({"multiple": 10, "block": SMALL, "outlier_ratio": [0, 0.01] * 4})
    plots.outlier_sensitivity(table, ax=ax)
    assert ax.get_yscale() == "symlog" and ax.get_ylim()[0] < 0


def test_allocations_are_lines_with_uniform_thin_and_grey(ax):
    two = {"owl": 0.6, "uniform": 0.5}
    table = pd.DataFrame(
        [{"block": b, "allocation": a, "sparsity": s} for a, s in two.items() for b in SMALL]
    )
    assert plots.allocations(table, ax=ax) is ax
    by_color = {line.get_color(): line for line in ax.lines}
    assert (
        list(by_color[plots.REFERENCE].get_ydata()) == [0.5] * 4
        and by_color[plots.REFERENCE].get_linewidth() < 1
    )
    assert {"uniform", "owl"} <= set(texts(ax)) and len(ax.lines) == 4


def test_a_target_stands_in_for_a_missing_uniform_allocation(ax):
    table = pd.DataFrame({"block": SMALL, "allocation": "λ = 0.08", "sparsity": 0.6})
    plots.allocations(table, ax=ax, target=0.5)
    assert [line.get_ydata()[0] for line in ax.lines] == [0.5, 0.5, 0.6, 0.6]
    assert "uniform" in texts(ax)


def test_labels_beside_lines_do_not_overlap(ax):
    table = pd.DataFrame(
        [
            {"block": b, "allocation": f"a{i}", "sparsity": 0.6 + i / 1e6}
            for i in range(4)
            for b in SMALL
        ]
    )
    plots.allocations(table, ax=ax)
    heights = sorted(text.get_position()[1] for text in ax.texts if text.get_text().startswith("a"))
    line = plt.rcParams["font.size"] / 72 * ax.figure.dpi / ax.get_window_extent().height
    assert min(np.diff(heights)) >= line


@pytest.mark.parametrize("value", ["outlier_ratio", "sparsity"])
def test_seed_stability_has_a_dot_per_seed_and_block(ax, value):
    table = pd.DataFrame(
        [{"seed": s, "block": b, value: 0.1 + s / 100} for s in range(3) for b in SMALL]
    )
    assert plots.seed_stability(table, ax=ax) is ax
    dots = points(ax)
    assert dots[:, 1].tolist() == pytest.approx(table[value].tolist())
    assert np.round(dots[:, 0]).tolist() == X * 3
    [ranges] = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert all(np.allclose(segment[:, 1], [0.1, 0.12]) for segment in ranges.get_segments())
    assert "3 seeds" in texts(ax)[-1]


def errors(blocks):
    encoder, decoder = (
        ("fc1", "self_attn.q_proj"),
        ("fc1", "encoder_attn.k_proj", "self_attn.q_proj"),
    )
    rows = [
        (block, kind)
        for block in blocks
        for kind in (encoder if block.startswith("encoder") else decoder)
    ]
    values = np.linspace(0.01, 0.5, len(rows))
    return pd.DataFrame(
        {"linear": [f"{b}.{k}" for b, k in rows], "block": [b for b, _ in rows], "error": values}
    )


def test_linear_errors_fill_block_by_kind(ax):
    table = errors(SMALL)
    assert plots.linear_errors(table, ax=ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "self_attn.q_proj",
        "encoder_attn.k_proj",
        "fc1",
    ]
    [mesh] = [c for c in ax.collections if isinstance(c, QuadMesh)]
    grid = np.ma.asarray(mesh.get_array()).reshape(3, 9)
    assert grid.mask[1, :5].all() and grid.mask[:, 4].all() and grid.count() == len(table)
    assert grid[2, 0] == 0.01 and grid[0, 8] == 0.5
    assert "1 %" in texts(ax) and "50 %" in texts(ax)


def test_a_single_linear_fills_a_cell_of_width_and_height_one(ax):
    plots.linear_errors(
        pd.DataFrame({"linear": ["encoder.3.fc1"], "block": ["encoder.3"], "error": [0.1]}), ax=ax
    )
    [mesh] = [c for c in ax.collections if isinstance(c, QuadMesh)]
    assert mesh.get_coordinates()[[0, 1], [0, 1]].tolist() == [[-0.5, -0.5], [0.5, 0.5]]


def test_sparsity_zero_keeps_the_house_figure_near_zero():
    axes = plt.subplots(2, 1, sharex=True)[1]
    plots.layer_allocation(
        pd.DataFrame({"block": SMALL, "outlier_ratio": 0.01, "sparsity": 0.0}), axes, target=0
    )
    assert -0.01 < axes[1].get_ylim()[0] < 0 < axes[1].get_ylim()[1] < 0.1


def test_linear_errors_of_a_large_model_have_no_numbers_in_the_cells(ax):
    plots.linear_errors(errors(LARGE), ax=ax)
    assert texts(ax) == ["encoder block", "decoder block"]


def test_linear_errors_of_a_model_that_was_not_pruned_stay_blank(ax):
    plots.linear_errors(errors(SMALL).assign(error=0.0), ax=ax)
    assert texts(ax) == ["encoder block", "decoder block"]
    ax.figure.canvas.draw()


def test_at_equal_bytes_each_number_of_bits_is_a_line_through_its_sparsities(ax):
    table = pd.DataFrame(
        {
            "bits": [8, 8, 4, 4],
            "sparsity": [0.0, 0.5, 0.0, 0.5],
            "ratio": [0.5, 0.4, 0.3, 0.25],
            "kl": [0.001, 0.3, 0.1, 0.5],
        }
    ).assign(kl_low=lambda rows: rows.kl / 2, kl_high=lambda rows: rows.kl * 2)
    assert plots.equal_bytes(table, ax) is ax
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.25, 0.3], [0.4, 0.5]]
    assert [line.get_label() for line in ax.lines] == ["4 bits", "8 bits"]
    assert sorted(text.get_text() for text in ax.texts) == ["0%", "0%", "50%", "50%"]
    assert ax.get_yscale() == "log"


def test_what_others_offer_is_a_step_line_that_ends_at_the_axis(ax):
    table = pd.DataFrame(
        {
            "format": ["dense a", "dense b", "ours"],
            "dense": [True, True, False],
            "bytes": [4e6, 2e6, 1e6],
            "wer": [0.1, 0.2, 0.15],
        }
    ).assign(low=lambda rows: rows.wer / 2, high=lambda rows: rows.wer * 2)
    plots.size_against_wer(table, ax=ax, steps=[(2_000_000, 0.2), (4_000_000, 0.1)])
    (line,) = ax.lines
    assert list(line.get_xdata()) == [2, 4, pytest.approx(4.6)]
    assert list(line.get_ydata()) == [0.2, 0.1, 0.1]


def test_damage_is_a_bar_per_kind_and_per_block_by_what_a_million_weights_cost():
    kinds = ["encoder feed-forward", "decoder self-attention"]
    table = pd.DataFrame(
        {
            "part": [*kinds, *SMALL],
            "of": ["kind"] * 2 + ["block"] * 8,
            "kl": [0.2, 0.3, *np.linspace(0.1, 0.8, 8)],
            "share": [0.6, 0.4] + [0.125] * 8,
            "removed": [2_000_000, 1_000_000] + [500_000] * 8,
        }
    ).assign(low=lambda rows: rows.kl / 2, high=lambda rows: rows.kl * 2)
    axes = plt.subplots(1, 2)[1]
    assert plots.damage(table, axes) is axes
    left, right = axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.1, 0.3])
    assert [label.get_text() for label in left.get_yticklabels()] == kinds
    assert texts(left)[0] == "KL 0.2, 60 % of the weights"
    heights = [bar.get_height() for bar in right.patches]
    assert heights == pytest.approx(list(2 * np.linspace(0.1, 0.8, 8)))
    assert [bar.get_x() + bar.get_width() / 2 for bar in right.patches] == pytest.approx(X)
    (lines,) = right.collections
    ends = [[tuple(end) for end in line] for line in lines.get_segments()]
    assert ends[0] == [(0, pytest.approx(0.1)), (0, pytest.approx(0.4))]
    for ax in axes:
        assert to_hex(ax.patches[0].get_facecolor()) == plots.ENCODER.lower()
        assert to_hex(ax.patches[-1].get_facecolor()) == plots.DECODER.lower()


@pytest.mark.parametrize("blocks", [SMALL[:4], SMALL[4:], ["encoder.0"]])
def test_models_with_one_side_or_one_block_are_drawn(blocks):
    house(blocks)
    ax = plt.subplots()[1]
    plots.linear_errors(errors(blocks), ax=ax)
    plots.allocations(
        pd.DataFrame({"block": blocks, "allocation": "uniform", "sparsity": 0.5}),
        ax=plt.subplots()[1],
    )
    assert sum(text.endswith("block") for text in texts(ax)) == 1
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()


def test_the_weight_distribution_steps_over_the_counts(ax):
    table = pd.DataFrame(
        {
            "bin_left": [-1.0, 0.0],
            "bin_right": [0.0, 1.0],
            "dense": [30.0, 50.0],
            "pruned": [20.0, 5.0],
        }
    )
    assert plots.weight_distribution(table, ax=ax, zeros=55_000) is ax
    *_, pruned, dense = ax.patches
    assert pruned.get_data().values.tolist() == [20, 5] and dense.get_data().values.tolist() == [
        30,
        50,
    ]
    assert (
        dense.get_data().edges.tolist() == [-1, 0, 1]
        and to_hex(dense.get_edgecolor()) == plots.REFERENCE.lower()
    )
    assert ax.get_yscale() == "log" and texts(ax) == ["dense", "pruned, 55,000 zeros left out"]


def test_error_rates_are_points_with_intervals(ax):
    demo = [("demo", "dense", 0.04, 0.03, 0.05), ("demo", "pruned", 0.08, 0.06, 0.1)]
    rows = [*demo, ("$a$", "dense", 0, 0, 0), ("$a$", "pruned", 1.2, 1, 1.4)]
    table = pd.DataFrame(rows, columns=["dataset", "model", "wer", "low", "high"])
    assert plots.wer_comparison(table, ax=ax) is ax
    assert [line.get_xdata()[0] for line in ax.lines] == [0.04, 0.08, 0, 1.2]
    assert [c.get_segments()[0][:, 0].tolist() for c in ax.collections] == [
        [0.03, 0.05],
        [0.06, 0.1],
        [0, 0],
        [1, 1.4],
    ]
    assert ax.lines[0].get_color() == plots.REFERENCE and ax.lines[1].get_color() == plots.PRUNED
    assert texts(ax) == ["dense 4.0 %", "pruned 8.0 %", "dense 0.0 %", "pruned 120.0 %"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["demo", r"\$a\$"]


def test_clips_are_dots_near_their_errors_and_counted(ax):
    table = pd.DataFrame({"dense": [0, 1, 2, 3], "pruned": [2, 1, 1, 5]})
    assert plots.clip_scatter(table, ax=ax) is ax
    dots = points(ax)
    assert np.round(dots).tolist() == [[0, 2], [1, 1], [2, 1], [3, 5]]
    assert texts(ax) == ["4 clips: 2 worse (above), 1 better (below), 1 equal"]
    assert (
        ax.lines[0].get_color() == plots.REFERENCE
        and ax.lines[0].get_xdata().tolist() == ax.lines[0].get_ydata().tolist()
    )
    again = plots.clip_scatter(table, ax=plt.subplots()[1])
    np.testing.assert_array_equal(points(again), dots)


def test_a_looping_clip_makes_the_scatter_logarithmic(ax):
    plots.clip_scatter(pd.DataFrame({"dense": [0, 1], "pruned": [1, 220]}), ax=ax)
    assert ax.get_xscale() == ax.get_yscale() == "symlog" and ax.get_ylim()[1] > 220


def test_sizes_are_bars_in_megabytes_with_their_share_of_dense(ax):
    table = pd.DataFrame(
        {
            "format": ["dense fp16", "hf", "compact"],
            "dense": [True, False, False],
            "bytes": [4_000_000, 4_000_000, 2_240_000],
        }
    )
    assert plots.size_bars(table, ax=ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [4, 4, 2.24]
    assert texts(ax) == ["4 MB", "4 MB (100 % of dense)", "2.24 MB (56 % of dense)"]
    assert ax.patches[0].get_facecolor() == to_rgba(plots.REFERENCE) and ax.patches[
        1
    ].get_facecolor() == to_rgba(plots.PRUNED)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["dense fp16", "hf", "compact"]


@pytest.mark.parametrize(
    ("figure", "column", "scale"),
    [(plots.size_against_wer, "bytes", 1e-6), (plots.speed_against_wer, "rtfx", 1)],
)
def test_formats_are_labelled_points_against_their_error_rate_with_dense_in_grey(
    ax, figure, column, scale
):
    table = pd.DataFrame(
        {
            "format": ["dense fp16", "ct2-int8"],
            "dense": [True, False],
            "bytes": [4e6, 2e6],
            "rtfx": [50.0, 80.0],
            "wer": [0.1, 0.2],
        }
    )
    assert figure(table.assign(low=[0.05, 0.15], high=[0.15, 0.28]), ax=ax) is ax
    (points,) = [one for one in ax.collections if isinstance(one, PathCollection)]
    assert points.get_offsets().tolist() == [
        [value * scale, wer] for value, wer in zip(table[column], table.wer)
    ]
    assert [to_hex(color) for color in points.get_facecolors()] == [
        plots.REFERENCE.lower(),
        plots.PRUNED.lower(),
    ]
    (lines,) = [one for one in ax.collections if isinstance(one, LineCollection)]
    assert [segment[:, 1].tolist() for segment in lines.get_segments()] == [
        [0.05, 0.15],
        [0.15, 0.28],
    ]
    assert {text.get_text() for text in ax.texts} == set(table.format)


def test_labels_of_formats_that_lie_together_do_not_overlap(ax):
    table = pd.DataFrame(
        {
            "format": [f"format {i}" for i in range(6)],
            "dense": False,
            "rtfx": 50.0,
            "wer": 0.1,
            "low": 0.09,
            "high": 0.11,
        }
    )
    plots.speed_against_wer(table, ax=ax)
    # without the line to its point
    boxes = sorted((Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0)
    # pixels: a font's box is a guess
    assert all(below.y1 <= above.y0 + 2 for below, above in zip(boxes, boxes[1:]))
