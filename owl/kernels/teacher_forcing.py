"""The arithmetic of teacher forcing: texts as one rectangle of tokens, and how far two predictions
of the next token are apart.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def rectangle(
    prompt: Sequence[int], texts: Sequence[Sequence[int]], *, limit: int, end: int
) -> tuple[Int[Tensor, "clips width"], Bool[Tensor, "clips width"]]:
    """(tokens, True where they are prompt or text): each row is `prompt` + its text, cut at `limit`
    tokens and padded with `end`.

    From the prompt's last position on, the True ones predict a text token or the end.
    """
    rows = [[*prompt, *text][:limit] for text in texts]
    width = max(len(row) for row in rows)
    tokens = torch.tensor([row + [end] * (width - len(row)) for row in rows])
    return tokens, first([len(row) for row in rows], width)


def first(counts: Sequence[int], width: int) -> Bool[Tensor, "rows width"]:
    """True at the first counts[i] positions of row i."""
    return torch.arange(width) < torch.tensor(counts)[:, None]


def kl_terms(
    dense: Float[Tensor, "*positions vocabulary"], other: Float[Tensor, "*positions vocabulary"]
) -> Float[Tensor, "*positions vocabulary"]:
    """What each token adds to KL(dense ‖ other) in nats, from log probabilities; summed over the
    vocabulary it is a position's divergence.
    """
    return dense.exp() * (dense - other)
