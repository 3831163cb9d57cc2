"""What a user sees of a running sweep: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from stableft.config import RunConfig
from stableft.plan import PlannedRun
from stableft.record import RunRecord
from stableft.sweep import Outcome
from stableft.text import duration
from stableft.vanishing import likely_failed
from stableft.watch import Ended, Event, Moved, Note, Opened, Show, Started, View, first_warning, seconds_left, update

REFRESH_SECONDS = 0.25


def run_label(run: PlannedRun) -> str:
    """Returns a run's arm, task and seed in a few words."""
    return f"{run.arm} {run.config.data.task} seed {seed_label(run.config)}"


def seed_label(config: RunConfig) -> str:
    """Returns "3", or "3/7" when the seeds for initialisation and data differ."""
    seeds = config.seeds
    return str(seeds.init) if seeds.init == seeds.data else f"{seeds.init}/{seeds.data}"


def overall_line(view: View) -> str:
    """Returns the sweep's standing in one line."""
    waiting = f", {len(view.elsewhere)} with another process" if view.elsewhere else ""
    counts = f"{view.done}/{view.total} done, {view.failed} failed, {view.crashed} crashed"
    return f"{counts}{waiting}, ETA {duration(seconds_left(view))}"


def closing_line(outcome: Outcome) -> str:
    """Returns the last line of a sweep: what is done, and how to go on where something is left."""
    done = len(outcome.finished) + len(outcome.skipped)
    total = done + len(outcome.crashed) + len(outcome.left) + len(outcome.stopped)
    line = f"{'Interrupted' if outcome.interrupted else 'Ended'}: {done} of {total} runs done"
    line += f", {len(outcome.failed)} of them failed" if outcome.failed else ""
    line += f", {len(outcome.stopped)} stopped early as hopeless" if outcome.stopped else ""
    line += f", {len(outcome.crashed)} crashed" if outcome.crashed else ""
    line += f", {len(outcome.crashed_parents)} that others start from crashed" if outcome.crashed_parents else ""
    if outcome.left:
        line += f", {len(outcome.left)} left ({len(outcome.checkpointed)} with a checkpoint"
        line += f", {len(outcome.held)} with nothing to start from)" if outcome.held else ")"
        line += "; run the same command to go on" if len(outcome.left) > len(outcome.held) else ""
    if outcome.crashed or outcome.crashed_parents:
        line += "; --retry-crashed tries the crashed ones again"
    return line


def plain_line(view: View, event: Event) -> str | None:
    """Returns the line that stands for an event where there is no terminal, or None; `view` includes the event."""
    if isinstance(event, Note):
        return event.text
    if isinstance(event, Opened):
        return f"{len(event.runs)} runs to do, {event.done} done, {event.crashed} crashed; {event.workers} at a time"
    if isinstance(event, Started):
        words = f"started {run_label(event.run)} on {event.slot}"
    elif isinstance(event, Ended) and event.how == "settled" and event.record:
        words = f"{settled_words(event.record)}: {run_label(event.run)}"
    elif isinstance(event, Ended) and event.how == "stopped":
        words = f"stopped {run_label(event.run)}"
    elif isinstance(event, Ended) and event.how == "elsewhere":
        words = f"another process is at {run_label(event.run)}; waiting for it"
    else:
        return None
    return f"[{overall_line(view)}] {words}"


def settled_words(record: RunRecord) -> str:
    """Returns "finished", "failed", "crashed", "paused" or "stopped" with the score or the reason."""
    if record.status == "crashed":
        return f"crashed ({record.reason})"
    if record.status == "stopped":
        return record.reason or record.status
    if record.status == "paused":
        metric = record.config.selection_metric
        return f"paused after step {record.steps}, validation {metric} {record.evals[-1].val[metric]:.4f}"
    score = record.reported_score
    words = "failed at its end" if record.failed else "finished"
    if score is not None:
        words += f", {record.config.evaluation.report} {record.config.task.metric} {score:.4f}"
    if record.watch and record.watch.at_end and record.watch.last:
        words += f"; {likely_failed(record.watch.last, record.watch.nothing_learnt, record.steps)}"
    return words


def warned(view: View, event: Event, warning: str) -> str:
    """Returns the line about a run that has likely failed."""
    assert isinstance(event, Moved)
    return f"{run_label(view.current[event.slot].run)}: {warning}"


@contextmanager
def open_display(live: bool | None = None) -> Iterator[Show]:
    """Yields the function that shows events: a live table if `live` (None: on a terminal), else plain lines."""
    if live is None:
        live = sys.stdout.isatty()
    if live:
        with _live_table() as draw:
            yield draw
        return
    view = View()

    def show(event: Event) -> None:
        warning = first_warning(view, event)
        update(view, event, time.monotonic())
        line = plain_line(view, event) if warning is None else f"[{overall_line(view)}] {warned(view, event, warning)}"
        if line is not None:
            print(line, flush=True)

    yield show


@contextmanager
def _live_table() -> Iterator[Show]:
    from rich.live import Live

    view = View()
    drawn = 0.0
    with Live(auto_refresh=False) as live:

        def show(event: Event) -> None:
            nonlocal drawn
            now = time.monotonic()
            warning = first_warning(view, event)
            update(view, event, now)
            kept = _kept_line(event) if warning is None else warned(view, event, warning)
            if kept:
                live.console.print(kept, markup=False, highlight=False)
            if kept or now - drawn >= REFRESH_SECONDS:
                drawn = now
                live.update(_table(view), refresh=True)

        yield show
        live.update(_table(view), refresh=True)


def _kept_line(event: Event) -> str | None:
    """Returns what stays on the screen above the table: notes, failures and crashes."""
    if isinstance(event, Note):
        return event.text
    if isinstance(event, Ended) and event.record and (event.record.failed or event.record.status == "crashed"):
        return f"{run_label(event.run)}: {settled_words(event.record)}"
    return None


def _table(view: View):
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=Text(overall_line(view)), caption_justify="left")
    for name in ("device", "arm", "task", "seed", "step", "loss", "validation"):
        table.add_column(name, justify="left" if name in ("device", "arm", "task") else "right")
    if any(current.progress and current.progress.warning for current in view.current.values()):
        table.add_column("likely failed")
    for slot, current in view.current.items():
        config, progress = current.run.config, current.progress
        cells = [slot, current.run.arm, config.data.task, seed_label(config)]
        if progress is None:
            cells += ["loading", "", ""]
        else:
            cells += [f"{progress.step}/{progress.total}", _number(progress.loss), _number(progress.val)]
            cells += ["vanishing gradients"] if progress.warning else []
        table.add_row(*map(Text, cells))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
