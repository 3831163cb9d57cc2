"""How a run ended that is a training command: a section of its record."""

from pydantic import BaseModel, ConfigDict


class CommandOutcome(BaseModel):
    """How a run ended that is a command. `written` is its score as the command wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str  # as the command was told: cpu, cuda:0
    exit_code: int | None  # negative: the signal that ended it; None: it did not start, or was killed at its time-out
    written: str | None
    last_lines: tuple[str, ...]  # of its output, of a run that crashed
