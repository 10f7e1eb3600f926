"""A whole Whisper rounded onto a format's grid: block by block, each linear on the inputs that the
rounded ones before it make, then the token embedding. `owl.kernels.rounding` decides how one weight
is rounded.

The embedding's rows have a mean that is many times what tells them apart (OpenAI's tiny.en: 0.83 of
their energy), and it would decide the scales. It is not needed there: a constant row added to all
token rows adds the same number to all logits of a position, which no softmax sees, and what a
decoder reads is a token's row plus a position's. So it moves to the positions, which no format
rounds, and the file computes the same.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from owl.errors import UnsupportedFormat
from owl.kernels.rounding import DAMPING, grid_of, round_weight
from owl.model.whisper import Whisper, blocks
from owl.prune.calibration import Batch, walk
from owl.prune.calibration_text import calibration_batches, saved_labels
from owl.prune.weights import Shared
from owl.run.experiment import calibration_set
from owl.run.record import Run

READ = 3.0  # what the embedding's rows count as inputs beside the states they are scored with


def calibrated(run: Run, asr: Whisper, grid: str) -> Whisper:
    """A copy of the pruned model on the grid `grid` of a format, by the run's calibration clips.
    UnsupportedFormat where the grid cannot hold a linear's rows.
    """
    copied = asr._replace(model=copy.deepcopy(asr.model).float())
    saved = run.read("calibration", made_by="01_outlier_analysis")["clips"]
    labels = saved_labels(calibration_set(run.config), saved)
    round_model(copied.model, calibration_batches(run.config, copied, labels), grid)
    return copied


def round_model(model, batches: Sequence[Batch], grid: str) -> None:
    """Round all linears of the blocks and the token embedding in place to `grid`, one of
    `owl.kernels.rounding.GRIDS`; zeros of linears stay zero, the mean token row moves to the
    positions. `batches` are consumed. Before anything is rounded: ValueError for an unknown grid,
    UnsupportedFormat where it cannot hold a linear's rows.
    """
    every = blocks(model)
    linears = [linear for block in every for linear in block.linears]
    grid_of(grid, 0)
    try:
        for linear in linears:
            grid_of(grid, linear.module.in_features)
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
            weight.copy_(round_weight(weight, gram, grid, factor=factor.cpu()))
            bar.update()
    bar.close()
    scored = _scored(model, batches)
    centre(model)
    rows = model.model.decoder.embed_tokens.weight.data
    rows.copy_(round_weight(rows, scored, grid, damping=READ))


@torch.inference_mode()
def centre(model) -> None:
    """Move the mean of the token rows to the decoder's positions: what is predicted stays the
    same, logits but for one number a position.
    """
    decoder = model.model.decoder
    mean = decoder.embed_tokens.weight.mean(0)
    decoder.embed_tokens.weight -= mean
    decoder.embed_positions.weight += mean


@torch.inference_mode()
def _scored(model, batches: Sequence[Batch]) -> Tensor:
    """Gram matrix of the states behind the last block that logits are made of, (d, d)."""
    norm = model.model.decoder.layer_norm
    states = torch.cat([norm(batch.text)[batch.text_rows].cpu().double() for batch in batches])
    return states.T @ states
