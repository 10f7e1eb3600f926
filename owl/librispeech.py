"""The names of LibriSpeech's parts: the folders of its archives against config and split of `openslr/librispeech_asr`.

People write the same part as `test-clean`, as `test.clean`, or as split `test` of subset `clean`; all of them resolve here.
"""

HUB_ID = "openslr/librispeech_asr"
ALIASES = ("librispeech", "librispeech_asr", HUB_ID)

PARTS = {  # folder name in the archives: (config, split) on the Hub
    "test-clean": ("clean", "test"),
    "test-other": ("other", "test"),
    "dev-clean": ("clean", "validation"),
    "dev-other": ("other", "validation"),
    "train-clean-100": ("clean", "train.100"),
    "train-clean-360": ("clean", "train.360"),
    "train-other-500": ("other", "train.500"),
}


def find_part(split: str, subset: str | None) -> str | None:
    """The part that `split` and `subset` name together; None if there is no such part or they contradict each other.

    `split` is `test`, `test-clean`, `validation.other`, `train.360`, …; `subset` is `clean` or `other`, and may be None (`clean`
    unless the split decides) or `all` where the split is already a part's full name.
    """
    key = split.lower().replace(".", "-").replace("_", "-").replace("validation", "dev")
    if key in PARTS:
        return key if subset in (None, "all", PARTS[key][0]) else None
    stem, _, hours = key.partition("-")
    for kind in (subset,) if subset else ("clean", "other"):
        part = "-".join(word for word in (stem, kind, hours) if word)
        if part in PARTS:
            return part
    return None
