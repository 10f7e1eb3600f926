"""Which solvers and allocations there are, one record each: all that figures, exports, cost
estimates and configs know of them.

Nothing of torch is imported, since configs are read without it. A record therefore says where its
function is ("module:function", as `pkgutil.resolve_name` reads it). A new solver or allocation is
its function in `owl.kernels.solvers` or `owl.kernels.allocation`, and one record here.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Solver:
    """What decides mask and kept values inside one linear.

    `solve`: (weight (out, in), Gram matrix (in, in), factors, target) → the pruned weight, all in
    float64, the target an `owl.kernels.solvers.Target`. `prepare`: (Gram matrix, damping) →
    factors, where a part of the work depends on the inputs alone; None: the solver leaves kept
    weights as they are and needs of the Gram matrix the diagonal only. `count`: (rows, columns,
    columns per block) → by how many weights the zeros may differ from sparsity × weights.
    """

    name: str
    source: str  # the paper, as a model card cites it
    solve: str
    colour: str  # in figures
    count: Callable[[int, int, int], int]
    counts: str  # `count` in words
    prepare: str | None = None
    # multiplications of an n × rows linear, in (n³ + rows · n²), as many as its time was worth on
    # OpenAI's tiny.en
    work: float = 10
    slow: bool = False  # beside the other solvers

    @property
    def updates(self) -> bool:
        """Does it change kept weights to make up for pruned ones?"""
        return self.prepare is not None


@dataclass(frozen=True)
class Allocation:
    """What decides how sparse each part of the model gets, all parts together meeting the target.

    `level`: what gets a sparsity of its own, a "block", a "linear", or a "unit" of linears whose
    effect is measured. For blocks `decide`: (`guide` of each block, weight counts, sparsity, width)
    → sparsities, `guide` being a field of `owl.prune.guides.Guides` and `width` half of how far the
    sparsities may be apart (None: the caller's λ).
    """

    name: str
    source: str  # empty: nothing to cite
    line: str | tuple  # style in figures, as matplotlib names it
    marker: str
    guide: str = ""
    decide: str = ""
    width: float | None = None
    level: str = "block"
    listens: bool = False  # needs passes through the model that only it makes
    slow: bool = False


SOLVERS = {
    one.name: one
    for one in (
        Solver(
            "magnitude",
            "magnitude pruning (Han et al., arXiv 1506.02626)",
            "owl.kernels.solvers:magnitude",
            "#999999",
            count=lambda rows, columns, block: 1,
            counts="at most one weight more per matrix",
        ),
        Solver(
            "wanda",
            "Wanda (Sun et al., arXiv 2306.11695)",
            "owl.kernels.solvers:wanda",
            "#E69F00",
            count=lambda rows, columns, block: rows,
            counts="rounded down in every row",
        ),
        Solver(
            "sparsegpt",
            "SparseGPT (Frantar and Alistarh, arXiv 2301.00774)",
            "owl.kernels.solvers:sparsegpt",
            "#0072B2",
            count=lambda rows, columns, block: -(-columns // block),
            counts="at most one weight more per 128 columns",
            prepare="owl.kernels.solvers:inverse_factor",
            work=20,
        ),
        Solver(
            "alps",
            "ALPS (Meng et al., arXiv 2406.07831)",
            "owl.kernels.solvers:fixed_count",
            "#009E73",
            count=lambda rows, columns, block: 1,
            counts="within one weight per matrix",
            prepare="owl.kernels.alps:decompose",
            work=150,
            slow=True,
        ),
    )
}

ALLOCATIONS = {
    one.name: one
    for one in (
        Allocation("uniform", "", "-", "o", "outlier_ratios", "owl.kernels.allocation:uniform"),
        Allocation(
            "owl",
            "Outlier Weighed Layerwise sparsity (Yin et al., arXiv 2310.05175)",
            "--",
            "s",
            "outlier_ratios",
            "owl.kernels.allocation:owl",
        ),
        Allocation(
            "owl-equal",
            "Outlier Weighed Layerwise sparsity as published (Yin et al., arXiv 2310.05175)",
            (0, (1, 1)),
            "v",
            "outlier_ratios",
            "owl.kernels.allocation:owl_equal",
        ),
        Allocation(
            "dlp",
            "Dynamic Layerwise Pruning (Chen et al., arXiv 2505.23807)",
            (0, (5, 1, 1, 1)),
            "^",
            "medians",
            "owl.kernels.allocation:dlp",
            width=0.15,  # α of the paper
        ),
        Allocation(
            "alpha",
            "AlphaPruning (Lu et al., arXiv 2410.10912)",
            "-.",
            "D",
            "exponents",
            "owl.kernels.allocation:alpha",
            width=0.3,  # τ of the paper: before scaling, sparsities lie in [1 − τ, 1 + τ]
        ),
        Allocation("median", "", (0, (3, 2, 1, 2)), "P", level="linear"),
        Allocation(
            "fisher",
            "optimal brain damage with the Fisher information (LeCun et al., 1989; K-FAC, "
            "arXiv 1503.05671)",
            (0, (5, 2)),
            "X",
            level="linear",
            listens=True,
        ),
        Allocation(
            "measured",
            "measured allocation (unit-wise divergence and budget; EvoPress, arXiv 2410.14649, "
            "for the search)",
            ":",
            "*",
            level="unit",
            listens=True,
            slow=True,
        ),
    )
}
