"""Several clips a window: nothing of a clip is lost, nothing exceeds the window, and hardly
anything of it is empty.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from owl import ROOT
from owl.config.load import load
from owl.model.whisper import window_samples
from owl.prune.calibration_text import Labels, calibration_batches, packed
from owl.run.experiment import load_model
from tests import tiny

PROCESSOR = tiny.make_processor()
TEXTS = ["low", "newer", " wide", "lowest", "new", "wider", "low low", "news", "sow"]


@pytest.fixture
def labels():
    ids = [PROCESSOR.tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    return Labels(tiny.make_clips(len(TEXTS)), ids, {"token cap": 1}, "en")


def test_all_audio_and_all_words_are_there_once_and_fit(labels):
    windows = packed(labels, PROCESSOR)
    limit = window_samples(PROCESSOR)
    assert len(windows.clips) < len(labels.clips)
    assert all(len(clip.audio) <= limit for clip in windows.clips)
    whole = sorted(np.concatenate([clip.audio for clip in windows.clips]))
    assert whole == sorted(np.concatenate([clip.audio for clip in labels.clips]))
    texts = [PROCESSOR.tokenizer.decode(ids) for ids in windows.tokens]
    assert sorted(" ".join(texts).split()) == sorted(" ".join(TEXTS).split())
    assert (windows.dropped, windows.language) == (labels.dropped, labels.language)


def test_audio_and_text_stay_together(labels):
    """The window that begins with a clip begins with that clip's text."""
    texts = {clip.audio.tobytes(): ids for clip, ids in zip(labels.clips, labels.tokens)}
    for clip, ids in zip(*((w := packed(labels, PROCESSOR)).clips, w.tokens)):
        (first,) = [own for sound, own in texts.items() if clip.audio.tobytes().startswith(sound)]
        assert ids[: len(first)] == first


def test_two_half_windows_share_one_and_a_clip_beyond_the_window_is_cut(labels):
    limit, (one, *_) = window_samples(PROCESSOR), labels.clips
    lengths = [limit // 2, limit + 7, limit // 2]
    clips = [replace(one, audio=np.full(size, 0.1, np.float32)) for size in lengths]
    windows = packed(Labels(clips, labels.tokens[:3], {}, None), PROCESSOR)
    assert [len(clip.audio) for clip in windows.clips] == [limit, limit]


@pytest.mark.parametrize(("windows", "count"), [("packed", 1), ("single", 3)])
def test_the_config_decides(tmp_path, windows, count):
    raw = json.loads((ROOT / "configs" / "quick.json").read_text(encoding="utf-8"))
    raw["pruning"]["calibration"] = {"windows": windows}
    raw["model"]["name"], raw["evaluation"] = str(ROOT / "models" / "demo"), {}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = load(tmp_path / "config.json")
    asr = load_model(config)
    labels = Labels(tiny.make_clips(3), [[5, 6], [7], [8, 9]], {}, None)
    batches = calibration_batches(config, asr, labels)
    assert sum(len(batch.audio) for batch in batches) == count
