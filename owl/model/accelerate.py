"""Faster, saying the same: 2:4 sparse matrix products on CUDA for the encoder, and torch.compile of
what transcription calls.

The encoder's linears see 1,500 rows a clip, enough for the sparse tensor cores to pay; the
decoder's see one row a step and stay dense. What can be done is decided from plain facts, each
decision with its reason, and the report prints them.
"""

import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

# CUDA compute capability from which on there are sparse tensor cores (Ampere)
SPARSE_CORES = (8, 0)
HALF = (torch.float16, torch.bfloat16)
MULTIPLES = (32, 64)  # outputs and inputs that PyTorch's 2:4 kernels take in half precision


class Decision(NamedTuple):
    """Whether something is done, and why or why not, as a sentence part for the report."""

    done: bool
    reason: str


def decide_sparse(
    pattern: str, device: str, capability: tuple[int, int] | None, dtype: torch.dtype
) -> Decision:
    """Do the encoder's linears run as 2:4 sparse? `device` is a type such as "cuda", `capability`
    CUDA's (major, minor) or None.
    """
    if pattern != "2:4":
        return Decision(False, f"no 2:4 sparse products: the pattern is {pattern}")
    if device != "cuda":
        return Decision(
            False,
            f"no 2:4 sparse products: they need a CUDA device, and this is {device}; the zeros are "
            "multiplied like others",
        )
    if capability is None or capability < SPARSE_CORES:
        found = "unknown" if capability is None else f"{capability[0]}.{capability[1]}"
        return Decision(
            False,
            f"no 2:4 sparse products: they need CUDA compute capability 8.0, and this is {found}",
        )
    if dtype not in HALF:
        return Decision(
            False,
            f"no 2:4 sparse products: they need half precision, not {dtype}; set "
            'hardware.precision to "float16"',
        )
    return Decision(True, "2:4 sparse products in the encoder's linears")


def decide_compile(enabled: bool, mode: str, device: str) -> Decision:
    """Are encoder and decoder compiled? RuntimeError where that was asked for on a CPU without a
    C++ compiler.
    """
    if not enabled:
        return Decision(False, "not compiled: optimization.compile is off")
    names = [os.environ.get("CXX") or "c++", "g++", "clang++"]
    if device == "cpu" and not any(shutil.which(name) for name in names):
        raise RuntimeError(
            f"optimization.compile needs a C++ compiler on a CPU, and none of {', '.join(names)} "
            "is on PATH; "
            "install one (apt-get install g++) or set optimization.compile.enabled to false"
        )
    return Decision(True, f"encoder and decoder compiled, mode {mode}")


def is_two_of_four(weight: Tensor) -> bool:
    """Has every row at most two nonzeros in every four consecutive inputs, in a shape that the
    sparse kernels take?
    """
    if weight.shape[0] % MULTIPLES[0] or weight.shape[1] % MULTIPLES[1]:
        return False
    return bool(((weight != 0).unflatten(1, (-1, 4)).sum(-1) <= 2).all())


def sparsify(
    layers: nn.Module, convert: Callable[[Tensor], Tensor] = torch.sparse.to_sparse_semi_structured
) -> tuple[int, int]:
    """Store the 2:4 weights of all linears in `layers` in the sparse form, in place: (how many
    linears took it, how many there are).
    """
    linears = [module for module in layers.modules() if isinstance(module, nn.Linear)]
    fitting = [linear for linear in linears if is_two_of_four(linear.weight.detach())]
    for linear in fitting:
        linear.weight = nn.Parameter(convert(linear.weight.detach()), requires_grad=False)
    return len(fitting), len(linears)


def compile_parts(
    encoder: nn.Module, decoder: nn.Module, mode: str, backend: str | Callable = "inductor"
) -> None:
    """Compile both in place: every call of them, those inside `generate` too, runs the compiled
    code; copies of them are not compiled.
    """
    for part in (encoder, decoder):
        part.compile(backend=backend, **({"mode": mode} if backend == "inductor" else {}))


def dense(weight: Tensor) -> Tensor:
    """The weight as an ordinary tensor, whichever form it is stored in."""
    return (
        weight.to_dense() if isinstance(weight, torch.sparse.SparseSemiStructuredTensor) else weight
    )
