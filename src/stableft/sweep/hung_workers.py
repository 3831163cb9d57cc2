"""Tell workers that hang from slow ones. A worker hangs if it is stopped, or stuck in a kernel, a read or a write."""

import time
from dataclasses import dataclass, field

from stableft.config.planned_run import RunProgress
from stableft.pulse import TRAINING, WAITING, WRITES, SignOfLife

MAX_TICK = 1.0  # the parent's loop takes at most 0.2 s; if it took longer, it was stopped itself, or starved


@dataclass(frozen=True)
class Patience:
    """After how many seconds a worker counts as hung.

    `set_up` is for everything before the first steps, and for activities that a run has not been through yet: data,
    weights and libraries may come over a slow network.
    """

    heartbeat: float = 1.0  # between two signs of life
    least: float = 120.0  # without a sign of life, and at least without getting further
    # Times the slowest step or batch so far. On a GPU, up to 20 steps pass between two signs of progress, but the ones
    # seen so far may have had one step in between.
    factor: float = 30.0
    set_up: float = 3600.0
    stop: float = 5.0  # after a request to stop, beyond a step or a checkpoint's write


class WatchClock:
    """Counts the seconds in which the parent watches, so that a sweep stopped as a whole kills no worker."""

    def __init__(self) -> None:
        self.now, self._looked_at = 0.0, time.monotonic()

    def look(self) -> None:
        """Let the time since the last look pass, but no more of it than a running parent lets pass."""
        before, self._looked_at = self._looked_at, time.monotonic()
        self.now += min(self._looked_at - before, MAX_TICK)


@dataclass
class WorkerWatch:
    """What the parent knows of a worker's life. Times are those of its `WatchClock`."""

    heard_at: float = 0.0
    sign: SignOfLife = field(default_factory=SignOfLife)
    progress: RunProgress | None = None  # of the current run, as last reported
    killed_because: str | None = None


PATIENCE = Patience()


def describe_hang(
    watch: WorkerWatch, patience: Patience, now: float, ready: bool, slowest: dict[str, float]
) -> str | None:
    """Return how a worker hangs, or None. `slowest` is the longest time of each activity in this sweep."""
    silent, sign = now - watch.heard_at, watch.sign
    if not ready:
        return f"did not start in {silent:.0f} s" if silent > patience.set_up else None
    if silent > patience.least:
        return f"hung, with no sign of life for {silent:.0f} s"
    limit = patience.set_up
    if TRAINING in sign.slowest and sign.doing in sign.slowest:
        limit = max(patience.least, patience.factor * slowest.get(sign.doing, 0.0))
    return f"hung, with no progress for {sign.quiet:.0f} s" if sign.doing != WAITING and sign.quiet > limit else None


def describe_refusal_to_stop(
    watch: WorkerWatch, patience: Patience, now: float, asked_at: float, busy: int, slowest: dict[str, float]
) -> str | None:
    """Return how a worker fails to stop its run, or None. It may finish its step and write a checkpoint.

    `busy` workers may be writing theirs at the same time.
    """
    waited, sign = now - asked_at, watch.sign
    if min(waited, now - watch.heard_at) > patience.stop:
        return f"did not stop, with no sign of life for {now - watch.heard_at:.0f} s"
    if sign.doing in WRITES:
        limit = busy * slowest[sign.doing] if sign.doing in slowest else patience.least
    elif TRAINING in sign.slowest:
        limit = slowest.get(sign.doing, 0.0)
    else:  # a run has nothing to lose before its first steps
        limit = -patience.stop
    over = waited > patience.stop and sign.quiet >= limit + patience.stop
    return f"did not stop in {waited:.0f} s, with no progress for {sign.quiet:.0f} s" if over else None
