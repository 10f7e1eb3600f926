"""Where the repository is: the one folder that defaults, generated folders and recorded paths are relative to."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
