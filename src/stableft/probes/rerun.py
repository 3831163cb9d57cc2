"""Repeat a run from its record, in a folder of its own, and compare what both measured."""

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import numpy as np

from stableft.config.local_files import file_digest
from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.sweep_file import Sweep
from stableft.data.sources import find_model_commit
from stableft.errors import UserError
from stableft.models.start_weights import find_start_weights
from stableft.probes.saved_runs import locate_sources
from stableft.records.run_record import (
    HISTORY_FILE,
    PREDICTIONS_FILE,
    RECORD_FILE,
    Environment,
    RunRecord,
    read_record,
    run_folder,
)
from stableft.report.numbers_in_words import format_percent
from stableft.sweep.devices import resolve_device
from stableft.sweep.local_workers import LocalExecutor
from stableft.sweep.preflight import check_sweep_inputs
from stableft.sweep.progress import ShowEvent, open_display, run_label
from stableft.sweep.workers import run_with_workers

RERUNS_FOLDER = "reruns"  # in a results folder: results folders of one repeated run each
SCORED = ("evals", "last", "best", "failed", "failed_by_accuracy", "steps", "skipped_steps", "reason")
FILES = (HISTORY_FILE, PREDICTIONS_FILE)


@dataclass(frozen=True)
class RunComparison:
    """A run, its repetition, and their outputs: those that are equal bit for bit, and those that are not.

    `conditions` say what is not as in the record, `uncompared` of which software only one of both has the version.
    `must_be_equal`: a CPU did both under the same conditions.
    """

    before: RunRecord
    now: RunRecord
    conditions: tuple[str, ...]
    uncompared: tuple[str, ...]
    equal: tuple[str, ...]
    unequal: tuple[str, ...]
    must_be_equal: bool


def find_record(records: Iterable[RunRecord], prefix: str, where: str) -> RunRecord:
    """Return the record of the finished run whose id begins with `prefix`.

    Raises:
        UserError: There is none, or more than one, or the run has not finished.
    """
    found = {record.run_id: record for record in records if prefix and record.run_id.startswith(prefix)}
    if len(found) != 1 and prefix not in found:
        count = f"{len(found)} runs begin so; give more of the id" if found else "there is no such record"
        raise UserError(f"run {prefix!r}: {where}: {count}")
    record = found.get(prefix) or next(iter(found.values()))
    if record.command:
        raise UserError(f"run {record.run_id}: it is a command; its sweep repeats it in another --results folder")
    if record.status != "finished" or record.environment is None:
        raise UserError(
            f"run {record.run_id}: it is {record.status} in {where}, and only a finished run can be repeated"
        )
    return record


def choose_folder(results: Path, out: Path | None, run_id: str) -> Path:
    """Return the results folder of the repeated run: `out`, or the first in `results` that has no record yet.

    Raises:
        UserError: `out` is the results folder, or holds a record of the run.
    """
    if out is None:
        names = (results / RERUNS_FOLDER / f"{run_id}-{n}" for n in range(1, 10**6))
        return next(folder for folder in names if not (run_folder(folder, run_id) / RECORD_FILE).exists())
    if out.resolve() == results.resolve() or (run_folder(out, run_id) / RECORD_FILE).exists():
        raise UserError(f"--out {out}: this folder holds a record of run {run_id}, which is not replaced; name another")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: this is a file, not a folder")
    return out


def repeat_run(
    record: RunRecord,
    results: Path,
    folder: Path,
    device: str | None,
    pretrained: str | None,
    sweep: Sweep | None,
    data_dir: Path | None,
) -> RunRecord | None:
    """Train the run of a record again in another results folder. Return its record, or None if interrupted.

    An interrupted repetition goes on from its checkpoint. `device` None: the kind of the record's, if it is here.

    Raises:
        UserError: An input is not found or is another one, or the run crashed.
    """
    environment, config = record.environment, record.run_config
    assert environment
    sources = locate_sources([record], pretrained, sweep, data_dir)
    if config.start_from:
        find_start_weights(config, results)
    if not config.model.sha256:
        commit = environment.model_commit or find_model_commit(config.model.name, config.model.revision)
        sources = replace(sources, hub_commits={config.model.identity: commit})
    run = PlannedRun(record.arm, record.recipe, config, record.report)
    check_sweep_inputs([run], sources, (), environment.compiled)
    name = resolve_device(device or ("cpu" if environment.device == "cpu" else "auto"))
    execution = Execution(
        name,
        threads=environment.threads,
        micro_batch=environment.micro_batch if environment.micro_batch < config.schedule.batch_size else None,
        deterministic=environment.deterministic,
        tf32=environment.tf32,
        compile=environment.compiled,
    )
    if config.start_from:  # its weights are in the results folder of the original
        link = run_folder(folder, config.start_from.run)
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()  # the results folder may have moved since
        if not link.exists():
            link.symlink_to(run_folder(results, config.start_from.run).resolve(), target_is_directory=True)
    print(f"repeating run {record.run_id}, {run_label(run)}, in {folder}", flush=True)
    with open_display() as display:
        records = train_apart([run], folder, sources, execution, display)
    return records[0] if records else None


def train_apart(
    runs: Sequence[PlannedRun], folder: Path, sources: LocalPaths, execution: Execution, display: ShowEvent
) -> list[RunRecord] | None:
    """Train runs in a results folder of their own. Return their records, or None if interrupted.

    Raises:
        UserError: A run crashed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    executor, records = LocalExecutor([execution.device]), []
    if run_with_workers(runs, folder, sources, executor, execution, retry_crashed=True, display=display).interrupted:
        return None
    for run in runs:
        record = read_record(folder, run.run_id)
        if record is None or record.status != "finished":
            reason = record.reason if record else "no record"
            raise UserError(f"run {run.run_id}, {run_label(run)}, in {folder}: it crashed ({reason})")
        records.append(record)
    return records


def compare_runs(before: RunRecord, now: RunRecord, results: Path, folder: Path) -> RunComparison:
    """Return how a run compares with an earlier one, whose files may be gone: its record has their sums."""
    a, b = before.environment, now.environment
    assert a
    assert b
    conditions = tuple(_differing_conditions(before, now))
    uncompared = tuple(sorted(a.versions.keys() ^ b.versions.keys()))
    equal, unequal = [], []
    same = before.model_dump_json(include={*SCORED}) == now.model_dump_json(include={*SCORED})
    (equal if same else unequal).append("scores and evaluations")
    for name in FILES:
        paths = (run_folder(results, before.run_id) / name, run_folder(folder, now.run_id) / name)
        digest = file_digest(paths[0]) if paths[0].is_file() else None
        known = (before.files or {}).get(name) or digest
        if known is None:
            continue
        same, where = known == file_digest(paths[1]), ""
        if not same and known == digest:
            same = name == PREDICTIONS_FILE and _have_equal_arrays(*paths)  # another zlib compresses to other bytes
            where = _first_difference(*paths) if name == HISTORY_FILE else ""
        (equal if same else unequal).append(f"{name}{where}")
    must_be_equal = a.device == b.device == "cpu" and a.deterministic and not (conditions or uncompared)
    return RunComparison(before, now, conditions, uncompared, tuple(equal), tuple(unequal), must_be_equal)


def _differing_conditions(before: RunRecord, now: RunRecord) -> Iterator[str]:
    """Yield what may change the bits of a run and is not as in its record."""
    a, b = before.environment, now.environment
    assert a
    assert b
    for name in sorted(a.versions.keys() & b.versions.keys()):
        if a.versions[name] != b.versions[name]:
            yield f"{name} {a.versions[name]}, now {b.versions[name]}"
    names = ("platform", "device", "processor", "threads", "numerics", "micro_batch", "eval_batch")
    for name in names:
        x, y = getattr(a, name), getattr(b, name)
        if x != y:
            yield f"{name.replace('_', ' ')} {x or 'not recorded'}, now {y or 'not recorded'}"
    if _commit(a) != _commit(b):
        yield f"commit {_commit(a)}, now {_commit(b)}"
    elif a.git_dirty:
        yield f"commit {_commit(a)}, which may be others now"
    for record, when in ((before, "then"), (now, "now")):
        environment = record.environment
        assert environment
        if record.commits:
            yield f"it was trained by {len(record.commits)} commits {when}, one after another"
        if environment.micro_batch_halved:
            yield f"memory ran out {when}, and the micro-batch was halved after it had begun"
    if before.data and now.data and before.data.fingerprint != now.data.fingerprint:
        yield "the data rows are others"
    if before.start != now.start:
        yield "the run that it starts from has other weights"


def _commit(environment: Environment) -> str:
    return f"{(environment.git_commit or 'unknown')[:12]}{' with uncommitted changes' if environment.git_dirty else ''}"


def _have_equal_arrays(a: Path, b: Path) -> bool:
    with np.load(a) as one, np.load(b) as other:
        return one.files == other.files and all(
            one[name].dtype == other[name].dtype
            and one[name].shape == other[name].shape
            and one[name].tobytes() == other[name].tobytes()
            for name in one.files
        )


def _first_difference(a: Path, b: Path) -> str:
    """Return where two histories part: at the first step that is not equal."""
    lines = [path.read_text(encoding="utf-8").splitlines() for path in (a, b)]
    for step, (one, other) in enumerate(zip(*lines, strict=False), 1):
        if one != other:
            return f" from step {step} on (loss {json.loads(one)['loss']} and {json.loads(other)['loss']})"
    return f" from step {min(map(len, lines)) + 1} on"


def describe_comparison(comparison: RunComparison, siblings: Sequence[RunRecord]) -> Iterator[str]:
    """Yield lines on a repeated run. `siblings` are the finished runs that differ from it in their seeds alone."""
    before, now = comparison.before, comparison.now
    if comparison.conditions:
        yield f"not as in its record: {'; '.join(comparison.conditions)}"
    else:
        yield "versions, commit, device, threads and data are as in its record"
    if comparison.uncompared:
        yield f"versions that only one of both has: {', '.join(comparison.uncompared)}"
    if comparison.equal:
        yield f"equal bit for bit: {', '.join(comparison.equal)}"
    if not comparison.unequal:
        return
    yield f"not equal: {', '.join(comparison.unequal)}"
    metric, split = before.config.task.metric, before.config.reported_split
    what = f"{metric}, {split}, {before.report} checkpoint"
    scores = [before.reported_score, now.score(before.report, split, metric)]
    if scores[0] is None or scores[1] is None or not (isfinite(scores[0]) and isfinite(scores[1])):
        yield f"{what}: {scores[0]} then, {scores[1]} now"
        return
    difference = scores[1] - scores[0]
    yield (
        f"{what}: {format_percent(scores[0])} then, {format_percent(scores[1])} now, "
        f"a difference of {format_percent(difference, sign=True)} points"
    )
    siblings_scores = (record.score(before.report, split, metric) for record in siblings)
    others = [score for score in siblings_scores if score is not None and isfinite(score)]
    if len(others) < 3:  # as for tests of spread: two have one difference, which is no spread
        yield f"the spread of its arm's seeds is not known: {len(others)} runs that differ in their seeds alone"
        return
    spread = statistics.stdev(others)
    share = f"{abs(difference) / spread:.2g} of that" if spread else "which is 0"
    yield f"SD over the {len(others)} seeds of its arm: {format_percent(spread)} points; the difference is {share}"
