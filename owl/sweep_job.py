"""One job of a sweep in a process of its own: `python -m owl.sweep_job SWEEP JOB OUTPUT` runs `notebooks/sweep_job.ipynb` into OUTPUT.

It ends, with its kernel, when the process that started it is gone: a killed cluster worker leaves nothing running beside the job's next try.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from owl.execute import attempt
from owl.paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "sweep_job.ipynb"


def main(sweep: str, job: str, output: str) -> int:
    """Exit code 0, or 1 with the reason as the last words."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    problem = attempt(NOTEBOOK, Path(output), {"sweep": sweep, "job": job})
    if problem:
        print(problem, file=sys.stderr)
    return int(bool(problem))


def end_with(parent: int) -> None:
    """Wait until `parent` is not this process's parent any more, then ask this process to stop: papermill takes its kernel along."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
