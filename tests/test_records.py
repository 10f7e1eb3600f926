"""The tables of solvers and allocations. All of it is behaviour: a new record is enough for a new
solver, and a record says nothing that its code contradicts.
"""

import subprocess
import sys
from pkgutil import resolve_name

import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from owl import plots
from owl.errors import MissedTarget
from owl.kernels.records import ALLOCATIONS, SOLVERS, Solver
from owl.kernels.solvers import prune_weight
from owl.model import whisper
from owl.model.whisper import Whisper
from owl.prune import calibration, weights
from owl.run import cache
from tests import tiny

FUNCTIONS = [one.solve for one in SOLVERS.values()]
FUNCTIONS += [one.prepare for one in SOLVERS.values() if one.prepare]
FUNCTIONS += [one.decide for one in ALLOCATIONS.values() if one.decide]
PER_ROW = lambda rows, columns, block: rows


def first_inputs(dense, gram, factors, target):
    """A toy: the first inputs of every row go."""
    return dense.index_fill(1, torch.arange(int(dense.shape[1] * target.sparsity)), 0)


def record(count=PER_ROW):
    return Solver("toy", "nowhere", "tests.test_records:first_inputs", "#123456", count, "exact")


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(SOLVERS, "toy", record())


def test_one_record_makes_a_solver(toy):
    weight = torch.ones(2, 4)
    pruned = prune_weight(weight, torch.eye(4), method="toy", sparsity=0.5)
    assert pruned.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    rows = prune_tiny()
    assert len(rows) == 32 and {row.sparsity for row in rows} == {0.5}


def test_its_count_is_held(monkeypatch):
    monkeypatch.setitem(SOLVERS, "toy", record(count=lambda rows, columns, block: 0))
    assert prune_tiny(0.5)
    with pytest.raises(MissedTarget, match=r"weights are zero, but .* \(toy, unstructured\)"):
        prune_tiny(0.55)  # of 16 inputs: 8


def prune_tiny(sparsity=0.5):
    model = tiny.make_model()
    every, clips = whisper.blocks(model), tiny.make_clips(4)
    batches = calibration.prepare(
        Whisper(model, tiny.make_processor()),
        clips,
        [[5, 6]] * 4,
        language=None,
        padding="exclude",
        batch_size=4,
    )
    return weights.prune(model, every, batches, weights.spread(every, [sparsity] * 4), method="toy")


def test_figures_know_it(toy):
    table = pd.DataFrame({"method": ["toy", "wanda"], "allocation": ["owl", "uniform"]})
    _, ax = plt.subplots()
    handles = plots.grid_legend(table, ax).get_legend().legend_handles
    assert (handles[0].get_label(), handles[0].get_color()) == ("toy", "#123456")


@pytest.mark.parametrize("table", [SOLVERS, ALLOCATIONS])
def test_every_record_has_its_own_name_and_look(table):
    looks = [getattr(one, "colour", None) or (one.line, one.marker) for one in table.values()]
    assert len(set(looks)) == len(table) and [one.name for one in table.values()] == list(table)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_records_function_is_there_and_part_of_the_keys_of_what_it_makes(function):
    assert callable(resolve_name(function))
    pruning = cache.closure("import owl.prune.guides\nimport owl.prune.weights")
    assert function.partition(":")[0] in pruning


def test_reading_the_tables_needs_no_torch():
    script = "import sys, owl.kernels.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
