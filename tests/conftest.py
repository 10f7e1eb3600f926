"""Shared by all tests: where the repository is, and the optional folder of reference outputs and
speech beside it.
"""

import json
import sys
from pathlib import Path

import pytest

import owl  # noqa: F401  says how torch's threads wait, which counts when torch is imported

# isort: split
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with published outputs and real speech is not here")
    return folder


@pytest.fixture(scope="session")
def golden(shared):
    """(tensors, facts) of the published implementations."""
    from safetensors.torch import load_file

    folder = shared / "golden"
    return load_file(folder / "reference_layers.safetensors"), json.loads(
        (folder / "reference_layers.json").read_text()
    )
