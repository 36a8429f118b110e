"""How a training ends early."""


class Interrupted(Exception):
    """Ctrl-C was pressed or the process was told to end; the state was saved.

    Args:
        message: what happened, and how to go on.
        code: exit code: 130 for Ctrl-C, 143 for SIGTERM or SIGUSR1.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class StateLost(Exception):
    """The state could not be saved when it was needed."""


class TrainingDiverged(Exception):
    """The training loss is not finite."""
