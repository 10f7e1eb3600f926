"""One job of a sweep in a process of its own: `python -m owl.sweep.job SWEEP JOB OUTPUT PARENT`
runs the notebook beside this file into OUTPUT.

It ends, with its kernel, within seconds after the process PARENT that started it: a killed cluster
worker leaves no job running.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from owl.run.execute import attempt

NOTEBOOK = Path(__file__).with_suffix(".ipynb")
SMALLER = (
    "use fewer clips (max_samples of the datasets, calibration.samples) or a smaller model in the "
    "configs of the sweep"
)
GRACE = 15  # seconds for papermill to take its kernel along


def main(sweep: str, job: str, output: str, parent: str) -> int:
    """Exit code 0, or 1 with the reason as the last line."""
    threading.Thread(target=end_with, args=(int(parent),), daemon=True).start()
    problem = attempt(NOTEBOOK, Path(output), {"sweep": sweep, "job": job}, SMALLER)
    if problem:
        print(" ".join(problem.split()), file=sys.stderr)
    return int(bool(problem))


def end_with(parent: int) -> None:
    """Wait until `parent` is not this process's parent, then end this process: asked first, so that
    papermill ends the kernel too.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)  # the kernel watches its own parent


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
