"""Is a file what its name says, or the pointer that Git left where git-lfs was missing?"""

import re

POINTER, POINTER_BYTES = b"version https://git-lfs", 1024  # Git LFS keeps its pointers below that
PULL = "the repository was cloned without git-lfs. In the clone: git lfs install && git lfs pull"


def is_pointer(start: bytes) -> bool:
    """Do these first bytes of a file begin a pointer?"""
    return start.startswith(POINTER)


def target_of(pointer: bytes) -> str:
    """ " to a file of 1,000 bytes" of a pointer that says so."""
    size = re.search(rb"size (\d+)", pointer)
    return f" to a file of {int(size[1]):,} bytes" if size else ""
