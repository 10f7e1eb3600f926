"""Against a reference: gguf's own rounding and the compact file, which must find the same values
again; brute force over all levels of small weights. Behaviour only: zeros, bad input.
"""

import itertools

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from owl.kernels import bitmask
from owl.kernels.gram import damped, energy
from owl.kernels.rounding import GRIDS, round_weight

BLOCKS = ("q8_0", "q5_0", "q4_0")


def plain(weight: torch.Tensor, grid: str) -> torch.Tensor:
    """What a format's writer makes of a weight, read back."""
    if grid == "int8":
        one = bitmask.describe("weight", weight, 8)
        flat = bitmask.unpack(one, bitmask.pack(one, weight))
        return torch.from_numpy(flat).view(weight.shape).float()
    kind = GGMLQuantizationType[grid.upper()]
    return torch.from_numpy(quants.dequantize(quants.quantize(weight.numpy(), kind), kind))


@pytest.fixture
def layer():
    """Weight (48, 192) and inputs (300, 192) that go together, as a real linear's do."""
    generator = torch.Generator().manual_seed(5)
    mixed = torch.randn(192, 192, generator=generator) / 8 + torch.eye(192)
    inputs = torch.randn(300, 192, generator=generator) @ mixed
    return torch.randn(48, 192, generator=generator) / 10, inputs.T @ inputs


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.95])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_writer_that_rounds_plainly_finds_the_same_values_again(layer, grid, sparsity):
    """So does one that rounds a float16 copy first, as whisper.cpp's tools do."""
    weight, gram = layer
    weight = weight * (
        torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) >= sparsity
    )
    weight[3, :64] = 0  # blocks without a weight
    rounded = round_weight(weight, gram, grid)
    exact = rounded.half().float() if grid == "int8" else rounded  # compact restores float16
    assert torch.equal(plain(rounded, grid), exact)
    if grid != "q8_0":  # its scale, a 127th, may round otherwise
        assert torch.equal(plain(rounded.half().float(), grid), exact)
    assert torch.equal(rounded == 0, rounded.view(torch.int32) == 0)  # no negative zeros
    assert (rounded[weight == 0] == 0).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_error_is_below_plain_roundings(layer, grid):
    weight, gram = layer
    errors = [
        energy((weight - found).double(), gram.double())
        for found in (round_weight(weight, gram, grid), plain(weight, grid))
    ]
    # plain rounding is the same for inputs of any kind; int8's scale is of a row: less to win
    assert errors[0] < 0.6 * errors[1]


def test_two_weights_are_rounded_as_the_best_of_all_levels():
    """One weight carries the block's scale, two others see nearly the same input: brute force over
    their levels, at the scale that was chosen.
    """
    generator = torch.Generator().manual_seed(7)
    weight = torch.zeros(20, 32)
    weight[:, 0] = 1.0
    weight[:, 1:3] = torch.rand(20, 2, generator=generator) - 0.5
    same = torch.randn(100, 1, generator=generator)
    inputs = torch.randn(100, 32, generator=generator)
    inputs[:, 1:3] = same + 0.05 * inputs[:, 1:3]
    gram = (inputs.T @ inputs).double()
    seen = damped(gram, 0.1)
    found = round_weight(weight, gram, "q4_0")
    scales, nearly = found[:, 0] / -8, []
    for row, scale, ours in zip(weight.double(), scales.double(), found.double()):
        errors = []
        for levels in itertools.product(range(-8, 8), repeat=2):
            tried = ours.clone()
            tried[1:3] = torch.tensor(levels) * scale
            errors.append(energy((row - tried)[None], seen))
        mine = energy((row - ours)[None], seen)
        independent = ours.clone()
        independent[1:3] = (row[1:3] / scale).round().clamp(-8, 7) * scale
        assert mine <= energy((row - independent)[None], seen) + 1e-9
        nearly.append(mine <= 1.0001 * min(errors))
    # one weight after the other: the first one is not looked at again
    assert np.mean(nearly) >= 0.8


def test_without_correlated_inputs_every_weight_goes_to_its_nearest_level(layer):
    weight, _ = layer
    rounded = round_weight(weight, torch.eye(192), "q5_0").unflatten(1, (-1, 32))
    blocks = weight.unflatten(1, (-1, 32))
    largest = blocks.abs().max(-1, keepdim=True).indices
    scale = rounded.gather(-1, largest) / -16
    wanted = ((blocks / scale).round().clamp(-16, 15) * scale).scatter(-1, largest, -16 * scale)
    assert torch.equal(rounded, wanted)


def test_dtype_device_and_the_weight_given_stay(layer):
    weight, gram = layer
    before = weight.half()
    rounded = round_weight(before, gram, "q4_0")
    assert rounded.dtype == torch.float16
    assert torch.equal(before, weight.half())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"grid": "q3_0"}, "unknown grid 'q3_0'; choose one of int8, q8_0, q5_0, q4_0"),
        ({"weight": torch.ones(2, 40), "gram": torch.eye(40)}, "q4_0 packs rows by 32 weights"),
        ({"gram": torch.eye(40)}, r"needs a Gram matrix \(64, 64\), not \(40, 40\)"),
        ({"weight": torch.full((2, 64), torch.nan)}, "must be finite"),
    ],
)
def test_bad_input_is_one_clear_error(change, reason):
    given = {"weight": torch.ones(2, 64), "gram": torch.eye(64), "grid": "q4_0"} | change
    with pytest.raises(ValueError, match=reason):
        round_weight(**given)
