"""A whole Whisper rounded onto a format's grid: block by block, each linear on the inputs that the
rounded ones before it make, then the token embedding. `owl.kernels.rounding` decides how one weight
is rounded.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from owl.errors import UnsupportedFormat
from owl.kernels.bitmask import LONG
from owl.kernels.rounding import DAMPING, GRIDS, Grid, grid_of, round_weight, wide_rows
from owl.kernels.solvers import inverse_factor
from owl.model.whisper import Whisper, blocks
from owl.prune.calibration import Batch, walk
from owl.prune.calibration_text import Labels, calibration_batches, saved_labels
from owl.prune.weights import Shared
from owl.run.experiment import calibration_set
from owl.run.record import Run

FEW = {"int5": "q5_0", "int4": "q4_0"}  # the linears' grid, where the embedding has wide rows
READ = 3.0  # what the embedding's rows count as inputs beside the states they are scored with


def calibrated(run: Run, asr: Whisper, grid: str) -> tuple[Whisper, Tensor | None]:
    """(a copy of the pruned model on the grid `grid` of a format, by the run's calibration clips;
    which rows of its embedding are wide, if any). UnsupportedFormat where the grid cannot hold a
    linear's rows.
    """
    copied = asr._replace(model=copy.deepcopy(asr.model))
    saved = run.read("calibration", made_by="01_outlier_analysis")["clips"]
    labels = saved_labels(calibration_set(run.config), saved)
    wide = likely_rows(copied, labels) if grid in FEW else None
    round_model(copied.model, calibration_batches(run.config, copied, labels), grid, wide)
    return copied, wide


def likely_rows(asr: Whisper, labels: Labels) -> Tensor:
    """The embedding's rows that are to be wide, by what the calibration clips' texts say, the
    model's own and the reference where there is one.
    """
    spelled = asr.processor.tokenizer(
        [clip.text for clip in labels.clips if clip.text] or [""], add_special_tokens=False
    )
    config = asr.model.config
    return wide_rows(config.vocab_size, config.eos_token_id, [*labels.tokens, *spelled.input_ids])


def round_model(model, batches: Sequence[Batch], grid: str, wide: Tensor | None = None) -> None:
    """Round all linears of the blocks and the token embedding in place; zeros stay zero. `grid`:
    one of `owl.kernels.rounding.GRIDS`, or "int5", "int4": few bits but for the embedding's rows
    that are `wide`, which have 8. `batches` are consumed. Before anything is rounded: ValueError
    for an unknown grid, UnsupportedFormat where it cannot hold a linear's rows.
    """
    if grid not in {*GRIDS, *FEW}:
        raise ValueError(f"unknown grid '{grid}'; choose one of {', '.join([*GRIDS, *FEW])}")
    every, inside = blocks(model), FEW.get(grid, grid)
    linears = [linear for block in every for linear in block.linears]
    try:
        for linear in linears:
            grid_of(inside, linear.module.in_features)
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
            weight.copy_(round_weight(weight, gram, inside, factor=factor.cpu()))
            bar.update()
    bar.close()
    rows = model.model.decoder.embed_tokens.weight.data
    gram = _scored(model, batches)
    factor = inverse_factor(gram, READ)
    if grid not in FEW:
        rows.copy_(round_weight(rows, gram, grid, factor=factor))
        return
    narrow = GRIDS[inside]
    narrow = Grid(narrow.low, narrow.high, math.gcd(rows.shape[1], LONG))
    for chosen, form in ((wide, GRIDS["int8"]), (~wide, narrow)):
        rows[chosen] = round_weight(rows[chosen], gram, form, factor=factor)


@torch.inference_mode()
def _scored(model, batches: Sequence[Batch]) -> Tensor:
    """Gram matrix of the states behind the last block that logits are made of, (d, d)."""
    norm = model.model.decoder.layer_norm
    states = torch.cat([norm(batch.text)[batch.text_rows].cpu().double() for batch in batches])
    return states.T @ states
