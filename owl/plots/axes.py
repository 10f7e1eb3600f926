"""What the figures share: style, colours, the block axis with its gap between encoder and decoder,
and labels beside lines.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, NullFormatter

# Okabe and Ito's blue and vermilion: told apart with any colour vision
ENCODER, DECODER = ("#0072B2", "#D55E00")
PRUNED = "#6A3D9A"  # the pruned model, beside the dense one in grey
REFERENCE = "#8A949E"  # the dense baseline, the uniform allocation, thresholds
CATEGORIES = (PRUNED, "#009E73", "#CC79A7", "#1C2430", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v")
GAP = 1  # empty positions between the last encoder and the first decoder block
MOST_TICKS = 12  # labels per side before they are thinned out
FEW_BLOCKS = 12  # up to here values are written beside their marks


def use_style() -> None:
    """Load the figures' style for the rest of the session."""
    plt.style.use(Path(__file__).with_name("owl.mplstyle"))


def percent() -> FuncFormatter:
    """Tick labels in percent, without needless digits, for an axis of fractions."""
    return FuncFormatter(lambda value, _: f"{100 * value:.4g} %")


def side_color(block: str) -> str:
    """The colour of an encoder or a decoder block."""
    return ENCODER if block.startswith("encoder") else DECODER


def block_positions(blocks: Iterable[str]) -> dict[str, int]:
    """x of every distinct block name ("encoder.0", …): encoder first, each side by its index, GAP
    positions between the sides.
    """
    ordered = sorted(
        set(blocks),
        key=lambda block: (not block.startswith("encoder"), int(block.rpartition(".")[2])),
    )
    encoder = sum(block.startswith("encoder") for block in ordered)
    gap = GAP if 0 < encoder < len(ordered) else 0
    return {block: index + (gap if index >= encoder else 0) for index, block in enumerate(ordered)}


def sides(positions: dict[str, int]) -> list[tuple[str, list[str]]]:
    """[("encoder", its blocks), ("decoder", its blocks)], a side without blocks left out."""
    both = [
        (side, [block for block in positions if block.startswith(side)])
        for side in ("encoder", "decoder")
    ]
    return [(side, blocks) for side, blocks in both if blocks]


def block_axis(ax: Axes, positions: dict[str, int], labels: bool = True) -> None:
    """Make x the block axis: block numbers as ticks, thinned out when many, and each side's name
    below in its colour.
    """
    ticks, names = [], []
    for side, blocks in sides(positions):
        step = next(
            step for step in (1, 2, 4, 8, 16, 32) if len(blocks) / step <= MOST_TICKS or step == 32
        )
        shown = blocks[::step]
        ticks += [positions[block] for block in shown]
        names += [block.rpartition(".")[2] for block in shown]
        if labels:
            middle = (positions[blocks[0]] + positions[blocks[-1]]) / 2
            below = {
                "xycoords": ("data", "axes fraction"),
                "xytext": (0, -22),
                "textcoords": "offset points",
            }
            ax.annotate(
                f"{side} block", (middle, 0), **below, ha="center", va="top", color=side_color(side)
            )
    ax.set_xticks(ticks, names if labels else [""] * len(ticks))
    ax.tick_params(axis="x", length=0, labelbottom=labels)
    ax.set_xlim(-0.7, max(positions.values(), default=0) + 0.7)


def label_right(ax: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write (y in data units, text, colour) right of the axes, moved apart where they overlap. Call
    when the y axis is final.
    """
    to_fraction = ax.transData + ax.transAxes.inverted()
    x = ax.get_xlim()[0]
    heights = [to_fraction.transform((x, y))[1] for y, _, _ in labels]
    step = 1.3 * plt.rcParams["font.size"] / 72 * ax.figure.dpi / ax.get_window_extent().height
    order = sorted(range(len(labels)), key=lambda i: heights[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(heights[i], placed[-1] + step) if placed else heights[i])
    overflow = max(0.0, placed[-1] - max(1.0, max(heights))) if placed else 0.0
    for i, height in zip(order, placed):
        _, text, color = labels[i]
        ax.text(1.01, height - overflow, text, transform=ax.transAxes, va="center", color=color)


def label_points(
    ax: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], colors: Sequence[str]
) -> None:
    """Write each text beside its point (data units), moved up or down past points and other texts,
    then with a thin line to its point.

    Call when the axes are final.
    """
    size, to_points, frame = plt.rcParams["font.size"], 72 / ax.figure.dpi, ax.get_window_extent()
    places = [tuple((ax.transData.transform(point) * to_points).tolist()) for point in points]
    taken = [(x - 4, x + 4, y - 4, y + 4) for x, y in places]
    low, high, right = (float(bound) * to_points for bound in (frame.y0, frame.y1, frame.x1))
    for (x, y), point, text, color in sorted(zip(places, points, texts, colors)):
        width = 0.6 * size * len(text)
        start = x + 7 if x + 7 + width < right else x - 7 - width
        moves = sorted((0.7 * size * step for step in range(-30, 31)), key=abs)
        boxes = {
            move: (start, start + width, y + move - 0.6 * size, y + move + 0.6 * size)
            for move in moves
        }
        inside = [move for move, box in boxes.items() if low < box[2] and box[3] < high] or moves
        free = [move for move in inside if not any(_overlap(boxes[move], other) for other in taken)]
        best = (free or inside)[0]
        taken.append(boxes[best])
        line = (
            {"arrowprops": {"arrowstyle": "-", "linewidth": 0.5, "color": color, "shrinkB": 3}}
            if best
            else {}
        )
        options = {
            "xytext": (start - x, best),
            "textcoords": "offset points",
            "va": "center",
            "color": color,
        }
        ax.annotate(text, point, **options, **line)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Do two boxes (left, right, bottom, top) share an area?"""
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def log_percent(axis: Axis, low: float, high: float) -> None:
    """Percent on a logarithmic axis of fractions from `low` to `high`; inside one decade minor
    ticks are labelled.
    """
    axis.set_major_formatter(percent())
    axis.set_minor_formatter(percent() if high < 10 * low else NullFormatter())


def literal(text: str) -> str:
    """`text` safe from matplotlib's math mode, for names that come from users."""
    return text.replace("$", r"\$")
