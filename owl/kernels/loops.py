"""Where a row of tokens certainly loops: one rule for every runtime, for stopping early and for
cutting a finished row.

A row loops where a phrase of n tokens follows itself without a gap for FEWEST·n + MORE tokens: one
token comes 28 times in a row, two come 16 times, six 8 times, twenty more than 5 times. Speech that
repeats itself stays below that, also where a token is no more than a letter: in 630 texts of
LibriSpeech, AN4 and spoken digits nothing comes more than 3.3 times in a row. Whether a prefix
loops depends on nothing behind it, so a row that was stopped early and a whole row that is cut say
the same.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

FEWEST = 4  # times that a phrase of any length may come
MORE = 24  # tokens, about five seconds of fast speech, that it takes beside them


def loop_ends(rows: Tensor) -> Tensor:
    """Token ids (rows, tokens) → (rows,) the length of each row's shortest prefix that certainly
    loops; 0 for a row that does not loop.
    """
    tokens = rows.shape[1]
    loops = torch.zeros(len(rows), tokens + 1, dtype=torch.bool, device=rows.device)
    for length in range(1, (tokens - MORE) // FEWEST + 1):
        span = FEWEST * length + MORE
        # so many tokens in a row equal the one `length` before them
        equal = span - length
        same = pad((rows[:, length:] == rows[:, :-length]).cumsum(1), (1, 0))
        loops[:, span:] |= same[:, equal:] - same[:, :-equal] == equal
    return loops.int().argmax(1)
