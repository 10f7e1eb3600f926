"""From a config to datasets and stored transcripts, on tiny models and a few made-up clips. All of it is behaviour."""

import json

import numpy as np
import pytest
import soundfile

from owl import experiment
from owl.config import load


@pytest.fixture
def config_of(tmp_path):
    """A config whose datasets are folders of one noise clip each: `config_of({"name": …, "path": …}, …)`."""

    def write(*datasets: dict):
        for index, entry in enumerate(datasets):
            folder = tmp_path / entry["path"]
            folder.mkdir(exist_ok=True)
            sound = 0.1 * np.random.default_rng(index).standard_normal(4000).astype(np.float32)
            soundfile.write(folder / "clip.wav", sound, 16_000, subtype="FLOAT")
            (folder / "metadata.csv").write_text(f"file_name,text\nclip.wav,text of {entry['path']}\n")
        (tmp_path / "model").mkdir(exist_ok=True)
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"model": {"name": "model"}, "evaluation": {"datasets": datasets}}))
        return load(path)

    return write


def test_two_datasets_of_one_name_are_both_evaluated_under_names_of_their_own(config_of):
    datasets = experiment.evaluation_sets(config_of({"name": "mine", "path": "one"}, {"name": "mine", "path": "two"}))
    assert [(dataset.name, dataset.clips[0].text) for dataset in datasets] == [("mine one", "text of one"), ("mine two", "text of two")]
