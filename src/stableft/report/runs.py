"""Collect the runs of an artefact, sweep or file of records, and group them into cells."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.run_config import RunConfig
from stableft.config.sweep_file import START_ARM, Sweep, load_sweep
from stableft.errors import UserError, did_you_mean
from stableft.records.frame import ReportedArm, build_frame, describe_source
from stableft.records.probe_record import ProbeRecords, find_probes_in_files, find_probes_in_results
from stableft.records.run_record import (
    AnyRunRecord,
    FailureWatchRecord,
    ImportedRun,
    RunRecord,
    read_record,
    read_records_file,
)
from stableft.report.artifact import (
    Artifact,
    BoldRule,
    ReportedCheckpoint,
    StabilityTable,
    make_means_artifact,
    make_sweep_artifact,
)
from stableft.report.forms.document import OWN_ORIGIN, OriginCount, Provenance
from stableft.report.mosbach import MOSBACH_ARTIFACTS as MOSBACH
from stableft.report.zhang import ZHANG_ARTIFACTS as ZHANG
from stableft.stats import Interval, Summary, summarize, wilson_interval
from stableft.text import seed_label

if TYPE_CHECKING:
    import pandas as pd


ARTIFACTS: dict[str, Artifact] = MOSBACH | ZHANG
ArmTask = tuple[str, str]  # arm, task
RunRow = Mapping[str, Any]  # a row of the frame
IGNORED_ENVIRONMENT_FIELDS = {
    "threads",
    "micro_batch",
    "micro_batch_halved",
    "model_commit",
    "drawn",
}  # of an environment
LoadSweep = Callable[[str], Sweep]
FindProbes = Callable[[], ProbeRecords]
CurvePoint = tuple[int, float | None, float | None]  # step, training loss since the one before, validation score


@dataclass(frozen=True)
class WatchedRun:
    """A run whose gradient norms were recorded, and what the failure watch saw."""

    run_id: str
    seed: str
    failed: bool | None
    steps: int
    watch: FailureWatchRecord


@dataclass(frozen=True)
class ArmCell:
    """The runs of one arm on one task. Scores are fractions; `summary.n` counts the finished runs that have one."""

    row: str
    column: str
    recipe: str | None
    metric: str | None
    split: str | None
    checkpoint: str | None
    summary: Summary
    planned: int | None
    unscored: int  # finished without the reported score
    failed: int  # of summary.n
    failed_unknown: int  # of summary.n
    failed_interval: Interval
    crashed: int
    stopped: int  # early, as hopeless
    diverged: int  # of summary.n, with a score from before
    fingerprints: int  # how many different data rows
    settings: int  # how many configs, seeds aside
    copies: int  # records that repeat a run
    sources: Mapping[str, int] = field(default_factory=dict)  # where imported runs came from -> how many
    starts: tuple[str, ...] = ()  # the runs whose weights they started from, in words
    start_weights: int = 0  # how many different weights these were
    rules: tuple[str, ...] = ()  # by which runs were stopped
    scores: tuple[float, ...] = ()
    baseline: float | None = None  # what always predicting the most frequent class scores
    run_ids: tuple[str, ...] = ()  # of every run, the crashed ones included
    failed_losses: tuple[float, ...] = ()  # the failed runs' last training losses, as far as they are finite
    label_entropies: tuple[float, ...] = ()  # of those runs' training labels, each value once
    watched: tuple[WatchedRun, ...] = ()  # by seed

    @property
    def every_run_failed(self) -> bool:
        """True if every run failed and none of the scores shown is above the baseline either."""
        above = any(score > self.baseline + 1e-12 for score in self.scores) if self.baseline is not None else False
        return self.summary.n > 0 and self.failed == self.summary.n and not above

    @property
    def reason(self) -> str | None:
        """Why mean or std are missing, or None."""
        if self.summary.n == 0:
            return "no run has finished"
        if self.summary.n_finite == 0:
            return "every score is NaN"
        return "one score has no std" if self.summary.std is None else None


@dataclass(frozen=True)
class ArtifactRuns:
    """The runs of an artefact: those that are there, and what is known of those that are not.

    `planned` has every arm and task of the sweeps, in their order, with the number of runs; `sweeps` the file that
    makes them, `plans` the config of the first. `curves` are of a run id and source. `find_probes` looks for what
    probes left, once a report needs it.
    """

    artifact: Artifact
    frame: "pd.DataFrame"
    planned: Mapping[ArmTask, int]
    recipes: Mapping[str, str]
    sweeps: Mapping[ArmTask, str]
    plans: Mapping[ArmTask, RunConfig]
    configs: Mapping[ArmTask, RunConfig]  # of the first own run that is there
    curves: Mapping[tuple[str, str | None], tuple[CurvePoint, ...]]
    environments: Mapping[str, int]
    unused: tuple[str, ...] = ()  # arms and tasks of imported runs that the artefact does not show
    find_probes: FindProbes = ProbeRecords

    @cached_property
    def probes(self) -> ProbeRecords:
        """What probes left of any run, this artefact's or not."""
        return self.find_probes()

    @cached_property
    def by_place(self) -> dict[ArmTask, list[dict[str, Any]]]:
        """The rows of the frame by arm and task; the places without any run too."""
        return group_runs_by_arm_task(self.frame, self.planned)

    def cell(self, arm: str, task: str) -> ArmCell:
        """Return the cell of an arm on a task, which may have no runs."""
        return make_arm_cell(arm, task, self.by_place.get((arm, task), []), self.planned.get((arm, task)))


def load_artifact(name: str, load: LoadSweep) -> tuple[Artifact, tuple[tuple[str, PlannedRun], ...]]:
    """Return the artefact of that id with the runs of its sweeps, or else the one of the sweep file of that name.

    Each run comes with the path of its sweep file. `load` expands a sweep file, such as `sweepfile.load_sweep` with a
    user's choices.

    Raises:
        UserError: it is neither.
    """
    if name in ARTIFACTS:
        artifact = ARTIFACTS[name]
        found = [(f"configs/{sweep}", run) for sweep in artifact.sweeps for run in load(sweep).runs]
        return artifact, tuple(pair for pair in found if artifact.includes(pair[1].arm, pair[1].config.data.task))
    if not name.endswith(".yaml") and "/" not in name and did_you_mean(name, ARTIFACTS):
        raise UserError(f"artifact {name!r} is not known{did_you_mean(name, ARTIFACTS)}")
    sweep = load(name)
    return make_sweep_artifact(sweep.name, str(sweep.path)), tuple((str(sweep.path), run) for run in sweep.runs)


def collect_runs(
    artifact: Artifact,
    runs: Sequence[tuple[str, PlannedRun]],
    records: Iterable[AnyRunRecord],
    which: ReportedCheckpoint = "recipe",
    curves: bool = True,
    find_probes: FindProbes = ProbeRecords,
) -> ArtifactRuns:
    """Return the runs of an artefact, each with the path of its sweep file, as far as there are records of them.

    An own record belongs to a run by its id. An imported one belongs to the arm and task that it was imported as,
    whatever its seed. The records are read one at a time. Without `curves` what was seen at every evaluation, which
    tables do not need, is not kept.
    """
    names: dict[str, list[ReportedArm]] = {}
    planned: dict[ArmTask, int] = {}
    sweeps: dict[ArmTask, str] = {}
    plans: dict[ArmTask, RunConfig] = {}
    imported_as: dict[ArmTask, ReportedArm] = {}
    for sweep, run in runs:
        place = (run.arm, run.config.data.task)
        name = ReportedArm(run.arm, run.recipe, run.config.evaluation.report)
        if name not in names.setdefault(run.run_id, []):
            names[run.run_id].append(name)
            planned[place] = planned.get(place, 0) + 1
            sweeps.setdefault(place, sweep)
            plans.setdefault(place, run.config)
            imported_as.setdefault(place, name)
    kept = _RecordDetails(curves={} if curves else None)
    rows = build_frame(_select_planned(records, names, imported_as, kept), names, which)
    return ArtifactRuns(
        artifact=artifact,
        frame=rows,
        planned=planned,
        recipes={run.arm: run.recipe for _, run in runs},
        sweeps=sweeps,
        plans=plans,
        configs=kept.configs,
        curves=kept.curves or {},
        environments=kept.described(),
        unused=tuple(kept.unused),
        find_probes=find_probes,
    )


@dataclass
class _RecordDetails:
    """What is kept of records that have been read, besides the rows of the frame."""

    configs: dict[ArmTask, RunConfig] = field(default_factory=dict)
    curves: dict[tuple[str, str | None], tuple[CurvePoint, ...]] | None = field(default_factory=dict)
    environments: Counter[str] = field(default_factory=Counter)  # as JSON, which is quick
    seen: set[str] = field(default_factory=set)
    unused: dict[str, None] = field(default_factory=dict)

    def described(self) -> dict[str, int]:
        """Return how many runs each environment has, in words."""
        named: Counter[str] = Counter()
        for text, n in self.environments.items():
            named[describe_environment(json.loads(text))] += n
        return dict(sorted(named.items()))

    def add(self, record: AnyRunRecord, arms: Iterable[str]) -> None:
        key = (record.run_id, describe_source(record))
        if isinstance(record, RunRecord):
            for arm in arms:
                self.configs.setdefault((arm, record.config.data.task), record.config)
            if record.environment and record.run_id not in self.seen:
                self.environments[record.environment.model_dump_json(exclude=IGNORED_ENVIRONMENT_FIELDS)] += 1
                self.seen.add(record.run_id)
        if self.curves is not None and record.status == "finished" and record.evals:
            metric = record.val_metric if isinstance(record, ImportedRun) else record.config.task.metric
            self.curves[key] = tuple((point.step, point.train_loss, point.val.get(metric)) for point in record.evals)


def _select_planned(
    records: Iterable[AnyRunRecord],
    names: dict[str, list[ReportedArm]],
    imported_as: Mapping[ArmTask, ReportedArm],
    kept: _RecordDetails,
) -> Iterator[AnyRunRecord]:
    """Yield the records that belong to an artefact, under `names`, which imported ones are added to."""
    for record in records:
        if isinstance(record, ImportedRun):
            name = imported_as.get((record.arm, record.task))
            if name is None:
                kept.unused[f"{record.arm} on {record.task}"] = None
                continue
            names.setdefault(record.run_id, [ReportedArm(name.arm, name.recipe, record.report)])
        if record.run_id in names:
            kept.add(record, [name.arm for name in names[record.run_id]])
            yield record


def _select_all(records: Iterable[AnyRunRecord], kept: _RecordDetails) -> Iterator[AnyRunRecord]:
    """Yield every record but those of runs that were trained only because others start from them."""
    for record in records:
        if record.arm != START_ARM:
            kept.add(record, [record.arm])
            yield record


def describe_environment(environment: Mapping[str, Any]) -> str:
    """Return device, commit and versions on one line."""
    commit = (environment["git_commit"] or "unknown")[:12]
    dirty = " with uncommitted changes" if environment["git_dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(environment["versions"].items()))
    return f"{environment['device']}, {environment['platform']}, commit {commit}{dirty}; {versions}"


def read_stored_records(results: Path, runs: Iterable[PlannedRun]) -> Iterable[RunRecord]:
    """Yield the records of these runs in a results folder, each once; runs that are paused have none yet.

    Raises:
        UserError: a record is damaged.
    """
    for run_id in dict.fromkeys(run.run_id for run in runs):
        try:
            record = read_record(results, run_id)
        except UserError as error:
            raise UserError(f"{error}; the next `stableft sweep` sets it aside and does the run again") from None
        if record and record.status != "paused":
            yield record


def read_all_stored_records(results: Path) -> Iterator[RunRecord]:
    """Yield the records of the run folders, in the order of their ids; runs that are paused have none yet."""
    folder = results / "runs"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        record = read_record(results, path.name) if path.is_dir() else None
        if record and record.status != "paused":
            yield record


def read_records_files(paths: Iterable[Path], probed: set[Path] | None = None) -> Iterable[AnyRunRecord]:
    """Yield the records of runs in several files; `probed` takes those files that have records of probes too."""
    for path in paths:
        yield from read_records_file(path, probed)


def read_own_records(paths: Iterable[Path]) -> Iterable[RunRecord]:
    """Yield the records of several files that are of this project's runs."""
    return (record for record in read_records_files(paths) if isinstance(record, RunRecord))


def load_runs(
    name: str,
    results: Path,
    files: Sequence[Path],
    which: ReportedCheckpoint,
    load: LoadSweep | None = None,
    draws: bool = True,
) -> ArtifactRuns:
    """Return the runs of a sweep file or artefact from run folders or, where given, from files of records.

    `name` may also be a file of records itself: then its runs are all there are, under the names stored with them,
    but for those that were trained only because others start from them. Without `draws` a table of stability is not
    to be drawn, and needs no curves.

    Raises:
        UserError: there is no such sweep file, artefact or records file, or a record is damaged.
    """
    if name.endswith(".jsonl"):
        return load_runs_from_file(Path(name), which, draws)
    artifact, runs = load_artifact(name, load or (lambda path: load_sweep(path, LocalPaths())))
    with_probes: set[Path] = set()
    if files:
        records, find = read_records_files(files, with_probes), lambda: find_probes_in_files(sorted(with_probes))
    else:
        records = read_stored_records(results, [run for _, run in runs])
        find = partial(find_probes_in_results, results, [run.run_id for _, run in runs])
    table_only = not draws and isinstance(artifact.parts[0], StabilityTable)
    if table_only:
        find = ProbeRecords  # only figures show what probes left
    return collect_runs(artifact, runs, records, which, not table_only, find)


def load_runs_from_file(path: Path, which: ReportedCheckpoint = "recipe", curves: bool = True) -> ArtifactRuns:
    """Return all runs of a file of records, in its order, as if a sweep had planned just these."""
    artifact = make_sweep_artifact(path.stem, str(path))
    kept = _RecordDetails(curves={} if curves else None)
    with_probes: set[Path] = set()
    rows = build_frame(_select_all(read_records_file(path, with_probes), kept), None, which)
    planned = Counter(zip(rows["arm"], rows["task"], strict=True))
    return ArtifactRuns(
        artifact=artifact,
        frame=rows,
        planned=planned,
        recipes=dict(zip(rows["arm"], rows["recipe"], strict=True)),
        sweeps={},
        plans=kept.configs,
        configs=kept.configs,
        curves=kept.curves or {},
        environments=kept.described(),
        find_probes=partial(find_probes_in_files, sorted(with_probes)) if curves else ProbeRecords,
    )


def as_means_table(runs: ArtifactRuns, rule: BoldRule) -> ArtifactRuns:
    """Return the runs of a sweep as a table of means, of which one of Z's rules sets some in bold.

    Raises:
        UserError: they are those of a paper's artefact, which has its own rule.
    """
    artifact = runs.artifact
    if artifact.id in ARTIFACTS:
        raise UserError(f"--rule {rule}: {artifact.id} has the paper's own rule; --rule is for a sweep")
    tasks = Counter(task for _, task in runs.planned)
    if rule in ("different", "pair") and any(arms != 2 for arms in tasks.values()):
        found = ", ".join(f"{task} has {arms}" for task, arms in tasks.items())
        raise UserError(f"--rule {rule}: it is about two arms of a task; {found}: --arms chooses them")
    return replace(runs, artifact=make_means_artifact(artifact.id, artifact.sweeps[0], rule, runs.planned))


def make_arm_cell(row: str, column: str, runs: Sequence[Mapping[str, Any]], planned: int | None) -> ArmCell:
    """Return the cell of these rows of the frame, of which there may be none; nobody here planned imported runs.

    Raises:
        UserError: the runs are scored by different metrics, splits or checkpoints.
    """
    scored = [run for run in runs if run["scored"]]
    if runs and all(isinstance(run["source"], str) for run in runs):
        planned = None
    summary = summarize([run["score"] for run in scored])
    verdicts = [run["failed"] for run in scored if isinstance(run["failed"], bool)]  # else nobody knows
    crashed, stopped = (sum(run["status"] == status for run in runs) for status in ("crashed", "stopped"))
    recipes = {run["recipe"] for run in runs}
    lost = [run for run in scored if run["failed"] is True]
    return ArmCell(
        row=row,
        column=column,
        recipe=recipes.pop() if len(recipes) == 1 else None,
        metric=_single_value(scored or runs, "metric", row, column),
        split=_single_value(scored or runs, "split", row, column),
        checkpoint=_single_value(scored or runs, "checkpoint", row, column),
        summary=summary,
        planned=planned,
        unscored=len(runs) - crashed - stopped - len(scored),
        failed=sum(verdicts),
        failed_unknown=len(scored) - len(verdicts),
        failed_interval=wilson_interval(sum(verdicts), len(verdicts)),
        crashed=crashed,
        stopped=stopped,
        diverged=sum(run["diverged"] and not math.isnan(run["score"]) for run in scored),
        fingerprints=len({run["data_fingerprint"] for run in scored if isinstance(run["data_fingerprint"], str)}),
        settings=len({run["setting"] for run in runs}),
        copies=sum(max(run["copies"] - 1, 0) for run in runs),
        sources=dict(Counter(run["source"] for run in runs if isinstance(run["source"], str))),
        starts=_distinct_texts(runs, "start"),
        start_weights=len(_distinct_texts(runs, "start_sha256")),
        rules=_distinct_texts(runs, "rule"),
        scores=tuple(run["score"] for run in scored),
        baseline=max((run["baseline"] for run in scored if not math.isnan(run["baseline"])), default=None),
        run_ids=tuple(run["run_id"] for run in runs),
        failed_losses=tuple(run["train_loss"] for run in lost if math.isfinite(run["train_loss"])),
        label_entropies=tuple(sorted({run["label_entropy"] for run in lost if not math.isnan(run["label_entropy"])})),
        watched=tuple(_watched_runs(runs)),
    )


def _watched_runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[WatchedRun]:
    seen = [run for run in runs if isinstance(run["watch"], FailureWatchRecord) and run["status"] == "finished"]
    for run in sorted(seen, key=seed_order):
        seed = seed_label(run["seed_init"], run["seed_data"])
        failed = run["failed"] if isinstance(run["failed"], bool) else None
        yield WatchedRun(run["run_id"], seed, failed, int(run["steps"]), run["watch"])


def _distinct_texts(runs: Sequence[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run[name] for run in runs if isinstance(run[name], str)))


def _single_value(runs: Sequence[Mapping[str, Any]], name: str, row: str, column: str) -> str | None:
    values = sorted({run[name] for run in runs})
    if len(values) > 1:
        raise UserError(
            f"the runs of {row!r} on {column!r} are scored by different {name}s ({', '.join(values)}); "
            "one cell holds scores of one kind: give the arms different names"
        )
    return values[0] if values else None


def collect_provenance(runs: ArtifactRuns) -> Provenance:
    """Return how many runs of each arm, task and origin there are, where they ran, and their ids."""
    counts = []
    for (arm, task), found in runs.by_place.items():
        by_origin: dict[str, int] = {}
        for run in found:
            if run["status"] == "finished":
                origin = run["source"] if isinstance(run["source"], str) else OWN_ORIGIN
                by_origin[origin] = by_origin.get(origin, 0) + 1
        planned = runs.planned.get((arm, task), 0)
        counts += [
            OriginCount(arm, task, origin, n, planned if origin == OWN_ORIGIN else n)
            for origin, n in (by_origin or {OWN_ORIGIN: 0}).items()
        ]
    ids = tuple(dict.fromkeys(run["run_id"] for found in runs.by_place.values() for run in found))
    return Provenance(tuple(counts), tuple(runs.environments.items()), ids)


def missing_run_notes(runs: ArtifactRuns) -> Iterator[str]:
    """Yield for each sweep how many of its runs are not finished, and the command that fills the rest."""
    if runs.artifact.has_no_runs:
        return
    by_sweep: dict[str, list[int]] = {}
    for place, planned in runs.planned.items():
        own = (run for run in runs.by_place[place] if not isinstance(run["source"], str))
        done = sum(run["status"] == "finished" for run in own)
        if sweep := runs.sweeps.get(place):
            counts = by_sweep.setdefault(sweep, [0, 0])
            counts[0] += done
            counts[1] += planned
    for sweep, (done, planned) in by_sweep.items():
        if done < planned:
            yield f"{done:,} of {planned:,} runs of this project are there; `stableft sweep {sweep}` makes the rest."
    if runs.unused:
        yield (
            f"Imported runs of {', '.join(runs.unused)} are not shown here: no arm and task of the artefact has that "
            "name."
        )


def curve_of_run(runs: ArtifactRuns, run: RunRow) -> tuple[CurvePoint, ...]:
    """Return what was seen of a run at its evaluations; empty where no record has it."""
    return runs.curves.get((run["run_id"], run["source"] if isinstance(run["source"], str) else None), ())


def seed_order(run: RunRow) -> tuple[int, int, str]:
    """Return the key that sorts runs by seed."""
    return run["seed_init"], run["seed_data"], run["run_id"]


NO_FINISHED_RUN = "no run is finished"


def reported_score(run: RunRow, of: str) -> float | None:
    """Return the score that tables show of a run, or its validation score (None: not known)."""
    if of == "test":
        return run["score"]
    score = run["best_val" if run["checkpoint"] == "best" else "last_val"]
    return None if math.isnan(score) and not run["diverged"] else score


RunsByArmTask = dict[tuple[str, str], list[dict[str, Any]]]


def group_runs_by_arm_task(frame: "pd.DataFrame", planned: Iterable[ArmTask]) -> RunsByArmTask:
    """Return the runs of a frame by arm and task, with the planned pairs that have none."""
    places: RunsByArmTask = {place: [] for place in planned}
    for run in frame.to_dict("records"):
        places.setdefault((run["arm"], run["task"]), []).append(run)  # type: ignore[arg-type]
    return places
