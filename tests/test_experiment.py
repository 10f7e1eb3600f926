"""From a config to datasets and stored transcripts, on tiny models and a few made-up clips. All of
it is behaviour.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from owl.config.load import load
from owl.data.load import Dataset
from owl.evaluate import stored
from owl.evaluate.transcribe import transcribe
from owl.model import whisper
from owl.model.decoding import torch_decoder
from owl.model.whisper import Whisper
from owl.prune import calibration_text, guides, weights
from owl.run import cache, experiment, provenance, record
from tests import tiny
from tests.conftest import ROOT


@pytest.fixture
def config_of(tmp_path):
    """A config whose datasets are folders of one noise clip each: `config_of({"name": …, "path":
    …}, …)`.
    """

    def write(*datasets: dict):
        for index, entry in enumerate(datasets):
            folder = tmp_path / entry["path"]
            folder.mkdir(exist_ok=True)
            sound = 0.1 * np.random.default_rng(index).standard_normal(4000).astype(np.float32)
            soundfile.write(folder / "clip.wav", sound, 16_000, subtype="FLOAT")
            (folder / "metadata.csv").write_text(
                f"file_name,text\nclip.wav,text of {entry['path']}\n"
            )
        (tmp_path / "model").mkdir(exist_ok=True)
        path = tmp_path / "mine.json"
        path.write_text(
            json.dumps({"model": {"name": "model"}, "evaluation": {"datasets": datasets}})
        )
        return load(path)

    return write


def test_two_datasets_of_one_name_are_both_evaluated_under_names_of_their_own(config_of):
    datasets = experiment.evaluation_sets(
        config_of({"name": "mine", "path": "one"}, {"name": "mine", "path": "two"})
    )
    assert [(dataset.name, dataset.clips[0].text) for dataset in datasets] == [
        ("mine one", "text of one"),
        ("mine two", "text of two"),
    ]


@pytest.fixture
def said(tmp_path, monkeypatch):
    """`said()` transcribes three clips with a tiny model; its fields may be changed before;
    `said.times` counts decodings.
    """

    class Said:
        run = record.Run("mine", tmp_path / "run", load(ROOT / "configs" / "demo.json"))
        model, processor, clips, times = (
            tiny.make_model(),
            tiny.make_processor(),
            tiny.make_clips(3),
            0,
        )

        def __call__(self):
            asr, dataset = (
                Whisper(self.model, self.processor),
                Dataset("noise", self.clips, [], None),
            )
            return stored.transcripts(self.run, "dense", asr, dataset)

    said, real = Said(), stored.transcribe

    def counted(*arguments, **settings):
        said.times += 1
        return real(*arguments, **settings)

    monkeypatch.setattr(stored, "transcribe", counted)
    return said


def test_stored_transcripts_are_read_again_when_nothing_changed(said):
    first = said()
    assert said() == first and said.times == 1
    said.model = tiny.make_model()  # the same weights in another process
    assert said() == first and said.times == 1


def change_weights(said, monkeypatch, tmp_path):
    said.model = tiny.make_model(seed=1)


def change_a_reference(said, monkeypatch, tmp_path):
    said.clips[0] = replace(said.clips[0], text="another reference")


def change_generation(said, monkeypatch, tmp_path):
    said.model.generation_config.suppress_tokens = [5]


def change_precision(said, monkeypatch, tmp_path):
    said.model = tiny.make_model().bfloat16().float()
    said()
    said.model, said.times = said.model.bfloat16(), 1  # the very same weights


def change_threads(said, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)


def change_packages(said, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "version", lambda name: "5.99.0")


def change_code(said, monkeypatch, tmp_path):
    shutil.copytree(ROOT / "owl", tmp_path / "owl")
    with open(tmp_path / "owl" / "model" / "decoding.py", "a") as file:
        file.write("# another line\n")
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    cache.code_digest.cache_clear()


CHANGES = [
    change_weights,
    change_a_reference,
    change_generation,
    change_precision,
    change_threads,
    change_packages,
    change_code,
]


@pytest.mark.parametrize(
    "change", CHANGES, ids=lambda change: change.__name__.removeprefix("change_")
)
def test_stored_transcripts_are_made_again_when_something_that_decides_them_changed(
    said, change, monkeypatch, tmp_path
):
    said()
    change(said, monkeypatch, tmp_path)
    said()
    assert said.times == 2


def test_stored_transcripts_say_where_they_come_from(said):
    said()
    (path,) = (said.run.folder / "transcripts").glob("*.jsonl")
    head = json.loads(path.read_text().splitlines()[0])
    assert (
        head["provenance"] == json.loads(json.dumps(provenance.collect(said.run.config)))
        and head["seconds"] > 0
    )


# a few tokens of calibration are enough to prune nothing
@pytest.mark.filterwarnings("ignore:.*singular Gram matrix")
@pytest.mark.parametrize("allocation", ["uniform", "owl", "dlp", "alpha"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
def test_sparsity_zero_is_the_dense_model_word_for_word(method, allocation):
    config = load(
        ROOT / "configs" / "demo.json",
        {"sparsity": 0.0, "method": method, "allocation": allocation},
    )
    dense, model, processor, clips = (
        tiny.make_model(),
        tiny.make_model(),
        tiny.make_processor(),
        tiny.make_clips(4),
    )
    blocks = whisper.blocks(model)
    labels = calibration_text.Labels(clips, [[5, 6, 7], [8], [9, 10], [11]], {}, None)
    batches = calibration_text.calibration_batches(config, Whisper(model, processor), labels)
    guide = guides.Guides(blocks, [0.01, 0.02, 0.03, 0.05], [1.0, 2.0, 3.0, 4.0], 0.08, 5.0)
    sparsities = guides.chosen_sparsities(config, guide)
    weights.prune(model, blocks, batches, sparsities, method=method)
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), dense.parameters())
    )
    texts = [
        transcribe(torch_decoder(Whisper(one, processor)), processor, clips).transcripts
        for one in (dense, model)
    ]
    assert texts[0] == texts[1]
