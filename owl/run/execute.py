"""Execute one notebook of a run for make: progress on the terminal, one clear line when it fails.

`python -m owl.run.execute NOTEBOOK OUTPUT RUN STEP` ("STEP" as in "2/4"). A notebook that stops
leaves nothing at OUTPUT; the half-run copy with its traceback goes to `runs/<run>/failed/`, and
what an earlier report of this run claimed (index.html, summary.json) is taken away first.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from owl import ROOT, setup
from owl.run.resolve import CLAIMS

DIED = (
    "its kernel died; if nobody stopped it, memory most likely ran out (docs/memory.md says what "
    "each model needs): then"
)
SMALLER = (
    "use fewer clips (SAMPLES=20), a smaller evaluation.batch_size or pruning.calibration.samples "
    "in the config, or a smaller MODEL"
)


def main(notebook: Path, output: Path, run: str, step: str) -> int:
    """Exit code 0, or 1 with `error: …` as the last words."""
    output.parent.mkdir(parents=True, exist_ok=True)
    for claim in CLAIMS:
        (output.parent / claim).unlink(missing_ok=True)
    print(f"[{step}] {notebook.stem}", file=sys.stderr, flush=True)
    half = ROOT / "runs" / run / "failed" / output.name
    half.parent.mkdir(parents=True, exist_ok=True)
    problem = attempt(notebook, half, {"run": run}, SMALLER)
    if problem:
        print(f"\nthe notebook as far as it came: {half.relative_to(ROOT)}", file=sys.stderr)
        print(f"error: {notebook.stem} stopped: {problem}", file=sys.stderr)
        return 1
    shutil.move(half, output)
    return 0


def attempt(
    notebook: Path, output: Path, parameters: Mapping[str, str], smaller: str
) -> str | None:
    """Run a notebook into `output`, its progress on stderr. None, or why it stopped; `smaller` says
    what to do where memory or time ran out.
    """
    setup(models=False)  # before these imports
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        execute(notebook, output, parameters, stderr=sys.stderr)
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        return f"{DIED} {smaller}"
    except CellTimeoutError:
        return f"a cell ran into its time limit; {smaller}"
    return None


def execute(
    notebook: Path, output: Path, parameters: Mapping[str, object], stderr: TextIO | None = None
) -> None:
    """Run a notebook into `output` in this interpreter (`owl.run.kernel`), from its own folder;
    papermill's and nbclient's errors.
    """
    setup(models=False)  # before this import
    import papermill

    papermill.execute_notebook(
        str(notebook),
        str(output),
        dict(parameters),
        cwd=str(notebook.parent),
        progress_bar=False,
        stderr_file=stderr,
        kernel_name="python3",
        kernel_manager_class="owl.run.kernel.Kernel",
    )


if __name__ == "__main__":
    sys.exit(
        main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3], sys.argv[4])
    )
