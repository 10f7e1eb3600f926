"""The key of a kept result changes with everything that the result depends on, and code that cannot
be found is an error, never a shorter key. All of it is behaviour, on a small `owl` made here.
"""

import re
from dataclasses import replace

import pytest
import torch

from owl.run import cache
from tests import tiny

SOURCES = {
    "owl/__init__.py": "",
    "owl/room/__init__.py": "",
    "owl/room/maker.py": "from owl.room import kernel\nfrom owl.other import helper\n",
    "owl/room/kernel.py": "import torch\n",
    "owl/room/unused.py": "",
    "owl/other/__init__.py": "def helper(): ...\n",
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """`write(path, text)` changes one file of a small repository; None removes it."""

    def change(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink() if text is None else file.write_text(text)
        cache.code_digest.cache_clear()

    for path, text in SOURCES.items():
        change(path, text)
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    yield change
    cache.code_digest.cache_clear()


def key():
    return cache.key(None, [], {"seed": 0}, "owl.room.maker")


def test_the_closure_has_rooms_modules_and_what_they_import_and_nothing_else(write):
    reached = {"owl.room.maker", "owl.room.kernel", "owl.other"}
    assert cache.closure("import owl.room.maker\nimport torch") == reached
    assert cache.closure("from owl.room import kernel, maker") == reached
    assert cache.closure("from owl.other import helper") == {"owl.other"}
    assert cache.closure("def late():\n    from owl.room import kernel") == {"owl.room.kernel"}
    assert cache.closure("import owlet, torch.owl") == set()


@pytest.mark.parametrize(
    "source, missing",
    [
        ("import owl.gone", "owl.gone"),
        ("import owl.room.gone", "owl.room.gone"),
        ("from owl.gone import name", "owl.gone"),
        ("from owl.room.gone import name", "owl.room.gone"),
        ("from owl.gone import *", "owl.gone"),
        ("from owl.room import gone", "owl.room.gone"),
        ("from owl.room import maker, gone", "owl.room.gone"),
        ("from owl.other import Helper", "owl.other.Helper"),
    ],
)
def test_an_import_of_a_module_that_is_not_there_is_an_error_direct_or_through_another(
    write, source, missing
):
    with pytest.raises(ModuleNotFoundError, match=f"'{re.escape(missing)}'"):
        cache.closure(source)
    write("owl/room/kernel.py", source)
    with pytest.raises(ModuleNotFoundError, match=f"'{re.escape(missing)}'"):
        key()


def test_a_moved_module_is_an_error_until_its_importers_follow_and_then_another_key(write):
    before = key()
    write("owl/room/kernel.py", None)
    write("owl/other/kernel.py", SOURCES["owl/room/kernel.py"])
    with pytest.raises(ModuleNotFoundError, match="owl.room.kernel"):
        key()
    write("owl/room/maker.py", SOURCES["owl/room/maker.py"].replace("room", "other"))
    assert key() != before


@pytest.mark.parametrize(
    "path", ["owl/room/maker.py", "owl/room/kernel.py", "owl/other/__init__.py"]
)
def test_a_change_of_reached_code_changes_the_key(write, path):
    before = key()
    write(path, SOURCES[path] + "# another line\n")
    assert key() != before


def test_other_code_does_not_change_the_key(write):
    before = key()
    write("owl/room/unused.py", "another = 1\n")
    assert key() == before


@pytest.fixture
def parts():
    """What `cache.key` is given; a test changes one."""
    return {
        "model": tiny.make_model(),
        "clips": tiny.make_clips(2),
        "settings": {"seed": 0},
        "code": "owl.kernels.outliers",
    }


def weights(parts, monkeypatch):
    with torch.no_grad():
        next(parts["model"].parameters()).view(-1)[0] += 1


def precision(parts, monkeypatch):
    parts["model"] = parts["model"].bfloat16().float()
    before = cache.key(**parts)
    parts["model"] = parts["model"].bfloat16()  # the very same weights
    assert cache.key(**parts) != before


def generation_config(parts, monkeypatch):
    parts["model"].generation_config.suppress_tokens = [5]


def no_model(parts, monkeypatch):
    parts["model"] = None


def a_clips_text(parts, monkeypatch):
    parts["clips"][1] = replace(parts["clips"][1], text="another")


def a_clips_audio(parts, monkeypatch):
    parts["clips"][1] = replace(parts["clips"][1], digest="another")


def a_clips_speaker(parts, monkeypatch):
    parts["clips"][1] = replace(parts["clips"][1], speaker="another")


def the_order_of_clips(parts, monkeypatch):
    parts["clips"].reverse()


def settings(parts, monkeypatch):
    parts["settings"] = {"seed": 1}


def code(parts, monkeypatch):
    parts["code"] = "owl.kernels.intervals"


def packages(parts, monkeypatch):
    monkeypatch.setattr(cache, "version", lambda name: "0")


CHANGES = [
    weights,
    precision,
    generation_config,
    no_model,
    a_clips_text,
    a_clips_audio,
    a_clips_speaker,
    the_order_of_clips,
    settings,
    code,
    packages,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_part_changes_the_key(parts, change, monkeypatch):
    before = cache.key(**parts)
    assert before == cache.key(**parts) and re.fullmatch("[0-9a-f]{16}", before)
    change(parts, monkeypatch)
    assert cache.key(**parts) != before


def test_the_same_model_in_another_object_has_the_same_key(parts):
    before = cache.key(**parts)
    assert cache.key(**parts | {"model": tiny.make_model(), "clips": tiny.make_clips(2)}) == before
