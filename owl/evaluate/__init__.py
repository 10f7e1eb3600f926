"""Notebook 03: transcripts, divergence, the comparison of two models, probes without words."""
