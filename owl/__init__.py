"""Prune OpenAI Whisper and say what it costs. A room a step: see the tree in README.md; the
notebooks call the rooms.
"""

import ctypes
import os
import sys
from pathlib import Path

# OpenMP's threads, torch's among them, wait asleep: spinning for milliseconds after every parallel
# step they keep the cores from each other where two processes share them. It is read once, when
# torch is imported, which only modules under this one do; processes started from here inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# glibc hands large blocks back to the system as soon as they are free. Every layer of a model asks
# for the same ones again, and fresh pages are up to a quarter of its time. Other C libraries have
# no such switch
if hasattr(LIBC := ctypes.CDLL(None), "mallopt"):
    MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # names in malloc.h
    # an old one refuses the first, and without it the second makes things worse
    if LIBC.mallopt(MMAP_THRESHOLD, 128 * 2**20):
        LIBC.mallopt(TRIM_THRESHOLD, 256 * 2**20)

# the repository: defaults, generated folders and recorded paths are relative to it
ROOT = Path(__file__).resolve().parents[1]


def setup(*, models: bool = True) -> None:
    """Call once in a process, before anything else of it: quieter and quicker, results are the
    same. Without `models` nothing of torch is imported.

    transformers' warnings about `generate` repeat for every batch and drown our progress bars.
    jsonschema, behind nbformat and papermill, builds a grammar for internationalised addresses when
    it is imported (1.2 to 1.7 s); without that module it goes on without the check.
    """
    sys.modules.setdefault("rfc3987_syntax", None)
    if models:
        from transformers import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()


def load(path):
    """(model, processor) of any folder that the export wrote with weights for PyTorch, in float32
    on the CPU, ready for `generate`.

    Raises owl.errors.ModelError that names what is missing or broken.
    """
    # torch takes seconds to import; `import owl` does not
    from owl.model.loading import load as load_any

    setup()
    return load_any(str(path))
