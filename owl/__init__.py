"""Pruning and evaluation kernels for OpenAI Whisper; the notebooks call them. See README.md for the map."""
