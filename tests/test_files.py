"""Whole or not at all, also with several makers of one target and after a killed one."""

import os
import time

import pytest

from owl.run.files import whole_file, whole_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [False, True])
def test_two_makers_of_one_folder_leave_one_whole_folder(tmp_path, keep):
    target = tmp_path / "made"
    first, second = whole_folder(target, keep=keep), whole_folder(target, keep=keep)
    one, other = first.__enter__(), second.__enter__()
    (one / "a").write_text("first")
    (other / "a").write_text("second")
    (one / "b").write_text("first")
    first.__exit__(None, None, None)
    assert names(target) == ["a", "b"]
    second.__exit__(None, None, None)
    assert names(tmp_path) == ["made"]
    assert names(target) == (["a", "b"] if keep else ["a"]) and (target / "a").read_text() == (
        "first" if keep else "second"
    )


def test_a_failed_maker_leaves_the_target_and_the_other_makers_alone(tmp_path):
    target = tmp_path / "made"
    with whole_folder(target) as other:
        with pytest.raises(KeyboardInterrupt), whole_folder(target) as half:
            (half / "a").write_text("half")
            raise KeyboardInterrupt
        (other / "a").write_text("whole")
    assert names(tmp_path) == ["made"] and (target / "a").read_text() == "whole"


def test_a_file_takes_its_place_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "below" / "made.json"
    with whole_file(target) as path, whole_file(target) as other:
        path.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one" and names(target.parent) == ["made.json"]
    with pytest.raises(OSError), whole_file(target) as path:
        path.write_text("half")
        raise OSError
    assert target.read_text() == "one" and names(target.parent) == ["made.json"]


def test_what_a_killed_maker_left_is_removed_after_a_day(tmp_path):
    for name in ("made.old.tmp", "made.young.tmp", "other.old.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    long_ago = time.time() - 48 * 3600
    for name in ("made.old.tmp", "other.old.tmp"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    with whole_folder(tmp_path / "made"):
        pass
    assert names(tmp_path) == ["made", "made.young.tmp", "other.old.tmp"]
