"""Collect the runs of an artefact, sweep or file of records, and group them into cells."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stableft.config.planned_run import LocalPaths, PlannedRun
from stableft.config.run_config import RunConfig
from stableft.config.sweep_file import START_ARM, Sweep, load_sweep
from stableft.errors import UserError, did_you_mean
from stableft.records.failure import is_failed
from stableft.records.frame import ReportedArm, build_frame, describe_source
from stableft.records.probe_record import (
    DriftRecord,
    GradNormsRecord,
    PerplexityRecord,
    ProbeRecord,
    ProbeRecords,
    SurfaceRecord,
    find_probes_in_files,
    find_probes_in_results,
)
from stableft.records.run_record import (
    AnyRunRecord,
    FailureWatchRecord,
    ImportedRun,
    ImportSource,
    RunRecord,
    UnknownSchemaError,
    read_record,
    read_records_file,
)
from stableft.report.artifact import (
    Artifact,
    BoldRule,
    Drifts,
    Gradients,
    Perplexities,
    ReportedCheckpoint,
    RunGroup,
    StabilityTable,
    Surfaces,
    add_imported_groups,
    imported_suffix,
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
PROBE_RECORD_OF_PART: dict[type, type[ProbeRecord]] = {
    Gradients: GradNormsRecord,
    Drifts: DriftRecord,
    Perplexities: PerplexityRecord,
    Surfaces: SurfaceRecord,
}
ArmTask = tuple[str, str]  # arm, task
RunRow = Mapping[str, Any]  # a row of the frame
# Fields of an environment record that reports leave out.
IGNORED_ENVIRONMENT_FIELDS = {"threads", "micro_batch", "micro_batch_halved", "model_commit", "drawn"}
LoadSweep = Callable[[str], Sweep]
FindProbes = Callable[[], ProbeRecords]
CurvePoint = tuple[int, float | None, float | None]  # step, mean training loss since the last point, validation score


@dataclass(frozen=True)
class WatchedRun:
    """A run with recorded gradient norms and the findings of the failure watch."""

    run_id: str
    seed: str
    failed: bool | None
    steps: int
    watch: FailureWatchRecord


@dataclass(frozen=True)
class ArmCell:
    """The runs of one arm on one task. Scores are fractions. `summary.n` counts the finished runs with a score."""

    arm: str
    task: str
    recipe: str | None
    metric: str | None
    split: str | None
    checkpoint: str | None
    summary: Summary
    planned: int | None
    unscored: int  # finished, but without the reported score
    failed: int  # of summary.n
    failed_unknown: int  # of summary.n
    failed_interval: Interval
    crashed: int
    stopped: int  # early, as hopeless
    diverged: int  # of summary.n, with a score from an earlier checkpoint
    fingerprints: int  # number of different data fingerprints
    settings: int  # number of different configs, seeds aside
    copies: int  # number of records that repeat a run
    sources: Mapping[str, int] = field(default_factory=dict)  # source of imported runs -> number of runs
    hub_models: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (name@revision, commit) -> number of runs
    starts: tuple[str, ...] = ()  # descriptions of the runs that provided initial weights
    start_weights: int = 0  # number of different initial weights
    rules: tuple[str, ...] = ()  # rules by which runs were early-stopped
    scores: tuple[float, ...] = ()
    verdicts: tuple[bool | None, ...] = ()  # whether the run of each score failed; None: not known
    seeds: tuple[tuple[int, int], ...] = ()  # of the run of each score: initialization, data
    baseline: float | None = None  # score of the best constant prediction
    judged_by_last: bool = True  # whether a run has a score of its last checkpoint, which decides if it failed
    chance: float | None = None  # the highest score that counts as failed
    failed_by_accuracy: int = 0  # of summary.n, as M sec. 3.2 defines it
    failed_by_accuracy_unknown: int = 0  # of summary.n
    scores_at: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # checkpoint -> those of the same runs
    run_ids: tuple[str, ...] = ()  # of every run, including crashed ones
    failed_losses: tuple[float, ...] = ()  # finite last training losses of the failed runs
    label_entropies: tuple[float, ...] = ()  # distinct entropies of the failed runs' training labels, in nats
    watched: tuple[WatchedRun, ...] = ()  # sorted by seed

    @property
    def n_known(self) -> int:
        """Number of runs with a score of which it is known whether they failed."""
        return self.summary.n - self.failed_unknown

    @property
    def mostly_failed(self) -> bool:
        """Whether more than half of the scores are those of failed runs: their spread then is no stability."""
        # A run fails by its last checkpoint. The score of its best one may still be above the chance level.
        chance = self.chance if self.checkpoint == "best" else None
        pairs = zip(self.verdicts, self.scores, strict=True)
        of_failed = sum(failed is True and (chance is None or is_failed(score, chance)) for failed, score in pairs)
        return of_failed > self.n_known / 2

    @property
    def score_kind(self) -> tuple[str | None, str | None, str | None]:
        """Metric, split and checkpoint of the scores."""
        return self.metric, self.split, self.checkpoint

    @property
    def reason(self) -> str | None:
        """Reason for a missing mean or std. None: both are there."""
        if self.summary.n == 0:
            return "no run has finished"
        if self.summary.n_finite == 0:
            return "every score is NaN"
        return "one score has no std" if self.summary.std is None else None


class ImportedArm(NamedTuple):
    """The arm that runs were imported as, and the file they were imported from."""

    arm: str
    source: str


@dataclass(frozen=True)
class ArtifactRuns:
    """The recorded and planned runs of an artefact.

    `planned` (numbers of runs), `sweeps` (sweep files) and `planned_configs` (of the first run) cover every arm and
    task of the sweeps, in order. `curves` is by (run id, source). `find_probes` is called when a report first needs
    probe records. Imported runs are never pooled with others: those of each source are an arm of their own, with an
    entry in `imported`.
    """

    artifact: Artifact
    frame: "pd.DataFrame"
    planned: Mapping[ArmTask, int]
    recipes: Mapping[str, str]
    sweeps: Mapping[ArmTask, str]
    planned_configs: Mapping[ArmTask, RunConfig]
    first_configs: Mapping[ArmTask, RunConfig]  # config of our first recorded run
    curves: Mapping[tuple[str, str | None], tuple[CurvePoint, ...]]
    environments: Mapping[str, int]
    unmatched_imports: tuple[str, ...] = ()  # imported arms and tasks that the artefact does not show
    find_probes: FindProbes = ProbeRecords
    imported: Mapping[ArmTask, ImportedArm] = field(default_factory=dict)  # by the arm's name in the report

    @cached_property
    def probes(self) -> ProbeRecords:
        """All probe records, including those of runs outside this artefact."""
        return self.find_probes()

    @cached_property
    def by_arm_task(self) -> dict[ArmTask, list[dict[str, Any]]]:
        """Rows of the frame by arm and task. Planned pairs without runs have an empty list."""
        return group_runs_by_arm_task(self.frame, self.planned)

    def source_of(self, arm: str, task: str) -> str | None:
        """Return where the runs of an arm on a task were imported from. None: they are runs of this project."""
        imported = self.imported.get((arm, task))
        return imported.source if imported else None

    def cell(self, arm: str, task: str) -> ArmCell:
        """Return the cell of an arm on a task, which may have no runs."""
        return make_arm_cell(arm, task, self.by_arm_task.get((arm, task), []), self.planned.get((arm, task)))


def load_artifact(name: str, load: LoadSweep) -> tuple[Artifact, tuple[tuple[str, PlannedRun], ...]]:
    """Return an artefact by its id, or that of a sweep file by its path, with the planned runs.

    Each run is paired with the path of its sweep file. `load` reads a sweep file, usually `load_sweep` with the
    user's options.

    Raises:
        UserError: `name` is neither an artefact nor a sweep file.
    """
    if name in ARTIFACTS:
        artifact = ARTIFACTS[name]
        sweep_runs = [(f"configs/{sweep}", run) for sweep in artifact.sweeps for run in load(sweep).runs]
        includes = cache(artifact.includes)  # thousands of runs share a few arms and tasks
        return artifact, tuple(pair for pair in sweep_runs if includes(pair[1].arm, pair[1].config.data.task))
    if not name.endswith(".yaml") and "/" not in name and did_you_mean(name, ARTIFACTS):
        raise UserError(f"unknown artifact {name!r}{did_you_mean(name, ARTIFACTS)}")
    sweep = load(name)
    return make_sweep_artifact(sweep.name, str(sweep.path)), tuple((str(sweep.path), run) for run in sweep.runs)


def collect_runs(
    artifact: Artifact,
    runs: Sequence[tuple[str, PlannedRun]],
    records: Iterable[AnyRunRecord],
    checkpoint: ReportedCheckpoint = "recipe",
    with_curves: bool = True,
    find_probes: FindProbes = ProbeRecords,
) -> ArtifactRuns:
    """Return the recorded runs of an artefact. `runs` are (sweep file, planned run) pairs.

    Our own records are matched to planned runs by id. Imported ones are matched by arm and task, whatever their seed.
    The records are consumed one at a time. Only with `with_curves` are the evaluations kept, which tables do not need.
    """
    arms_by_id: dict[str, list[ReportedArm]] = {}
    planned: dict[ArmTask, int] = {}
    sweeps: dict[ArmTask, str] = {}
    planned_configs: dict[ArmTask, RunConfig] = {}
    imported_as: dict[ArmTask, ReportedArm] = {}
    for sweep, run in runs:
        arm_task = (run.arm, run.config.data.task)
        reported_arm = ReportedArm(run.arm, run.recipe, run.report)
        if reported_arm not in arms_by_id.setdefault(run.run_id, []):
            arms_by_id[run.run_id].append(reported_arm)
            planned[arm_task] = planned.get(arm_task, 0) + 1
            sweeps.setdefault(arm_task, sweep)
            planned_configs.setdefault(arm_task, run.config)
            imported_as.setdefault(arm_task, reported_arm)
    details = _RecordDetails(curves={} if with_curves else None)
    rows = build_frame(_select_planned(records, arms_by_id, imported_as, details), arms_by_id, checkpoint)
    imported = _name_imported_arms(rows, details.sources)
    return ArtifactRuns(
        artifact=_with_imported_groups(artifact, imported),
        frame=rows,
        planned=planned,
        recipes={run.arm: run.recipe for _, run in runs},
        sweeps=sweeps,
        planned_configs=planned_configs,
        first_configs=details.first_configs,
        curves=details.curves or {},
        environments=details.described(),
        unmatched_imports=tuple(details.unmatched_imports),
        find_probes=find_probes,
        imported=imported,
    )


def _name_imported_arms(
    rows: "pd.DataFrame", sources: Mapping[str, ImportSource], only_mixed: bool = False
) -> dict[ArmTask, ImportedArm]:
    """Add their source to the arms of the imported runs in `rows`, and return these arms by their new name and task.

    `sources` holds the sources by their descriptions. With `only_mixed`, an arm keeps its name on a task of which all
    runs have the same origin.
    """
    if not sources:
        return {}
    names = Counter(source.name for source in sources.values())
    titles = {
        text: source.name if names[source.name] == 1 else f"{source.name} {source.sha256[:12]}"
        for text, source in sources.items()
    }
    found = list(zip(rows["arm"], rows["task"], rows["source"], strict=True))
    origins: dict[ArmTask, set[str]] = {}
    for arm, task, source in found:
        origins.setdefault((arm, task), set()).add(str(source))
    imported: dict[ArmTask, ImportedArm] = {}
    arms = []
    for arm, task, source in found:
        if source in titles and not (only_mixed and len(origins[arm, task]) == 1):
            arms.append(arm + imported_suffix(titles[source]))
            imported[arms[-1], task] = ImportedArm(arm, titles[source])
        else:
            arms.append(arm)
    rows["arm"] = arms
    return imported


def _with_imported_groups(artifact: Artifact, imported: Mapping[ArmTask, ImportedArm]) -> Artifact:
    """Return the artefact with groups for the imported runs beside those of their arms."""

    def find_sources(group: RunGroup) -> list[str]:
        return list(dict.fromkeys(arm.source for (_, task), arm in imported.items() if group.shows(arm.arm, task)))

    parts = tuple(add_imported_groups(part, find_sources) for part in artifact.parts)
    return replace(artifact, parts=parts) if imported else artifact


@dataclass
class _RecordDetails:
    """Details collected while records are read, in addition to the rows of the frame."""

    first_configs: dict[ArmTask, RunConfig] = field(default_factory=dict)
    curves: dict[tuple[str, str | None], tuple[CurvePoint, ...]] | None = field(default_factory=dict)
    environments: Counter[str] = field(default_factory=Counter)  # as JSON text, which is quick to make and count
    seen: set[str] = field(default_factory=set)
    unmatched_imports: dict[str, None] = field(default_factory=dict)
    sources: dict[str, ImportSource] = field(default_factory=dict)  # of imported runs, by description

    def described(self) -> dict[str, int]:
        """Return environment description -> number of runs."""
        named: Counter[str] = Counter()
        for text, n in self.environments.items():
            named[describe_environment(json.loads(text))] += n
        return dict(sorted(named.items()))

    def add(self, record: AnyRunRecord, arms: Iterable[str]) -> None:
        key = (record.run_id, describe_source(record))
        if isinstance(record, ImportedRun):
            self.sources.setdefault(key[1] or "", record.source)
        else:
            for arm in arms:
                self.first_configs.setdefault((arm, record.config.data.task), record.config)
            if record.environment and record.run_id not in self.seen:
                self.environments[record.environment.model_dump_json(exclude=IGNORED_ENVIRONMENT_FIELDS)] += 1
                self.seen.add(record.run_id)
        if self.curves is not None and record.status == "finished" and record.evals:
            metric = record.val_metric if isinstance(record, ImportedRun) else record.config.task.metric
            self.curves[key] = tuple((point.step, point.train_loss, point.val.get(metric)) for point in record.evals)


def _select_planned(
    records: Iterable[AnyRunRecord],
    arms_by_id: dict[str, list[ReportedArm]],
    imported_as: Mapping[ArmTask, ReportedArm],
    details: _RecordDetails,
) -> Iterator[AnyRunRecord]:
    """Yield the records that belong to an artefact. The ids of imported ones are added to `arms_by_id`."""
    for record in records:
        if isinstance(record, ImportedRun):
            reported_arm = imported_as.get((record.arm, record.task))
            if reported_arm is None:
                details.unmatched_imports[f"{record.arm} on {record.task}"] = None
                continue
            arms_by_id.setdefault(record.run_id, [ReportedArm(reported_arm.arm, reported_arm.recipe, record.report)])
        if record.run_id in arms_by_id:
            details.add(record, [reported_arm.arm for reported_arm in arms_by_id[record.run_id]])
            yield record


def _select_all(records: Iterable[AnyRunRecord], details: _RecordDetails) -> Iterator[AnyRunRecord]:
    """Yield every record except those of start runs, which only provide initial weights for others."""
    for record in records:
        if record.arm != START_ARM:
            details.add(record, [record.arm])
            yield record


def describe_environment(environment: Mapping[str, Any]) -> str:
    """Return a one-line description: device, platform, commit and versions."""
    commit = (environment["git_commit"] or "unknown")[:12]
    dirty = " with uncommitted changes" if environment["git_dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(environment["versions"].items()))
    return f"{environment['device']}, {environment['platform']}, commit {commit}{dirty}; {versions}"


def read_stored_records(results: Path, runs: Iterable[PlannedRun]) -> Iterable[RunRecord]:
    """Yield the records of these runs in a results folder, each once. Paused runs are skipped.

    Raises:
        UserError: A record is damaged.
    """
    for run_id in dict.fromkeys(run.run_id for run in runs):
        try:
            record = read_record(results, run_id)
        except UnknownSchemaError:
            raise
        except UserError as error:
            raise UserError(f"{error}; the next `stableft sweep` sets it aside and re-runs the run") from None
        if record and record.status != "paused":
            yield record


def read_all_stored_records(results: Path) -> Iterator[RunRecord]:
    """Yield the records of all run folders, sorted by run id. Paused runs are skipped."""
    folder = results / "runs"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        record = read_record(results, path.name) if path.is_dir() else None
        if record and record.status != "paused":
            yield record


def read_records_files(paths: Iterable[Path], files_with_probes: set[Path] | None = None) -> Iterable[AnyRunRecord]:
    """Yield the run records of several files. Files that also hold probe records are added to `files_with_probes`."""
    for path in paths:
        yield from read_records_file(path, files_with_probes)


def read_imported_runs(results: Path) -> Iterator[ImportedRun]:
    """Yield the imported runs in the record files of a results folder."""
    records = read_records_files(find_records_files(results))
    yield from (record for record in records if isinstance(record, ImportedRun))


def select_imported_runs(
    records: Iterable[ImportedRun], artifact: Artifact, runs: Iterable[PlannedRun]
) -> Iterator[ImportedRun]:
    """Yield the imported runs of an artefact's planned arms and tasks. There are none if it cannot show any."""
    arm_tasks = {(run.arm, run.config.data.task) for run in runs} if artifact.shows_imported_runs else ()
    yield from (record for record in records if (record.arm, record.task) in arm_tasks)


def find_records_files(results: Path) -> list[Path]:
    """Return the record files of a results folder, sorted by name."""
    return sorted((results / "records").glob("*.jsonl"))


def read_own_records(paths: Iterable[Path]) -> Iterable[RunRecord]:
    """Return an iterable over the records of several files, without imported runs."""
    return (record for record in read_records_files(paths) if isinstance(record, RunRecord))


def load_runs(
    name: str,
    results: Path,
    files: Sequence[Path],
    checkpoint: ReportedCheckpoint,
    load: LoadSweep | None = None,
    with_figures: bool = True,
) -> ArtifactRuns:
    """Return the runs of an artefact or sweep file, from record files or, without any, from the results folder.

    The results folder provides this project's runs from its run folders, and for the papers' artefacts imported runs
    from its record files.
    `name` may also be a record file. Then all its runs except start runs are returned, with the arm names stored in
    it. Without `with_figures`, a stability table is loaded without curves and probe records.

    Raises:
        UserError: There is no such artefact, sweep file or record file, or a record is damaged.
    """
    if name.endswith(".jsonl"):
        return load_runs_from_file(Path(name), checkpoint, with_figures)
    artifact, runs = load_artifact(name, load or (lambda path: load_sweep(path, LocalPaths())))
    files_with_probes: set[Path] = set()
    if files:
        records, find = (
            read_records_files(files, files_with_probes),
            lambda: find_probes_in_files(sorted(files_with_probes)),
        )
    else:
        planned = [run for _, run in runs]
        records = read_stored_records(results, planned)
        if artifact.id in ARTIFACTS:
            records = itertools.chain(records, select_imported_runs(read_imported_runs(results), artifact, planned))
        find = partial(find_probes_in_results, results, [run.run_id for run in planned])
    table_only = not with_figures and isinstance(artifact.parts[0], StabilityTable)
    if table_only:
        find = ProbeRecords  # only figures show probe records
    return collect_runs(artifact, runs, records, checkpoint, not table_only, find)


def load_runs_from_file(
    path: Path, checkpoint: ReportedCheckpoint = "recipe", with_curves: bool = True
) -> ArtifactRuns:
    """Return all runs of a record file, in file order, as if a sweep had planned exactly these."""
    artifact = make_sweep_artifact(path.stem, str(path))
    details = _RecordDetails(curves={} if with_curves else None)
    files_with_probes: set[Path] = set()
    rows = build_frame(_select_all(read_records_file(path, files_with_probes), details), None, checkpoint)
    imported = _name_imported_arms(rows, details.sources, only_mixed=True)
    planned = Counter(zip(rows["arm"], rows["task"], strict=True))
    return ArtifactRuns(
        artifact=artifact,
        frame=rows,
        planned=planned,
        recipes=dict(zip(rows["arm"], rows["recipe"], strict=True)),
        sweeps={},
        planned_configs=details.first_configs,
        first_configs=details.first_configs,
        curves=details.curves or {},
        environments=details.described(),
        find_probes=partial(find_probes_in_files, sorted(files_with_probes)) if with_curves else ProbeRecords,
        imported=imported,
    )


def compare_against(runs: ArtifactRuns, arm: str) -> ArtifactRuns:
    """Return the runs of a sweep or file, with every arm to be compared with `arm`.

    Raises:
        UserError: The runs are those of a paper's artefact, or there is no such arm.
    """
    artifact = runs.artifact
    if artifact.id in ARTIFACTS:
        raise UserError(f"--against {arm}: {artifact.id} compares what the paper compares; --against is for sweeps")
    names = list(dict.fromkeys(name for name, _ in runs.planned))
    if arm not in names:
        raise UserError(
            f"--against {arm}: there is no such arm{did_you_mean(arm, names)}; there are {', '.join(names)}"
        )
    return replace(runs, artifact=make_sweep_artifact(artifact.id, artifact.sweeps[0], arm))


def as_means_table(runs: ArtifactRuns, rule: BoldRule) -> ArtifactRuns:
    """Return the runs of a sweep as a table of means with one of Z's rules for bold numbers.

    Raises:
        UserError: The runs are those of a paper's artefact, which has its own rule, or the rule compares two arms and
            a task has another number of them.
    """
    artifact = runs.artifact
    if artifact.id in ARTIFACTS:
        raise UserError(f"--rule {rule}: {artifact.id} uses the paper's own rule; --rule is for sweeps")
    cells = [arm_task for arm_task in runs.planned if arm_task not in runs.imported]
    tasks = Counter(task for _, task in cells)
    if rule in ("different", "pair") and any(arms != 2 for arms in tasks.values()):
        arms_per_task = ", ".join(f"{task} has {arms}" for task, arms in tasks.items())
        raise UserError(f"--rule {rule}: it compares two arms per task; {arms_per_task}: select two with --arms")
    means = make_means_artifact(artifact.id, artifact.sweeps[0], rule, cells)
    return replace(runs, artifact=_with_imported_groups(means, runs.imported))


def make_arm_cell(arm: str, task: str, runs: Sequence[Mapping[str, Any]], planned: int | None) -> ArmCell:
    """Return the cell of these rows of the frame, of which there may be none.

    Raises:
        UserError: The runs differ in metric, split or checkpoint.
    """
    scored = [run for run in runs if run["scored"]]
    if runs and all(isinstance(run["source"], str) for run in runs):
        planned = None  # imported runs were planned elsewhere
    summary = summarize([run["score"] for run in scored])
    known_verdicts, known_by_accuracy = (
        [run[name] for run in scored if isinstance(run[name], bool)] for name in ("failed", "failed_by_accuracy")
    )
    crashed, stopped = (sum(run["status"] == status for run in runs) for status in ("crashed", "stopped"))
    recipes = {run["recipe"] for run in runs}
    failed_runs = [run for run in scored if run["failed"] is True]
    return ArmCell(
        arm=arm,
        task=task,
        recipe=recipes.pop() if len(recipes) == 1 else None,
        metric=_single_value(scored or runs, "metric", arm, task),
        split=_single_value(scored or runs, "split", arm, task),
        checkpoint=_single_value(scored or runs, "checkpoint", arm, task),
        summary=summary,
        planned=planned,
        unscored=len(runs) - crashed - stopped - len(scored),
        failed=sum(known_verdicts),
        failed_unknown=len(scored) - len(known_verdicts),
        failed_interval=wilson_interval(sum(known_verdicts), len(known_verdicts)),
        crashed=crashed,
        stopped=stopped,
        diverged=sum(run["diverged"] and not math.isnan(run["score"]) for run in scored),
        fingerprints=len({run["data_fingerprint"] for run in scored if isinstance(run["data_fingerprint"], str)}),
        settings=len({run["setting"] for run in runs}),
        copies=sum(max(run["copies"] - 1, 0) for run in runs),
        sources=dict(Counter(run["source"] for run in runs if isinstance(run["source"], str))),
        hub_models=dict(Counter(run["hub_model"] for run in runs if isinstance(run["hub_model"], tuple))),
        starts=_distinct_texts(runs, "start"),
        start_weights=len(_distinct_texts(runs, "start_sha256")),
        rules=_distinct_texts(runs, "rule"),
        scores=tuple(run["score"] for run in scored),
        verdicts=tuple(run["failed"] if isinstance(run["failed"], bool) else None for run in scored),
        seeds=tuple((run["seed_init"], run["seed_data"]) for run in scored),
        scores_at={
            checkpoint: tuple(run[checkpoint] for run in scored if run["diverged"] or not math.isnan(run[checkpoint]))
            for checkpoint in ("last", "best")
        },
        baseline=max((run["baseline"] for run in scored if not math.isnan(run["baseline"])), default=None),
        chance=max((run["chance"] for run in scored if not math.isnan(run["chance"])), default=None),
        failed_by_accuracy=sum(known_by_accuracy),
        failed_by_accuracy_unknown=len(scored) - len(known_by_accuracy),
        judged_by_last=any(math.isfinite(run["last"]) for run in scored),
        run_ids=tuple(run["run_id"] for run in runs),
        failed_losses=tuple(run["train_loss"] for run in failed_runs if math.isfinite(run["train_loss"])),
        label_entropies=tuple(
            sorted({run["label_entropy"] for run in failed_runs if not math.isnan(run["label_entropy"])})
        ),
        watched=tuple(_watched_runs(runs)),
    )


def hub_drift_note(*cells: ArmCell) -> str | None:
    """Return a line if the runs of a hub model were trained from several commits, which it names; None otherwise."""
    runs_by_commit: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        for (model, commit), n in cell.hub_models.items():
            runs_of_commit = runs_by_commit.setdefault(model, {}).setdefault(commit, [])
            runs_of_commit.append(f"{n} run{'s' * (n > 1)} of {cell.arm} on {cell.task}")
    drifted = [
        f"{model} is of {len(commits)} commits, so of different weights: "
        + "; ".join(f"{commit} ({', '.join(counts)})" for commit, counts in commits.items())
        for model, commits in runs_by_commit.items()
        if len(commits) > 1
    ]
    return f"{'. '.join(drifted)}." if drifted else None


def _watched_runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[WatchedRun]:
    watched = [run for run in runs if isinstance(run["watch"], FailureWatchRecord) and run["status"] == "finished"]
    for run in sorted(watched, key=seed_order):
        seed = seed_label(run["seed_init"], run["seed_data"])
        failed = run["failed"] if isinstance(run["failed"], bool) else None
        yield WatchedRun(run["run_id"], seed, failed, int(run["steps"]), run["watch"])


def _distinct_texts(runs: Sequence[Mapping[str, Any]], column: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run[column] for run in runs if isinstance(run[column], str)))


def _single_value(runs: Sequence[Mapping[str, Any]], name: str, arm: str, task: str) -> str | None:
    values = sorted({run[name] for run in runs})
    if len(values) > 1:
        raise UserError(
            f"the runs of {arm!r} on {task!r} are scored by different {name}s ({', '.join(values)}); "
            "one cell holds scores of one kind: give the arms different names"
        )
    return values[0] if values else None


def collect_provenance(runs: ArtifactRuns) -> Provenance:
    """Return the numbers of runs by arm, task and origin, their environments, and their ids."""
    counts = []
    for (arm, task), run_rows in runs.by_arm_task.items():
        by_origin: dict[str, int] = {}
        for run in run_rows:
            if run["status"] == "finished":
                origin = run["source"] if isinstance(run["source"], str) else OWN_ORIGIN
                by_origin[origin] = by_origin.get(origin, 0) + 1
        planned = runs.planned.get((arm, task), 0)
        counts += [
            OriginCount(arm, task, origin, n, planned if origin == OWN_ORIGIN else n)
            for origin, n in (by_origin or {OWN_ORIGIN: 0}).items()
        ]
    ids = tuple(dict.fromkeys(run["run_id"] for run_rows in runs.by_arm_task.values() for run in run_rows))
    return Provenance(tuple(counts), tuple(runs.environments.items()), ids)


def missing_run_notes(runs: ArtifactRuns) -> Iterator[str]:
    """Yield a line for each unfinished sweep, with its counts and the command to complete it."""
    if runs.artifact.has_no_runs:
        return
    by_sweep: dict[str, list[int]] = {}
    for arm_task, planned in runs.planned.items():
        own_runs = (run for run in runs.by_arm_task[arm_task] if not isinstance(run["source"], str))
        finished = sum(run["status"] == "finished" for run in own_runs)
        if sweep := runs.sweeps.get(arm_task):
            counts = by_sweep.setdefault(sweep, [0, 0])
            counts[0] += finished
            counts[1] += planned
    for sweep, (finished, planned) in by_sweep.items():
        if finished < planned:
            yield (
                f"{finished:,} of {planned:,} runs of this project are there; `stableft sweep {sweep}` makes the rest."
            )
    if runs.unmatched_imports:
        yield (
            f"Imported runs of {', '.join(runs.unmatched_imports)} are not shown here: no arm and task of the artefact "
            "has that name."
        )


def curve_of_run(runs: ArtifactRuns, run: RunRow) -> tuple[CurvePoint, ...]:
    """Return the points of a run's evaluations. Empty if no record has any."""
    return runs.curves.get((run["run_id"], run["source"] if isinstance(run["source"], str) else None), ())


def seed_order(run: RunRow) -> tuple[int, int, str]:
    """Return a sort key that orders runs by seed."""
    return run["seed_init"], run["seed_data"], run["run_id"]


NO_FINISHED_RUN = "no run is finished"


def reported_score(run: RunRow, split: str) -> float | None:
    """Return a run's reported score if `split` is "test", else the validation score of the same checkpoint.

    None: unknown.
    """
    if split == "test":
        return run["score"]
    score = run["best_val" if run["checkpoint"] == "best" else "last_val"]
    return None if math.isnan(score) and not run["diverged"] else score


RunsByArmTask = dict[tuple[str, str], list[dict[str, Any]]]


def group_runs_by_arm_task(frame: "pd.DataFrame", planned: Iterable[ArmTask]) -> RunsByArmTask:
    """Return the rows of a frame by arm and task. Planned pairs without runs have an empty list."""
    groups: RunsByArmTask = {place: [] for place in planned}
    for run in frame.to_dict("records"):
        groups.setdefault((run["arm"], run["task"]), []).append(run)  # type: ignore[arg-type]
    return groups
