"""Notebooks 01 and 02: statistics block by block, allocations, sequential pruning, measured
search.
"""
