"""The errors that a user meets: one sentence each, saying what is wrong, where, and what to do instead."""


class EvotrainError(Exception):
    """A failure that is answered with its message alone, without a traceback."""


class ConfigError(EvotrainError):
    """The configuration asks for something impossible; raised before anything is compiled or written."""


class DataError(EvotrainError):
    """A file or a data set cannot be used."""


class Preempted(EvotrainError):
    """The run was asked to stop and is saved: nobody's mistake, but the run is not finished."""


class Diverged(EvotrainError):
    """Too many gradients in a row were not finite."""


class RunError(EvotrainError):
    """The run's surroundings failed it: a directory in use, a full disk, a checkpoint of another model."""
