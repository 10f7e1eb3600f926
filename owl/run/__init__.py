"""One experiment on disk: files whole or not at all, provenance, cache keys, run folders, executing
a notebook.
"""
