"""What is known about a sweep while it runs: the events that executors report, and the time left computed from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stableft.config import RunConfig
from stableft.plan import PlannedRun, Progress
from stableft.record import RunRecord


@dataclass(frozen=True)
class Opened:
    """A sweep begins: what is left to do, how many runs are done or crashed already, how many run at a time."""

    runs: Sequence[PlannedRun]
    done: int
    failed: int
    crashed: int
    workers: int


@dataclass(frozen=True)
class Started:
    """A slot (a device, or a share of it) begins a run."""

    slot: str
    run: PlannedRun


@dataclass(frozen=True)
class Moved:
    """The run of a slot reports where it is."""

    slot: str
    progress: Progress


@dataclass(frozen=True)
class Ended:
    """A slot leaves its run: with a record, stopped at a checkpoint, or because another process is at it."""

    slot: str
    run: PlannedRun
    how: Literal["settled", "stopped", "elsewhere"]
    record: RunRecord | None = None


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Opened | Started | Moved | Ended | Note | Tick
Show = Callable[[Event], None]


@dataclass
class Current:
    """What a slot is doing; speed is measured from the first report on, so that loading does not count."""

    run: PlannedRun
    begun: float
    progress: Progress | None = None
    first: tuple[float, int] | None = None  # time and step of the first report
    latest: tuple[float, int] | None = None
    warned: bool = False


@dataclass
class View:
    """All that is known about a sweep while it runs."""

    total: int = 0
    done: int = 0
    failed: int = 0
    crashed: int = 0
    workers: int = 1
    left: dict[str, PlannedRun] = field(default_factory=dict)
    current: dict[str, Current] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)  # run ids that other processes are at
    measured: dict[tuple, tuple[float, int]] = field(default_factory=dict)  # seconds and steps of ended runs
    per_epoch: dict[tuple, float] = field(default_factory=dict)  # steps
    note: str = ""


def ignore(event: Event) -> None:
    """Shows nothing."""


def update(view: View, event: Event, now: float) -> None:
    """Brings the view up to date with an event that was seen at `now` (seconds of any clock)."""
    match event:
        case Opened():
            view.left = {run.run_id: run for run in event.runs}
            view.done, view.failed, view.crashed, view.workers = event.done, event.failed, event.crashed, event.workers
            view.total = event.done + event.crashed + len(view.left)
        case Started():
            view.elsewhere.discard(event.run.run_id)
            view.current[event.slot] = Current(event.run, now)
        case Moved() if event.slot in view.current:
            _move(view, view.current[event.slot], event.progress, now)
        case Ended():
            _end(view, event, now)
        case Note():
            view.note = event.text


def first_warning(view: View, event: Event) -> str | None:
    """Returns why a run has likely failed if that is news; `update` has not seen the event yet."""
    if not isinstance(event, Moved) or event.slot not in view.current or view.current[event.slot].warned:
        return None
    return event.progress.warning


def seconds_left(view: View) -> float | None:
    """Returns the expected time until nothing is left, or None while there is nothing to compute it from."""
    speeds = dict(view.measured)
    for current in view.current.values():
        _add_speed(speeds, current)
    steps = sum(count for _, count in speeds.values())
    if not steps and view.left:
        return None
    overall = sum(seconds for seconds, _ in speeds.values()) / max(steps, 1)
    at = {c.run.run_id: c.progress for c in view.current.values() if c.progress}
    waits = []
    for run_id, run in view.left.items():
        progress = at.get(run_id)
        total = progress.total if progress else _total_steps(view, run.config)
        if total is None:
            return None
        total *= run.pause_after or 1
        seconds, count = speeds.get(_speed_key(run.config), (overall, 1))
        waits.append(max(0, total - (progress.step if progress else 0)) * seconds / count)
    return max([sum(waits) / max(1, min(view.workers, len(waits))), *waits])


def _move(view: View, current: Current, progress: Progress, now: float) -> None:
    current.progress = progress
    current.warned |= progress.warning is not None
    current.latest = (now, progress.step)
    if current.first is None:
        current.first = current.latest
    epochs = current.run.config.schedule.length.epochs
    if epochs:
        view.per_epoch[_data_key(current.run.config)] = progress.total / epochs


def _end(view: View, event: Ended, now: float) -> None:
    current = view.current.pop(event.slot, None)
    run_id = event.run.run_id
    if event.how == "elsewhere":
        view.elsewhere.add(run_id)
        return
    view.elsewhere.discard(run_id)
    if event.how == "stopped" or event.record is None:
        return
    view.left.pop(run_id, None)
    crashed = event.record.status == "crashed"
    view.done += not crashed
    view.crashed += crashed
    view.failed += bool(event.record.failed)
    if current and current.progress and not crashed:
        current.latest = (now, max(current.progress.step, event.record.steps))
    if current:
        _add_speed(view.measured, current)


def _add_speed(speeds: dict[tuple, tuple[float, int]], current: Current) -> None:
    if current.first is None or current.latest is None or current.latest[1] <= current.first[1]:
        return
    key = _speed_key(current.run.config)
    seconds, steps = speeds.get(key, (0.0, 0))
    speeds[key] = (seconds + current.latest[0] - current.first[0], steps + current.latest[1] - current.first[1])


def _speed_key(config: RunConfig) -> tuple:
    data, model = config.data, config.model
    return (model.name, data.task, config.schedule.batch_size, config.precision, data.max_length)


def _data_key(config: RunConfig) -> tuple:
    return (config.data.task, config.data.split, config.data.train_rows, config.schedule.batch_size)


def _total_steps(view: View, config: RunConfig) -> int | None:
    """Returns how many updates a run that has not begun will take, or None if no run on its data has begun."""
    length = config.schedule.length
    if length.steps is not None:
        return length.steps
    per_epoch = view.per_epoch.get(_data_key(config))
    return None if per_epoch is None or length.epochs is None else round(per_epoch * length.epochs)
