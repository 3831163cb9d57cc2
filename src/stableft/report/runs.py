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

from stableft.config.command_config import CommandConfig
from stableft.config.decide_rule import DecideRule
from stableft.config.planned_run import ArmTask, LocalPaths, PlannedRun, SeedPair
from stableft.config.run_config import RunConfig
from stableft.config.sweep_arms import START_ARM
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.errors import UserError, did_you_mean
from stableft.records.energy import EnergyTotals
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
    COMPILED,
    NOT_DETERMINISTIC,
    NUMERICS,
    AnyRunRecord,
    ImportedRun,
    ImportSource,
)
from stableft.records.stored_records import read_imported_runs, read_records_files, read_stored_records
from stableft.report.arm_cells import ArmCell, RunRow, make_arm_cell
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

if TYPE_CHECKING:
    import pandas as pd


ARTIFACTS: dict[str, Artifact] = MOSBACH | ZHANG
PROBE_RECORD_OF_PART: dict[type, type[ProbeRecord]] = {
    Gradients: GradNormsRecord,
    Drifts: DriftRecord,
    Perplexities: PerplexityRecord,
    Surfaces: SurfaceRecord,
}
# Fields of an environment record that reports leave out.
IGNORED_ENVIRONMENT_FIELDS = {
    "threads", "micro_batch", "micro_batch_halved", "micro_batch_halved_at", "eval_batch", "eval_batch_halved_at",
    "model_commit", "energy", "drawn", "processor",
}  # fmt: skip
LoadSweep = Callable[[str], Sweep]
FindProbes = Callable[[], ProbeRecords]
CurvePoint = tuple[int, float | None, float | None]  # step, mean training loss since the last point, validation score


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
    energy: EnergyTotals = field(default_factory=EnergyTotals)
    unmatched_imports: tuple[str, ...] = ()  # imported arms and tasks that the artefact does not show
    find_probes: FindProbes = ProbeRecords
    imported: Mapping[ArmTask, ImportedArm] = field(default_factory=dict)  # by the arm's name in the report
    commands: Mapping[ArmTask, CommandConfig] = field(default_factory=dict)  # which are in none of the other configs
    rule: DecideRule | None = None  # of the sweep, whose claims it decides
    rule_was_stated: bool = True  # before the runs: every record of the sweep keeps it
    seeds: Mapping[ArmTask, list[SeedPair]] = field(default_factory=dict)  # with a rule: the planned ones, in order

    @cached_property
    def probes(self) -> ProbeRecords:
        """All probe records, including those of runs outside this artefact."""
        return self.find_probes()

    @property
    def in_claims(self) -> set[ArmTask]:
        """The arms and tasks of which a rule decides how many runs there are."""
        names = (self.rule.between or [*dict.fromkeys(arm for arm, _ in self.seeds)]) if self.rule else []
        pairs = [((names[0], task), (arm, task)) for arm, task in self.seeds if arm in names[1:]]
        return {place for pair in pairs if pair[0] in self.seeds for place in pair}

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
    commands: dict[ArmTask, CommandConfig] = {}
    imported_as: dict[ArmTask, ReportedArm] = {}
    rule, seeds = None, dict[ArmTask, list[SeedPair]]()
    for sweep, run in runs:
        arm_task = (run.arm, run.config.data.task)
        reported_arm = ReportedArm(run.arm, run.recipe, run.report)
        if reported_arm not in arms_by_id.setdefault(run.run_id, []):
            arms_by_id[run.run_id].append(reported_arm)
            planned[arm_task] = planned.get(arm_task, 0) + 1
            sweeps.setdefault(arm_task, sweep)
            _set_config(planned_configs, commands, arm_task, run.config)
            imported_as.setdefault(arm_task, reported_arm)
            if run.decide:
                rule = run.decide
                seeds.setdefault(arm_task, []).append((run.config.seeds.init, run.config.seeds.data))
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
        energy=details.energy,
        unmatched_imports=tuple(details.unmatched_imports),
        find_probes=find_probes,
        imported=imported,
        commands=commands | details.commands,
        rule=rule,
        rule_was_stated=details.keep(rule, checkpoint),
        seeds=seeds,
    )


def _set_config(
    configs: dict[ArmTask, RunConfig],
    commands: dict[ArmTask, CommandConfig],
    arm_task: ArmTask,
    config: RunConfig | CommandConfig,
) -> None:
    if isinstance(config, CommandConfig):
        commands.setdefault(arm_task, config)
    else:
        configs.setdefault(arm_task, config)


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
    commands: dict[ArmTask, CommandConfig] = field(default_factory=dict)
    curves: dict[tuple[str, str | None], tuple[CurvePoint, ...]] | None = field(default_factory=dict)
    environments: Counter[str] = field(default_factory=Counter)  # as JSON text, which is quick to make and count
    energy: EnergyTotals = field(default_factory=EnergyTotals)
    seen: set[str] = field(default_factory=set)
    unmatched_imports: dict[str, None] = field(default_factory=dict)
    sources: dict[str, ImportSource] = field(default_factory=dict)  # of imported runs, by description
    rules: list[DecideRule | None] = field(default_factory=list)  # different ones, of runs of this project
    reports: set[str] = field(default_factory=set)  # the checkpoints that they report

    def common_rule(self) -> DecideRule | None:
        """Return the rule of the sweep that made the runs, if those that keep one keep the same."""
        kept = [rule for rule in self.rules if rule]
        return kept[0] if len(kept) == 1 and not self.sources else None

    def keep(self, rule: DecideRule | None, checkpoint: ReportedCheckpoint) -> bool:
        """Return whether all records keep this rule, and report the checkpoint whose scores are shown."""
        return all(one == rule for one in self.rules) and (checkpoint == "recipe" or self.reports <= {checkpoint})

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
                _set_config(self.first_configs, self.commands, (arm, record.config.data.task), record.config)
            self.reports.add(record.report)
            if record.decide not in self.rules:
                self.rules.append(record.decide)
            if record.environment and record.run_id not in self.seen:
                self.environments[record.environment.model_dump_json(exclude=IGNORED_ENVIRONMENT_FIELDS)] += 1
                self.energy.add(record.environment.energy, record.environment.device)
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
    device = environment["device"] + (" with TF32" if environment["tf32"] else "")
    device += "" if environment.get("deterministic", True) else NOT_DETERMINISTIC
    device += COMPILED if environment.get("compiled") else ""
    older = f" (numerics version {environment['numerics']})" if environment["numerics"] != NUMERICS else ""
    return f"{device}{older}, {environment['platform']}, commit {commit}{dirty}; {versions}"


def select_imported_runs(
    records: Iterable[ImportedRun], artifact: Artifact, runs: Iterable[PlannedRun]
) -> Iterator[ImportedRun]:
    """Yield the imported runs of an artefact's planned arms and tasks. There are none if it cannot show any."""
    arm_tasks = {(run.arm, run.config.data.task) for run in runs} if artifact.shows_imported_runs else ()
    yield from (record for record in records if (record.arm, record.task) in arm_tasks)


def load_runs(
    name: str,
    results: Path,
    files: Sequence[Path],
    checkpoint: ReportedCheckpoint,
    load: LoadSweep | None = None,
    with_figures: bool = True,
    more: Sequence[Path] = (),
) -> ArtifactRuns:
    """Return the runs of an artefact or sweep file, from record files or, without any, from the results folder.

    The results folder provides this project's runs from its run folders, and for the papers' artefacts imported runs
    from its record files.
    `name` may also be a record file. Then all runs in it and in `more` such files are returned except start runs, with
    the arm names stored in them. Without `with_figures`, a stability table is loaded without curves and probe records.

    Raises:
        UserError: There is no such artefact, sweep file or record file, or a record is damaged.
    """
    if name.endswith(".jsonl"):
        return load_runs_from_file(Path(name), checkpoint, with_figures, more)
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
    path: Path, checkpoint: ReportedCheckpoint = "recipe", with_curves: bool = True, more: Sequence[Path] = ()
) -> ArtifactRuns:
    """Return all runs of a record file and `more`, in file order, as if a sweep had planned exactly these."""
    paths = list(dict.fromkeys((path, *more)))
    artifact = make_sweep_artifact(", ".join(one.stem for one in paths), str(path))
    details = _RecordDetails(curves={} if with_curves else None)
    files_with_probes: set[Path] = set()
    rows = build_frame(_select_all(read_records_files(paths, files_with_probes), details), None, checkpoint)
    imported = _name_imported_arms(rows, details.sources, only_mixed=True)
    planned = Counter(zip(rows["arm"], rows["task"], strict=True))
    rule = details.common_rule()
    seeds: dict[ArmTask, list[SeedPair]] = {place: [] for place in planned} if rule else {}
    columns = (rows[name] for name in ("seed_init", "seed_data", "arm", "task"))
    for init, data, arm, task in sorted(zip(*columns, strict=True)) if rule else ():
        seeds[arm, task].append((init, data))
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
        energy=details.energy,
        find_probes=partial(find_probes_in_files, sorted(files_with_probes)) if with_curves else ProbeRecords,
        imported=imported,
        commands=details.commands,
        rule=rule,
        rule_was_stated=details.keep(rule, checkpoint),
        seeds=seeds,
    )


def find_sweep_of_file(runs: ArtifactRuns) -> str | None:
    """Return the shipped sweep file with the name of a record file, if its arms have the settings of the runs.

    Its runs may be on padded rows and those of the file on packed ones, or the other way round.
    """
    name = f"configs/{runs.artifact.id}.yaml"
    try:
        sweep = load_sweep(name, LocalPaths()) if runs.first_configs and not runs.commands else None
    except UserError:
        return None
    if sweep is None:
        return None
    planned = {(run.arm, run.config.data.task): run.config.setting_id(("execution",)) for run in sweep.runs}
    recorded = {arm_task: config.setting_id(("execution",)) for arm_task, config in runs.first_configs.items()}
    return name if recorded.items() <= planned.items() else None


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
        if finished < planned and runs.rule:
            yield f"{finished:,} of {planned:,} planned runs are there; the rule decides how many the claims need."
        elif finished < planned:
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
