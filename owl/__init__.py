"""Pruning and evaluation kernels for OpenAI Whisper; the notebooks call them. README.md has the map."""


def load(path):
    """(model, processor) of any folder that the export wrote with weights for PyTorch, in float32 on the CPU, ready for `generate`.

    Raises owl.whisper.ModelError that names what is missing or broken.
    """
    from owl.loading import load as load_any  # torch takes seconds to import; `import owl` does not

    return load_any(str(path))
