"""What the notebooks show of a dataset's and a config's text is escaped: their table cells,
executed on hostile names. All of it is behaviour.
"""

from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.display import HTML, Markdown

from owl.config.load import load as load_config
from owl.data import load
from owl.data.load import Clip, Dataset
from owl.evaluate import compare
from owl.evaluate.transcribe import Transcript, Transcription
from owl.kernels import scoring
from owl.model import whisper
from owl.run import provenance, record
from tests import tiny
from tests.conftest import ROOT

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def hostile(tmp_path):
    """Names that the cells of 01 and 03 read, each with markup wherever a user's text can be."""
    clip = Clip(HOSTILE, np.zeros(1600, np.float32), HOSTILE, HOSTILE, "x")
    dataset = Dataset(HOSTILE, [clip], [(HOSTILE, HOSTILE)], None)
    one = Transcription(
        [Transcript(HOSTILE, f"one {HOSTILE}", f"two {HOSTILE}", 1.0, HOSTILE, 3, "end", 1)], 1.0
    )
    results = [compare.compare(HOSTILE, one, one, "none")]
    config = load_config(ROOT / "configs" / "demo.json")
    name = config.evaluation.model_copy(
        update={"datasets": [config.evaluation.datasets[0].model_copy(update={"name": HOSTILE})]}
    )
    return {
        "this_run": SimpleNamespace(config=config.model_copy(update={"evaluation": name})),
        "settings": config.evaluation,
        "dataset": dataset,
        "models": {"dense": None, "pruned": None},
        "datasets": [dataset],
        "dense": SimpleNamespace(model=tiny.make_model()),
        "said": {(HOSTILE, "dense"): one, (HOSTILE, "pruned"): one},
        "results": results,
        "kl": [{"kl": 0.1, "low": 0.0, "high": 0.2, "clips": 1, "tokens": 3}],
        "invented": pd.DataFrame(
            [{"clip": HOSTILE, "model": "dense", "words": 1, "ended": "end", "text": HOSTILE}]
        ),
        "worst": 5,
        "sparsity": 0.5,
    }


def shown(notebook: str, marker: str, names: dict) -> str:
    """The HTML that the one cell with `marker` in it displays or ends with."""
    cells = nbformat.read(ROOT / "notebooks" / notebook, as_version=4).cells
    (source,) = [
        cell.source for cell in cells if cell.cell_type == "code" and marker in cell.source
    ]
    *body, last = source.rstrip().rstrip(";").splitlines()
    outputs = []
    names = names | {
        "pd": pd,
        "display": outputs.append,
        "HTML": HTML,
        "Markdown": Markdown,
        "compare": compare,
        "scoring": scoring,
        "record": record,
        "load": load,
        "whisper": whisper,
        "provenance": provenance,
    }
    last = last if last.startswith(("display(", " ")) else f"display({last})"
    exec("\n".join([*body, last]), names)
    return "".join(
        output.to_html() if hasattr(output, "to_html") else output.data for output in outputs
    )


@pytest.mark.parametrize(
    "notebook, marker",
    [
        ("01_outlier_analysis.ipynb", "left_out_table"),
        ("03_evaluation.ipynb", "left_out_table"),
        ("03_evaluation.ipynb", "comparison_table"),
        ("03_evaluation.ipynb", "scoring.worst"),
        ("03_evaluation.ipynb", "measured ="),
        ("03_evaluation.ipynb", "invented.style"),
        ("03_evaluation.ipynb", "compare.sentence"),
        ("01_outlier_analysis.ipynb", "provenance.table"),
        ("02_pruning.ipynb", "provenance.table"),
        ("03_evaluation.ipynb", "provenance.table"),
        ("04_export.ipynb", "provenance.table"),
    ],
)
def test_markup_in_names_and_texts_is_shown_not_obeyed(hostile, notebook, marker):
    text = shown(notebook, marker, hostile)
    assert "alert(1)" in text and "<script" not in text
