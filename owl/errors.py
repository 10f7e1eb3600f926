"""Every error that a user can cause: each message names what is wrong, where, and the fix."""


class ConfigError(ValueError):
    """What is wrong with a config, a run or a setting, and the fix; one problem per line."""


class DataError(RuntimeError):
    """A dataset cannot be loaded or used; the message names the dataset, the reason and what to
    do.
    """


class ModelError(RuntimeError):
    """A model that cannot be loaded or is not a Whisper; the message names the model, the reason
    and the fix.
    """


class CompactError(ValueError):
    """A compact file that cannot be read, or tensors that cannot be stored as one; the message says
    why.
    """


class UnsupportedFormat(ValueError):
    """A format that cannot represent this model; the message says why. The other formats of a run
    go on.
    """


class MissingArtefact(RuntimeError):
    """A notebook was run before the one whose result it reads; the message names both."""


class MissedTarget(RuntimeError):
    """A solver zeroed more or fewer weights than it was asked to; the message names the linear,
    both numbers and the fix.
    """
