"""The files that set things up agree with each other: requirements, conda environment, Docker, CI.
All of it is behaviour.
"""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP, which torch has on Linux")
@pytest.mark.parametrize("chosen, spins", [({}, False), ({"OMP_WAIT_POLICY": "ACTIVE"}, True)])
def test_threads_wait_asleep_unless_the_environment_says_otherwise(chosen, spins):
    """OpenMP tells what it read when torch was imported."""
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    said = subprocess.run(
        [sys.executable, "-c", "import owl.kernels.solvers"],
        env=inherited | {"PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE"} | chosen,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert (re.search(r"GOMP_SPINCOUNT = '(\d+)'", said)[1] != "0") == spins


def pins():
    return [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]


def test_every_requirement_is_pinned_exactly_without_a_build_tag():
    assert all(re.fullmatch(r"[A-Za-z0-9._\[\]-]+==[0-9][0-9.]*", pin) for pin in pins())
    assert "torch==2.13.0" in pins()


def test_the_conda_environment_has_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == pins()


def test_docker_copies_and_mounts_what_exists():
    dockerfile = (ROOT / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (\S+) \S+$", dockerfile, re.M):
        assert (ROOT / source).exists()
    workdir = re.search(r"^WORKDIR (\S+)$", dockerfile, re.M)[1]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["owl"]
    assert (ROOT / compose["build"] / "Dockerfile").exists()
    mounts = dict(volume.split(":") for volume in compose["volumes"])
    assert mounts["./reports"] == f"{workdir}/reports" and mounts["./runs"] == f"{workdir}/runs"
    assert re.search(r'^ENTRYPOINT \["make"\]$', dockerfile, re.M)


def test_a_container_knows_its_commit():
    """Provenance asks git: the image needs the program and the history, and git must trust a folder
    that another user may own.
    """
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert not {".git", ".git/"} & set((ROOT / ".dockerignore").read_text().split())
    assert (
        re.search(r"apt-get install .*\bgit\b", dockerfile)
        and "git config --system --add safe.directory /app" in dockerfile
    )


def test_docker_calls_a_make_target_that_is_there():
    command = re.search(r'^CMD \["(\w+)"', (ROOT / "Dockerfile").read_text(), re.M)[1]
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.M)


def test_public_ci_and_ours_call_make_test():
    steps = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"][
        "steps"
    ]
    assert any(step.get("run") == "make test" for step in steps)
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("make test")


def test_hooks_download_nothing_and_run_what_make_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    makefile = re.sub(r"\s*\\\n\s*", " ", (ROOT / "Makefile").read_text())
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system"
        command = hook["entry"].removeprefix(".venv/bin/python ").removesuffix(" --force-exclude")
        assert f"$(PY) {command}" in makefile


def test_the_readme_names_the_two_commands_and_the_paper():
    readme = (ROOT / "README.md").read_text()
    assert all(words in readme for words in ("make report SPARSITY=0.5", "make test", "2310.05175"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere_and_lines_are_at_most_100_wide(page):
    text = page.read_text()
    for target, _, section in re.findall(r"\]\((?!https?:)([^)#]+)(#([^)]+))?\)", text):
        assert (page.parent / target).exists(), target
        assert not section or section in anchors((page.parent / target).read_text()), section
    prose = (line for line in text.splitlines() if not line.startswith("|"))
    assert max(map(len, prose)) <= 100


def anchors(markdown):
    """Where a link to a heading of the page leads, as GitHub names it."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_and_make_targets_that_are_there(page):
    text = page.read_text()
    named = re.findall(r"\b(?:owl|tests|configs|docs|notebooks|benchmarks)/[\w/.]+\w", text)
    assert not [one for one in named if one != "configs/mine.json" and not (ROOT / one).exists()]
    blocks = "".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    said = re.findall(r"^make ([a-z-]+)", blocks, re.M) + re.findall(r"`make ([a-z-]+)", text)
    assert set(said) <= set(targets)


def test_the_readmes_tree_and_the_folder_name_the_same_rooms():
    tree = re.findall(r"^[├└]── (\w+)/ ", (ROOT / "README.md").read_text(), re.M)
    rooms = [path.parent.name for path in (ROOT / "owl").glob("*/__init__.py")]
    assert sorted(tree) == sorted(rooms)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert tree == contracts["contracts"][0]["layers"][::-1]  # from the ground up


def test_nothing_generated_is_tracked_and_ignored_files_are_named():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"runs/", "reports/", ".venv/"} <= set(ignored)
