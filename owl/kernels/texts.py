"""Texts as they are compared: normalised, and counted in words or in characters.

Source of the normalisers: Whisper (arXiv 2212.04356, appendix C) as packaged, with its British →
American map, by whisper-normalizer. Differences from Whisper's basic normaliser, which was made for
letters that stand alone: marks that belong to a letter (vowel signs, tones, points) stay, and
invisible characters go.

Where a language writes no spaces between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer) a
word would be a whole sentence: there everything that is said about errors goes by characters, which
are Unicode code points; `unit_of` decides.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import regex
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

NORMALIZERS = ("english", "basic", "none")
UNITS = ("words", "characters")
METRICS = ("wer", "character_error_rate")  # as a config lists them, this is its default
# letters of scripts without spaces between words, and how much of a data set's letters makes it
# one: a Han character is about a syllable, a Latin letter a quarter of one
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}ー]"
UNSPACED_SHARE = 0.25
BESIDE_UNSPACED = regex.compile(rf"(?<={UNSPACED}) | (?={UNSPACED})")


def normalize(texts: Sequence[str], normalizer: str) -> list[str]:
    """`texts` as they are compared: "english" and "basic" are Whisper's normalisers ("basic" keeps
    marks, see `_basic`), "none" only collapses whitespace.
    """
    return [_normalized(text, normalizer) for text in texts]


def unit_of(references: Sequence[str], metrics: Sequence[str] = METRICS) -> str:
    """ "words" or "characters": what the errors of a data set are counted in.

    `metrics` of a config may force it: "wer" alone means words, "character_error_rate" alone or
    first means characters. Else the references decide, whatever language is set: characters where
    at least UNSPACED_SHARE of their letters are of a script without spaces between words.
    """
    if list(metrics) == ["wer"]:
        return "words"
    if metrics[0] == "character_error_rate":
        return "characters"
    text = " ".join(references)
    unspaced, letters = len(regex.findall(UNSPACED, text)), len(regex.findall(r"\p{L}", text))
    return "characters" if unspaced and unspaced >= UNSPACED_SHARE * letters else "words"


def is_latin(references: Sequence[str]) -> bool:
    """Are most letters of these texts Latin ones? True where there is no letter."""
    text = " ".join(references)
    return 2 * len(regex.findall(r"\p{Latin}", text)) >= len(regex.findall(r"\p{L}", text))


def characters_of(texts: Sequence[str]) -> list[str]:
    """`texts` as rows of characters: a space beside a letter of a script without spaces between
    words is none of them.
    """
    return [BESIDE_UNSPACED.sub("", text) for text in texts]


def known_unit(unit: str) -> str:
    """`unit`; ValueError if it is none of UNITS."""
    if unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}: choose one of {', '.join(UNITS)}")
    return unit


# every clip is looked at a dozen times in one report, and the English normaliser is slow
@lru_cache(100_000)
def _normalized(text: str, normalizer: str) -> str:
    return " ".join(_normalizer(normalizer)(text).split())


@cache
def _normalizer(name: str) -> Callable[[str], str]:
    if name not in NORMALIZERS:
        raise ValueError(f"unknown normalizer {name!r}: choose one of {', '.join(NORMALIZERS)}")
    return {"english": EnglishTextNormalizer, "basic": _basic, "none": lambda: str}[name]()


def _basic() -> Callable[[str], str]:
    """Whisper's basic normaliser without what it does to marks and invisible characters.

    A zero-width space separates words (Khmer, Thai); other format characters (joiners, direction
    marks, soft hyphens) are not seen and go. Marks stay on letters and digits; one that is left of
    a symbol (emoji), and the dot that lower case leaves of the Turkish İ, go.
    """
    plain = BasicTextNormalizer(preserve_marks=True)
    stray = regex.compile(r"(?<![\p{L}\p{N}\p{M}])\p{M}+|[\p{Me}\uFE00-\uFE0F]|(?<=i)\u0307")
    return lambda text: stray.sub("", plain(regex.sub(r"\p{Cf}", "", text.replace("\u200b", " "))))


def broken(one: dict, clips: int) -> str:
    """What `owl.evaluate.compare.of_one` counted of clips that loop or hit the token cap, in plain
    words; "" where none does.
    """
    said = []
    if one["repeats"]:
        loop = "loops and ends" if one["repeats"] == 1 else "loop and end"
        theirs = f"{one['insertions_looping']} of {one['insertions']} insertions are theirs"
        said.append(f"{one['repeats']} of {clips} clips {loop} there; {theirs}.")
    if one["cap_hits"]:
        said.append(f"{one['cap_hits']} of {clips} clips hit the token cap.")
    return " ".join(said)
