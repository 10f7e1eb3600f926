"""Run one function in a process of its own, so that its peak memory and its start are its own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context


def in_fresh_process(function: Callable, *arguments):
    """What `function` (of a module, not of a notebook) returns; what it raises is raised here. RuntimeError if the process was killed."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"the process that ran {function.__name__} was killed, most likely for want of memory; use fewer clips"
        ) from error
