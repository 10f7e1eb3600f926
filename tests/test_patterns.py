"""Only behaviour: what a pattern's name says, by hand-written pairs."""

import pytest

from owl.kernels.patterns import fixed_sparsity, parse_pattern


@pytest.mark.parametrize(
    "pattern, parsed, sparsity",
    [
        (None, None, None),
        ("unstructured", None, None),
        ("structured", None, None),
        ("2:4", (2, 4), 0.5),
        ("1:4", (1, 4), 0.75),
        ("10:16", (10, 16), 0.375),
        ("N:8", (None, 8), None),
    ],
)
def test_a_pattern_says_n_m_and_what_sparsity_that_is(pattern, parsed, sparsity):
    assert (parse_pattern(pattern), fixed_sparsity(pattern)) == (parsed, sparsity)


@pytest.mark.parametrize(
    "pattern, words",
    [(name, "is not known") for name in ("", "2", "2:4 ", "02:4", "n:8", "-1:4", "2:N", "٢:٤")]
    + [(name, "at least 1 and below M") for name in ("0:4", "4:4", "4:2", "N:1", "N:0", "0:0")],
)
def test_anything_else_is_refused(pattern, words):
    with pytest.raises(ValueError, match=words):
        parse_pattern(pattern)
