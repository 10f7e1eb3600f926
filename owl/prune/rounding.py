"""A whole Whisper rounded onto a format's grid: block by block, each linear on the inputs that the
rounded ones before it make, then the token embedding. `owl.kernels.rounding` decides how one weight
is rounded.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from owl.errors import UnsupportedFormat
from owl.kernels.rounding import DAMPING, GRIDS, grid_of, round_weight
from owl.model.whisper import Whisper, blocks
from owl.prune.calibration import Batch, walk
from owl.prune.calibration_text import calibration_batches, saved_labels
from owl.prune.weights import Shared
from owl.run.experiment import calibration_set
from owl.run.record import Run

# the linears' and the embedding's grids, of a format's grid
IN_INT4 = {"linears": "q4_0", "embedding": "int8"}
READ = 3.0  # what the embedding's rows count as inputs beside the states they are scored with


def calibrated(run: Run, asr: Whisper, grid: str) -> Whisper:
    """A copy of the pruned model on the grid `grid` of a format, by the run's calibration clips.
    UnsupportedFormat where the grid cannot hold a linear's rows.
    """
    copied = asr._replace(model=copy.deepcopy(asr.model))
    saved = run.read("calibration", made_by="01_outlier_analysis")["clips"]
    labels = saved_labels(calibration_set(run.config), saved)
    round_model(copied.model, calibration_batches(run.config, copied, labels), grid)
    return copied


def round_model(model, batches: Sequence[Batch], grid: str) -> None:
    """Round all linears of the blocks and the token embedding in place; zeros stay zero. `grid`:
    one of `owl.kernels.rounding.GRIDS`, or "int4" for linears in q4_0 and the embedding in int8.
    `batches` are consumed. Before anything is rounded: ValueError for an unknown grid,
    UnsupportedFormat where it cannot hold a linear's rows.
    """
    if grid not in {*GRIDS, "int4"}:
        raise ValueError(f"unknown grid '{grid}'; choose one of {', '.join(GRIDS)}, int4")
    grids = IN_INT4 if grid == "int4" else {"linears": grid, "embedding": grid}
    every = blocks(model)
    linears = [linear for block in every for linear in block.linears]
    try:
        for linear in linears:
            grid_of(grids["linears"], linear.module.in_features)
    except ValueError as error:
        raise UnsupportedFormat(str(error)) from error
    bar = tqdm(total=len(linears), desc=f"round to {grid}", unit="linear")
    shared = Shared("sparsegpt", DAMPING)  # the same inverse factor
    for block, statistics in walk(
        model, every, batches, gram=True, modified=True, description=None
    ):
        for linear in block.linears:
            gram, factor = shared.of(linear, statistics[linear.name], centred=False)
            weight = linear.module.weight.data
            weight.copy_(round_weight(weight, gram, grids["linears"], factor=factor.cpu()))
            bar.update()
    bar.close()
    rows = model.model.decoder.embed_tokens.weight.data
    rows.copy_(round_weight(rows, _scored(model, batches), grids["embedding"], damping=READ))


@torch.inference_mode()
def _scored(model, batches: Sequence[Batch]) -> Tensor:
    """Gram matrix of the states behind the last block that logits are made of, (d, d)."""
    norm = model.model.decoder.layer_norm
    states = torch.cat([norm(batch.text)[batch.text_rows].cpu().double() for batch in batches])
    return states.T @ states
