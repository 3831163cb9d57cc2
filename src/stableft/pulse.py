"""Signs of life of this process: what it is doing, and for how long it has got no further.

A process has one pulse, as it has one log. Only a sweep's worker sends it to someone.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SignOfLife:
    """What a process is doing, how many seconds ago it last got further, and the longest such time of each activity.

    `slowest` covers the current run, and only activities in which the process has got further since.
    """

    doing: str = "starting"
    quiet: float = 0.0
    slowest: dict[str, float] = field(default_factory=dict)


class Pulse:
    """The pulse of a process. `tick` is for the thread that watches, the rest for the thread that works.

    Time passes in ticks: while the whole process is stopped, none passes.
    """

    def __init__(self) -> None:
        self._now = 0.0  # written by `tick` alone, as the rest is by the working thread: no lock is needed
        self._since = 0.0
        self._doing = SignOfLife.doing
        self._slowest: dict[str, float] = {}

    def start_over(self, doing: str) -> None:
        """Begin a run, or wait for one. Forget the activities of the run before."""
        self._slowest, self._doing, self._since = {}, doing, self._now

    def get_further(self, doing: str) -> None:
        """Note that the process has got further, and what it does next."""
        quiet = self._now - self._since
        self._slowest = self._slowest | {self._doing: max(quiet, self._slowest.get(self._doing, 0.0))}
        self._doing, self._since = doing, self._now

    def tick(self, seconds: float) -> SignOfLife:
        """Let time pass and return the present state."""
        self._now += seconds
        return SignOfLife(self._doing, self._now - self._since, self._slowest)


PULSE = Pulse()
WAITING = "waiting for a run"
TRAINING, EVALUATING = "training", "evaluating"
WRITING_CHECKPOINT, WRITING_RESULTS = "writing a checkpoint", "writing its results"
WRITES = (WRITING_CHECKPOINT, WRITING_RESULTS)
