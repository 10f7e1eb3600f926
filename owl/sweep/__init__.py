"""Notebook 05: the grid of methods, its jobs, its tables."""
