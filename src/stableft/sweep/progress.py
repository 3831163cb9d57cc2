"""Live progress of a sweep: events, estimated time left, and the terminal table."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from stableft.config.command_config import CommandConfig
from stableft.config.planned_run import ArmTask, PlannedRun, RunProgress
from stableft.config.run_config import RunConfig
from stableft.records.failure import has_failed
from stableft.records.run_record import RunRecord
from stableft.sweep.state import SweepResult
from stableft.text import describe_time_left, open_live_output
from stableft.training.failure_watch import describe_likely_failure


@dataclass(frozen=True)
class SweepStarted:
    """A sweep begins: the runs left to do, counts of earlier outcomes, and the number of parallel workers."""

    runs: Sequence[PlannedRun]
    done: int
    failed: int
    crashed: int
    workers: int


@dataclass(frozen=True)
class RunStarted:
    """A slot (a device, or a share of one) begins a run."""

    slot: str
    run: PlannedRun


@dataclass(frozen=True)
class ProgressReported:
    """The run in a slot reports its progress."""

    slot: str
    progress: RunProgress


@dataclass(frozen=True)
class RunEnded:
    """A slot is done with its run: it has a record, stopped at a checkpoint, or is claimed by another process."""

    slot: str
    run: PlannedRun
    how: Literal["done", "interrupted", "claimed_elsewhere"]
    record: RunRecord | None = None


@dataclass(frozen=True)
class Notice:
    """A message to the user. `interrupted`: it says that the sweep stops because it was asked to."""

    text: str
    interrupted: bool = False


@dataclass(frozen=True)
class ClockTick:
    """Time has passed."""


SweepEvent = SweepStarted | RunStarted | ProgressReported | RunEnded | Notice | ClockTick
ShowEvent = Callable[[SweepEvent], None]


@dataclass
class SlotState:
    """The current run of a slot. Speed is measured from the first report on, which excludes loading time."""

    run: PlannedRun
    started: float = 0.0
    progress: RunProgress | None = None
    first_report: tuple[float, int] | None = None  # (time, step)
    latest_report: tuple[float, int] | None = None
    warned: bool = False


@dataclass
class SweepProgress:
    """Everything the display knows about a running sweep."""

    total: int = 0
    done: int = 0
    failed: int = 0
    crashed: int = 0
    workers: int = 1
    pending: dict[str, PlannedRun] = field(default_factory=dict)
    slots: dict[str, SlotState] = field(default_factory=dict)
    claimed_elsewhere: set[str] = field(default_factory=set)  # run ids claimed by other processes
    now: float = 0.0  # when the latest event was seen
    speeds: dict[tuple, tuple[float, int]] = field(default_factory=dict)  # (seconds, steps) of ended runs
    commands: dict[ArmTask, tuple[float, int]] = field(default_factory=dict)  # (seconds, runs) of ended commands
    steps: Mapping[str, int] = field(default_factory=dict)  # of a whole run, by run id
    rows_per_epoch: dict[tuple, float] = field(default_factory=dict)  # training rows by data key, up to a batch more


def show_nothing(event: SweepEvent) -> None:
    """Ignore the event."""


def apply_event(view: SweepProgress, event: SweepEvent, now: float) -> None:
    """Update the view with an event seen at `now` (seconds on any clock)."""
    view.now = now
    match event:
        case SweepStarted():
            view.pending = {run.run_id: run for run in event.runs}
            view.done, view.failed, view.crashed, view.workers = event.done, event.failed, event.crashed, event.workers
            view.total = event.done + event.crashed + len(view.pending)
        case RunStarted():
            view.claimed_elsewhere.discard(event.run.run_id)
            view.slots[event.slot] = SlotState(event.run, now)
        case ProgressReported() if event.slot in view.slots:
            _apply_progress(view, view.slots[event.slot], event.progress, now)
        case RunEnded():
            _apply_run_end(view, event, now)


def find_new_warning(view: SweepProgress, event: SweepEvent) -> str | None:
    """Return the warning that a run has likely failed, if it is new. Call this before `apply_event`."""
    if not isinstance(event, ProgressReported) or event.slot not in view.slots or view.slots[event.slot].warned:
        return None
    return event.progress.warning


def estimate_seconds_left(view: SweepProgress) -> float | None:
    """Return the estimated seconds until the sweep is done, or None if there are no measurements yet."""
    speeds = dict(view.speeds)
    for current in view.slots.values():
        _add_speed(speeds, current)
    steps = sum(count for _, count in speeds.values())
    overall = sum(seconds for seconds, _ in speeds.values()) / max(steps, 1)
    progress_by_id = {c.run.run_id: c.progress for c in view.slots.values() if c.progress}
    ended = view.commands.values()
    all_commands = (sum(seconds for seconds, _ in ended), sum(count for _, count in ended))
    started_by_id = {c.run.run_id: c.started for c in view.slots.values()}
    waits = []
    for run_id, run in view.pending.items():
        if isinstance(run.config, CommandConfig):  # it reports no steps: its time is that of whole runs
            seconds, count = view.commands.get((run.arm, run.config.data.task), all_commands)
            if not count:
                return None
            waits.append(max(0, seconds / count - view.now + started_by_id.get(run_id, view.now)))
            continue
        if not steps:
            return None
        progress = progress_by_id.get(run_id)
        total = progress.total if progress else _expected_steps(view, run)
        if total is None:
            return None
        total *= run.pause_after or 1
        seconds, count = speeds.get(_speed_key(run.run_config), (overall, 1))
        waits.append(max(0, total - (progress.step if progress else 0)) * seconds / count)
    # Evenly shared work, but never less than the longest single run.
    return max([sum(waits) / max(1, min(view.workers, len(waits))), *waits])


def _apply_progress(view: SweepProgress, current: SlotState, progress: RunProgress, now: float) -> None:
    current.progress = progress
    current.warned |= progress.warning is not None
    current.latest_report = (now, progress.step)
    if current.first_report is None:
        current.first_report = current.latest_report
    config = current.run.run_config
    if epochs := config.schedule.length.epochs:
        view.rows_per_epoch[_data_key(config)] = progress.total * config.schedule.batch_size / epochs


def _apply_run_end(view: SweepProgress, event: RunEnded, now: float) -> None:
    current = view.slots.pop(event.slot, None)
    run_id = event.run.run_id
    if event.how == "claimed_elsewhere":
        view.claimed_elsewhere.add(run_id)
        return
    view.claimed_elsewhere.discard(run_id)
    if event.how == "interrupted" or event.record is None:
        return
    view.pending.pop(run_id, None)
    crashed = event.record.status == "crashed"
    view.done += not crashed
    view.crashed += crashed
    view.failed += bool(has_failed(event.record))
    if isinstance(event.run.config, CommandConfig) and not crashed:
        place = (event.run.arm, event.run.config.data.task)
        seconds, count = view.commands.get(place, (0.0, 0))
        view.commands[place] = (seconds + event.record.seconds, count + 1)
    if current and current.progress and not crashed:
        current.latest_report = (now, max(current.progress.step, event.record.steps))
    if current:
        _add_speed(view.speeds, current)


def _add_speed(speeds: dict[tuple, tuple[float, int]], current: SlotState) -> None:
    if (
        current.first_report is None
        or current.latest_report is None
        or current.latest_report[1] <= current.first_report[1]
    ):
        return
    key = _speed_key(current.run.run_config)
    seconds, steps = speeds.get(key, (0.0, 0))
    speeds[key] = (
        seconds + current.latest_report[0] - current.first_report[0],
        steps + current.latest_report[1] - current.first_report[1],
    )


def _speed_key(config: RunConfig) -> tuple:
    data, model = config.data, config.model
    return (model.name, data.task, config.schedule.batch_size, config.precision, config.execution, data.max_length)


def _data_key(config: RunConfig) -> tuple:
    return (config.data.task, config.data.split, config.data.train_rows)


def _expected_steps(view: SweepProgress, run: PlannedRun) -> int | None:
    """Return the number of updates of a run that has not begun, or None if its epoch length is still unknown."""
    config, length = run.run_config, run.run_config.schedule.length
    if known := view.steps.get(run.run_id, length.steps):
        return known
    rows = view.rows_per_epoch.get(_data_key(config))
    return None if rows is None or length.epochs is None else round(rows / config.schedule.batch_size * length.epochs)


def run_label(run: PlannedRun) -> str:
    """Return a short label with a run's arm, task and seed."""
    return f"{run.arm} {run.config.data.task} seed {run.config.seeds.label}"


def progress_line(view: SweepProgress) -> str:
    """Return a one-line summary of the sweep's progress."""
    waiting = f", {len(view.claimed_elsewhere)} with another process" if view.claimed_elsewhere else ""
    counts = f"{view.done}/{view.total} done, {view.failed} failed, {view.crashed} crashed"
    return f"{counts}{waiting}, {describe_time_left(estimate_seconds_left(view))}"


def closing_line(outcome: SweepResult) -> str:
    """Return the last line of a sweep: what is done, and how to continue if runs are left."""
    done = len(outcome.finished) + len(outcome.finished_before)
    parts = (outcome.crashed, outcome.unfinished, outcome.stopped_early, outcome.saved, outcome.by_others)
    total = done + sum(map(len, parts))
    line = f"{'Interrupted' if outcome.interrupted else 'Ended'}: {done} of {total} runs done"
    line += f", {len(outcome.failed)} of them failed" if outcome.failed else ""
    line += f", {len(outcome.by_others)} ended by other processes" if outcome.by_others else ""
    line += f", {len(outcome.stopped_early)} stopped early as hopeless" if outcome.stopped_early else ""
    line += f", {len(outcome.crashed)} crashed" if outcome.crashed else ""
    line += f", {len(outcome.saved)} saved: no claim needs them" if outcome.saved else ""
    line += f", {len(outcome.crashed_start_runs)} that others start from crashed" if outcome.crashed_start_runs else ""
    if outcome.unfinished:
        line += f", {len(outcome.unfinished)} left ({len(outcome.resumable)} with a checkpoint"
        line += f", {len(outcome.elsewhere)} with other processes" if outcome.elsewhere else ""
        line += f", {len(outcome.blocked)} with nothing to start from)" if outcome.blocked else ")"
        more = len(outcome.unfinished) > len({*outcome.blocked, *outcome.elsewhere})
        line += "; run the same command to continue" if more else ""
    passed = len(outcome.not_retried)
    if crashed := len(outcome.crashed) + len(outcome.crashed_start_runs) - passed:
        line += f"; --retry-crashed retries {f'{crashed} of ' if passed else ''}the crashed ones"
    if passed:
        line += f"; a look has passed {passed} of these" if crashed else "; a look has passed the crashed ones"
    return line


def event_line(view: SweepProgress, event: SweepEvent) -> str | None:
    """Return the log line for an event without a terminal, or None. `view` already includes the event."""
    if isinstance(event, Notice):
        return event.text
    if isinstance(event, SweepStarted):
        return f"{len(event.runs)} runs to do, {event.done} done, {event.crashed} crashed; {event.workers} at a time"
    if isinstance(event, RunStarted):
        message = f"started {run_label(event.run)} on {event.slot}"
    elif isinstance(event, RunEnded) and event.how == "done" and event.record:
        message = f"{describe_run_status(event.record)}: {run_label(event.run)}"
    elif isinstance(event, RunEnded) and event.how == "interrupted":
        message = f"stopped {run_label(event.run)}"
    elif isinstance(event, RunEnded) and event.how == "claimed_elsewhere":
        message = f"another process is working on {run_label(event.run)}; waiting for it"
    else:
        return None
    return f"[{progress_line(view)}] {message}"


def describe_run_status(record: RunRecord) -> str:
    """Return a description of a run's status, with its score or the reason why it ended."""
    if record.status == "crashed":
        return f"crashed ({record.reason})"
    if record.status == "stopped":
        return record.reason or record.status
    if record.status == "paused":
        metric = record.run_config.selection_metric
        return f"paused after step {record.steps}, validation {metric} {record.evals[-1].val[metric]:.4f}"
    score = record.reported_score
    description = "failed at its end" if has_failed(record) else "finished"
    if score is not None:
        description += f", {record.report} {record.config.task.metric} {score:.4f}"
    if record.watch and record.watch.at_end and record.watch.last:
        description += f"; {describe_likely_failure(record.watch.last, record.watch.nothing_learnt, record.steps)}"
    return description


def warning_line(view: SweepProgress, event: SweepEvent, warning: str) -> str:
    """Return the line that says that a run has likely failed."""
    assert isinstance(event, ProgressReported)
    return f"{run_label(view.slots[event.slot].run)}: {warning}"


@contextmanager
def open_display(live: bool | None = None, steps: Mapping[str, int] = MappingProxyType({})) -> Iterator[ShowEvent]:
    """Yield the function that shows events: in a live table if `live` (None: on a terminal), else as lines.

    `steps` of runs, by run id, make the time left known before a run on their data has begun.
    """
    view = SweepProgress(steps=steps)
    with open_live_output(live) as output:

        def show(event: SweepEvent) -> None:
            warning = find_new_warning(view, event)
            apply_event(view, event, time.monotonic())
            if output.display is None:
                line = event_line(view, event)
                if warning is not None:
                    line = f"[{progress_line(view)}] {warning_line(view, event, warning)}"
            else:
                line = _permanent_line(event) if warning is None else warning_line(view, event, warning)
            if line is not None:
                output.print_line(line)
            if output.display is not None:
                output.show(lambda: _progress_table(view), at_once=line is not None)

        yield show
        if output.display is not None:
            output.show(lambda: _progress_table(view), at_once=True)


def _permanent_line(event: SweepEvent) -> str | None:
    """Return the line to keep on screen above the table (notices, failures and crashes), or None."""
    if isinstance(event, Notice):
        return event.text
    if isinstance(event, RunEnded) and event.record and (has_failed(event.record) or event.record.status == "crashed"):
        return f"{run_label(event.run)}: {describe_run_status(event.record)}"
    return None


def _progress_table(view: SweepProgress):
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=Text(progress_line(view)), caption_justify="left")
    for name in ("device", "arm", "task", "seed", "step", "loss", "validation"):
        table.add_column(name, justify="left" if name in ("device", "arm", "task") else "right")
    if any(current.progress and current.progress.warning for current in view.slots.values()):
        table.add_column("likely failed")
    for slot, current in view.slots.items():
        config, progress = current.run.config, current.progress
        cells = [slot, current.run.arm, config.data.task, config.seeds.label]
        if progress is None:
            cells += ["running" if isinstance(config, CommandConfig) else "loading", "", ""]
        else:
            cells += [f"{progress.step}/{progress.total}", _format_number(progress.loss), _format_number(progress.val)]
            cells += ["vanishing gradients"] if progress.warning else []
        table.add_row(*map(Text, cells))
    return table


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
