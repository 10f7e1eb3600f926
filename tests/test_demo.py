"""The embedded demo: its text, clips and checkpoint as committed, and the recipe on a tiny scale.
All of it is behaviour.
"""

import shutil
from unittest.mock import Mock

import numpy as np
import pandas
import pytest
import torch

from demo import build as demo_build
from demo import train
from demo.build import COUNTS, build
from demo.speech import Clip
from demo.text import TEMPLATES, sentences, vocabulary
from demo.train import Schedule, encode
from owl.data.load import load_dataset
from owl.model import whisper
from tests.conftest import ROOT

DATA, MODEL = ROOT / "data" / "demo", ROOT / "models" / "demo"


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def texts():
    return sentences(COUNTS, seed=0)


def test_no_sentence_is_in_two_splits_and_the_vocabulary_is_large(texts):
    everything = [sentence for split in texts.values() for sentence in split]
    assert len(set(everything)) == len(everything) == sum(COUNTS.values())
    assert len(vocabulary()) >= 150
    assert {word for sentence in everything for word in sentence.split()} <= vocabulary()
    assert not any("{" in sentence for sentence in everything) and len(TEMPLATES) >= 20


def test_the_committed_clips_say_the_recipes_sentences(texts):
    for split, least in (("evaluation", 150), ("calibration", 128)):
        rows = pandas.read_csv(DATA / split / "metadata.csv")
        assert list(rows.text) == texts[split] and len(rows) >= least
        assert rows.speaker.nunique() >= 50
    assert sum(len(text.split()) for text in texts["evaluation"]) >= 1000


def test_data_and_model_are_as_small_as_promised():
    assert size(DATA) <= 4_000_000
    assert size(MODEL) <= 6_000_000


@pytest.mark.slow
def test_every_clip_is_readable_and_differs_in_level_and_length():
    clips = [
        clip
        for split in ("evaluation", "calibration")
        for clip in load_dataset(split, path=DATA / split).clips
    ]
    assert len(clips) == COUNTS["evaluation"] + COUNTS["calibration"]
    levels = [np.sqrt(np.mean(clip.audio**2)) for clip in clips]
    assert max(levels) > 2 * min(levels) and max(clip.seconds for clip in clips) < 10


def test_the_model_is_a_stock_whisper_of_thirty_seconds():
    model, processor = whisper.load(str(MODEL))
    assert (model.config.encoder_layers, model.config.decoder_layers) == (4, 4)
    assert (
        whisper.window_samples(processor) == 30 * 16_000
        and model.config.max_source_positions == 1500
    )
    assert model.model.encoder.conv1.weight.isfinite().all()


def test_the_training_encoder_is_the_stock_encoder_on_the_full_window():
    model, _ = whisper.load(str(MODEL))
    features = torch.randn(1, 80, 3000)
    with torch.no_grad():
        assert torch.equal(encode(model, features), model.model.encoder(features).last_hidden_state)


speaks = pytest.mark.skipif(
    not (shutil.which("espeak-ng") and shutil.which("flite")),
    reason="needs the programs espeak-ng and flite",
)
FEW = {"evaluation": 3, "calibration": 3, "training": 10}
SHORT = Schedule(steps=3, batch=4, full_window_batch=1, warmup=1, second_steps=1)


@pytest.mark.slow
@speaks
def test_the_whole_recipe_runs_on_a_tiny_scale_and_resumes(tmp_path):
    folders = tmp_path / "data", tmp_path / "model", tmp_path / "work"
    build(*folders, counts=FEW, schedule=SHORT)
    before = first_weight(tmp_path / "model")
    assert len(load_dataset("evaluation", path=tmp_path / "data" / "evaluation").clips) == 3
    build(*folders, counts=FEW, schedule=SHORT)  # finished: nothing is trained again
    assert torch.equal(before, first_weight(tmp_path / "model"))


def first_weight(folder):
    return whisper.load(str(folder))[0].state_dict()["model.encoder.layers.0.fc1.weight"]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`make(**changes)` runs the recipe with noise for speech and weight decay for training;
    `.steps` and `.spoken` count what was not reused.
    """

    class Make:
        steps = spoken = 0
        data, target, work = tmp_path / "data", tmp_path / "model", tmp_path / "work"

        def __call__(self, **changes):
            self.steps = self.spoken = 0
            build(
                self.data, self.target, self.work, **({"counts": FEW, "schedule": SHORT} | changes)
            )
            return first_weight(self.target)

    make = Make()

    def losses(model, head, *rest):
        make.steps += 1
        loss = model.model.encoder.layers[0].fc1.weight.square().mean()
        return loss, loss

    def noise(texts, seed, *rest):
        make.spoken += len(texts)
        draw = np.random.default_rng(seed)
        return [
            Clip((0.1 * draw.standard_normal(1600)).astype(np.float32), text, "noise")
            for text in texts
        ]

    monkeypatch.setattr(train, "_losses", losses)
    monkeypatch.setattr(demo_build, "synthesise", noise)
    monkeypatch.setattr(train, "OPUS_EVERY", 1000)
    return make


def test_a_finished_recipe_makes_nothing_again(make):
    before = make()
    assert (make.steps, make.spoken) == (4, 16)
    assert torch.equal(before, make()) and (make.steps, make.spoken) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, steps",
    [
        ({"seed": 1}, 4),
        ({"counts": FEW | {"training": 9}}, 4),
        ({"schedule": SHORT._replace(steps=4)}, 5),
    ],
    ids=["seed", "counts", "schedule"],
)
def test_another_seed_other_counts_or_another_schedule_start_anew(make, changes, steps):
    before = make()
    make(**changes)
    assert make.steps == steps
    # what was made first is still there to resume from
    assert torch.equal(before, make()) and make.steps == 0


def test_clips_and_model_that_are_there_already_are_made_again(make):
    """As `make demo-model` finds them: committed, or half written by an interrupted run."""
    for folder in (make.data / "evaluation", make.target):
        folder.mkdir(parents=True)
        (folder / "metadata.csv").write_text("file_name,text,speaker\nold.ogg,old,old\n")
    make()
    assert {path.name for path in (make.data / "evaluation").iterdir()} == {
        "metadata.csv",
        "000.ogg",
        "001.ogg",
        "002.ogg",
    }
    assert not (make.target / "metadata.csv").exists()


def test_an_interrupted_synthesis_leaves_nothing_that_looks_complete(make, monkeypatch):
    # the second clip is the last thing that the user waits for
    encoded = Mock(side_effect=[b"some", KeyboardInterrupt])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(demo_build, "opus_bytes", encoded)
        make()
    assert not list(make.work.glob("evaluation*")) and not make.data.exists()
    make()
    assert len(load_dataset("evaluation", path=make.data / "evaluation").clips) == 3
