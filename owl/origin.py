"""What a result came from, for a reader; `owl.record.provenance` collects it. Apart from there because pages are drawn without torch."""

import json
from collections.abc import Mapping
from pathlib import Path


def model_label(name: str) -> str:
    """A model's name for a page or card: of a folder outside the repository the last part, its path is nobody's business."""
    return Path(name).name if name.startswith("..") else name


def rows(facts: Mapping) -> list[tuple[str, str]]:
    """What `owl.record.provenance` returned as (what, value) rows."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    found = [("commit", facts["git_commit"] or "not in a git checkout"), ("packages", packages)]
    found += [(name, str(facts[name])) for name in ("python", "platform", "device", "acceleration", "seed") if name in facts]
    return [*found, ("configuration", json.dumps(facts["config"]))]
