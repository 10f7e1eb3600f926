"""The embedded demo: its text, its speech, its Whisper checkpoint, and how all three are made.

Nothing here is needed to prune: `make demo-model` (notebooks/00_demo_model.ipynb) re-creates
models/demo and data/demo.
"""
