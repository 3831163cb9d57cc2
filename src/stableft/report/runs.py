"""From a sweep file or an artefact's id, and records, to the `Runs` that its tables and figures are made from."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stableft.config.planned_run import PlannedRun, Sources
from stableft.config.run_config import RunConfig
from stableft.config.sweep_file import START, Sweep, load_sweep
from stableft.errors import UserError, nearest
from stableft.records.frame import Name, described_source, frame
from stableft.records.probe_record import Probed, probed_in_files, probed_in_results
from stableft.records.run_record import AnyRun, ImportedRun, RunRecord, WatchRecord, read_record, read_records_file
from stableft.report.artifact import Artifact, Checkpoint, Rule, means_artifact, sweep_artifact
from stableft.report.forms.document import Provenance
from stableft.report.mosbach import ARTIFACTS as MOSBACH
from stableft.report.zhang import ARTIFACTS as ZHANG
from stableft.stats import Interval, Summary, describe, wilson

if TYPE_CHECKING:
    import pandas as pd


ARTIFACTS: dict[str, Artifact] = MOSBACH | ZHANG
Place = tuple[str, str]  # arm, task
VARYING = {"threads", "micro_batch", "micro_batch_halved", "model_commit", "drawn"}  # of an environment
Load = Callable[[str], Sweep]
FindProbes = Callable[[], Probed]
Evaluation = tuple[int, float | None, float | None]  # step, training loss since the one before, validation score


@dataclass(frozen=True)
class Watched:
    """A run whose gradient norms were recorded, and what the failure watch saw."""

    run_id: str
    seed: str  # both where they differ
    failed: bool | None
    steps: int
    watch: WatchRecord


@dataclass(frozen=True)
class Cell:
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
    watched: tuple[Watched, ...] = ()  # by seed

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
class Runs:
    """The runs of an artefact: those that are there, and what is known of those that are not.

    `planned` has every arm and task of the sweeps, in their order, with the number of runs; `sweeps` the file that
    makes them, `plans` the config of the first. `curves` are of a run id and source. `find_probes` looks for what
    probes left, once a report needs it.
    """

    artifact: Artifact
    frame: "pd.DataFrame"
    planned: Mapping[Place, int]
    recipes: Mapping[str, str]
    sweeps: Mapping[Place, str]
    plans: Mapping[Place, RunConfig]
    configs: Mapping[Place, RunConfig]  # of the first own run that is there
    curves: Mapping[tuple[str, str | None], tuple[Evaluation, ...]]
    environments: Mapping[str, int]
    unused: tuple[str, ...] = ()  # arms and tasks of imported runs that the artefact does not show
    find_probes: FindProbes = Probed

    @cached_property
    def probes(self) -> Probed:
        """What probes left of any run, this artefact's or not."""
        return self.find_probes()

    @cached_property
    def by_place(self) -> dict[Place, list[dict[str, Any]]]:
        """The rows of the frame by arm and task; the places without any run too."""
        return place_runs(self.frame, self.artifact, self.planned)

    def cell(self, arm: str, task: str) -> Cell:
        """Returns the cell of an arm on a task, which may have no runs."""
        return make_cell(arm, task, self.by_place.get((arm, task), []), self.planned.get((arm, task)))


def planned_runs(name: str, load: Load) -> tuple[Artifact, tuple[tuple[str, PlannedRun], ...]]:
    """Returns the artefact of that id with the runs of its sweeps, or else the one of the sweep file of that name.

    Each run comes with the path of its sweep file. `load` expands a sweep file, such as `sweepfile.load_sweep` with a
    user's choices.

    Raises:
        UserError: it is neither.
    """
    if name in ARTIFACTS:
        artifact = ARTIFACTS[name]
        found = [(f"configs/{sweep}", run) for sweep in artifact.sweeps for run in load(sweep).runs]
        return artifact, tuple(pair for pair in found if artifact.shows(pair[1].arm, pair[1].config.data.task))
    if not name.endswith(".yaml") and "/" not in name and nearest(name, ARTIFACTS):
        raise UserError(f"artifact {name!r} is not known{nearest(name, ARTIFACTS)}")
    sweep = load(name)
    return sweep_artifact(sweep.name, str(sweep.path)), tuple((str(sweep.path), run) for run in sweep.runs)


def gather(
    artifact: Artifact,
    runs: Sequence[tuple[str, PlannedRun]],
    records: Iterable[AnyRun],
    which: Checkpoint = "recipe",
    curves: bool = True,
    find_probes: FindProbes = Probed,
) -> Runs:
    """Returns the runs of an artefact, each with the path of its sweep file, as far as there are records of them.

    An own record belongs to a run by its id. An imported one belongs to the arm and task that it was imported as,
    whatever its seed. The records are read one at a time. Without `curves` what was seen at every evaluation, which
    tables do not need, is not kept.
    """
    names: dict[str, list[Name]] = {}
    planned: dict[Place, int] = {}
    sweeps: dict[Place, str] = {}
    plans: dict[Place, RunConfig] = {}
    imported_as: dict[Place, Name] = {}
    for sweep, run in runs:
        place = (run.arm, run.config.data.task)
        name = Name(run.arm, run.recipe, run.config.evaluation.report)
        if name not in names.setdefault(run.run_id, []):
            names[run.run_id].append(name)
            planned[place] = planned.get(place, 0) + 1
            sweeps.setdefault(place, sweep)
            plans.setdefault(place, run.config)
            imported_as.setdefault(place, name)
    kept = _Kept(curves={} if curves else None)
    rows = frame(_read_planned(records, names, imported_as, kept), names, which)
    return Runs(
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
class _Kept:
    """What is kept of records that have been read, besides the rows of the frame."""

    configs: dict[Place, RunConfig] = field(default_factory=dict)
    curves: dict[tuple[str, str | None], tuple[Evaluation, ...]] | None = field(default_factory=dict)
    environments: Counter[str] = field(default_factory=Counter)  # as JSON, which is quick
    seen: set[str] = field(default_factory=set)
    unused: dict[str, None] = field(default_factory=dict)

    def described(self) -> dict[str, int]:
        """Returns how many runs each environment has, in words."""
        named: Counter[str] = Counter()
        for text, n in self.environments.items():
            named[describe_environment(json.loads(text))] += n
        return dict(sorted(named.items()))

    def add(self, record: AnyRun, arms: Iterable[str]) -> None:
        key = (record.run_id, described_source(record))
        if isinstance(record, RunRecord):
            for arm in arms:
                self.configs.setdefault((arm, record.config.data.task), record.config)
            if record.environment and record.run_id not in self.seen:
                self.environments[record.environment.model_dump_json(exclude=VARYING)] += 1
                self.seen.add(record.run_id)
        if self.curves is not None and record.status == "finished" and record.evals:
            metric = record.val_metric if isinstance(record, ImportedRun) else record.config.task.metric
            self.curves[key] = tuple((point.step, point.train_loss, point.val.get(metric)) for point in record.evals)


def _read_planned(
    records: Iterable[AnyRun], names: dict[str, list[Name]], imported_as: Mapping[Place, Name], kept: _Kept
) -> Iterator[AnyRun]:
    """Yields the records that belong to an artefact, under `names`, which imported ones are added to."""
    for record in records:
        if isinstance(record, ImportedRun):
            name = imported_as.get((record.arm, record.task))
            if name is None:
                kept.unused[f"{record.arm} on {record.task}"] = None
                continue
            names.setdefault(record.run_id, [Name(name.arm, name.recipe, record.report)])
        if record.run_id in names:
            kept.add(record, [name.arm for name in names[record.run_id]])
            yield record


def _read_all(records: Iterable[AnyRun], kept: _Kept) -> Iterator[AnyRun]:
    """Yields every record but those of runs that were trained only because others start from them."""
    for record in records:
        if record.arm != START:
            kept.add(record, [record.arm])
            yield record


def describe_environment(environment: Mapping[str, Any]) -> str:
    """Returns device, commit and versions on one line."""
    commit = (environment["git_commit"] or "unknown")[:12]
    dirty = " with uncommitted changes" if environment["git_dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(environment["versions"].items()))
    return f"{environment['device']}, {environment['platform']}, commit {commit}{dirty}; {versions}"


def stored_records(results: Path, runs: Iterable[PlannedRun]) -> Iterable[RunRecord]:
    """Yields the records of these runs in a results folder, each once; runs that are paused have none yet.

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


def all_stored(results: Path) -> Iterator[RunRecord]:
    """Yields the records of the run folders, in the order of their ids; runs that are paused have none yet."""
    folder = results / "runs"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        record = read_record(results, path.name) if path.is_dir() else None
        if record and record.status != "paused":
            yield record


def filed_records(paths: Iterable[Path], probed: set[Path] | None = None) -> Iterable[AnyRun]:
    """Yields the records of runs in several files; `probed` takes those files that have records of probes too."""
    for path in paths:
        yield from read_records_file(path, probed)


def own_records(paths: Iterable[Path]) -> Iterable[RunRecord]:
    """Yields the records of several files that are of this project's runs."""
    return (record for record in filed_records(paths) if isinstance(record, RunRecord))


def runs_of(
    name: str, results: Path, files: Sequence[Path], which: Checkpoint, load: Load | None = None, draws: bool = True
) -> Runs:
    """Returns the runs of a sweep file or artefact from run folders or, where given, from files of records.

    `name` may also be a file of records itself: then its runs are all there are, under the names stored with them,
    but for those that were trained only because others start from them. Without `draws` a table of stability is not
    to be drawn, and needs no curves.

    Raises:
        UserError: there is no such sweep file, artefact or records file, or a record is damaged.
    """
    if name.endswith(".jsonl"):
        return runs_of_file(Path(name), which, draws)
    artifact, runs = planned_runs(name, load or (lambda path: load_sweep(path, Sources())))
    with_probes: set[Path] = set()
    if files:
        records, find = filed_records(files, with_probes), lambda: probed_in_files(sorted(with_probes))
    else:
        records = stored_records(results, [run for _, run in runs])
        find = partial(probed_in_results, results, [run.run_id for _, run in runs])
    if not draws and not artifact.parts:
        find = Probed  # nothing else shows what probes left
    return gather(artifact, runs, records, which, draws or bool(artifact.parts), find)


def runs_of_file(path: Path, which: Checkpoint = "recipe", curves: bool = True) -> Runs:
    """Returns all runs of a file of records, in its order, as if a sweep had planned just these."""
    artifact = sweep_artifact(path.stem, str(path))
    kept = _Kept(curves={} if curves else None)
    with_probes: set[Path] = set()
    rows = frame(_read_all(read_records_file(path, with_probes), kept), None, which)
    planned = Counter(zip(rows["arm"], rows["task"], strict=True))
    return Runs(
        artifact=artifact,
        frame=rows,
        planned=planned,
        recipes=dict(zip(rows["arm"], rows["recipe"], strict=True)),
        sweeps={},
        plans=kept.configs,
        configs=kept.configs,
        curves=kept.curves or {},
        environments=kept.described(),
        find_probes=partial(probed_in_files, sorted(with_probes)) if curves else Probed,
    )


def with_rule(runs: Runs, rule: Rule) -> Runs:
    """Returns the runs of a sweep as a table of means, of which one of Z's rules sets some in bold.

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
    return replace(runs, artifact=means_artifact(artifact.id, artifact.sweeps[0], rule, runs.planned))


def make_cell(row: str, column: str, runs: Sequence[Mapping[str, Any]], planned: int | None) -> Cell:
    """Returns the cell of these rows of the frame, of which there may be none; nobody here planned imported runs.

    Raises:
        UserError: the runs are scored by different metrics, splits or checkpoints.
    """
    scored = [run for run in runs if run["scored"]]
    if runs and all(isinstance(run["source"], str) for run in runs):
        planned = None
    summary = describe([run["score"] for run in scored])
    verdicts = [run["failed"] for run in scored if isinstance(run["failed"], bool)]  # else nobody knows
    crashed, stopped = (sum(run["status"] == status for run in runs) for status in ("crashed", "stopped"))
    recipes = {run["recipe"] for run in runs}
    lost = [run for run in scored if run["failed"] is True]
    return Cell(
        row=row,
        column=column,
        recipe=recipes.pop() if len(recipes) == 1 else None,
        metric=_one_of(scored or runs, "metric", row, column),
        split=_one_of(scored or runs, "split", row, column),
        checkpoint=_one_of(scored or runs, "checkpoint", row, column),
        summary=summary,
        planned=planned,
        unscored=len(runs) - crashed - stopped - len(scored),
        failed=sum(verdicts),
        failed_unknown=len(scored) - len(verdicts),
        failed_interval=wilson(sum(verdicts), len(verdicts)),
        crashed=crashed,
        stopped=stopped,
        diverged=sum(run["diverged"] and not math.isnan(run["score"]) for run in scored),
        fingerprints=len({run["data_fingerprint"] for run in scored if isinstance(run["data_fingerprint"], str)}),
        settings=len({run["setting"] for run in runs}),
        copies=sum(max(run["copies"] - 1, 0) for run in runs),
        sources=dict(Counter(run["source"] for run in runs if isinstance(run["source"], str))),
        starts=_texts(runs, "start"),
        start_weights=len(_texts(runs, "start_sha256")),
        rules=_texts(runs, "rule"),
        scores=tuple(run["score"] for run in scored),
        baseline=max((run["baseline"] for run in scored if not math.isnan(run["baseline"])), default=None),
        run_ids=tuple(run["run_id"] for run in runs),
        failed_losses=tuple(run["train_loss"] for run in lost if math.isfinite(run["train_loss"])),
        label_entropies=tuple(sorted({run["label_entropy"] for run in lost if not math.isnan(run["label_entropy"])})),
        watched=tuple(_watched(runs)),
    )


def _watched(runs: Sequence[Mapping[str, Any]]) -> Iterator[Watched]:
    seen = [run for run in runs if isinstance(run["watch"], WatchRecord) and run["status"] == "finished"]
    for run in sorted(seen, key=lambda run: (run["seed_init"], run["seed_data"], run["run_id"])):
        init, data = run["seed_init"], run["seed_data"]
        seed = str(init) if init == data else f"{init} and {data}"
        failed = run["failed"] if isinstance(run["failed"], bool) else None
        yield Watched(run["run_id"], seed, failed, int(run["steps"]), run["watch"])


def _texts(runs: Sequence[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run[name] for run in runs if isinstance(run[name], str)))


def _one_of(runs: Sequence[Mapping[str, Any]], name: str, row: str, column: str) -> str | None:
    values = sorted({run[name] for run in runs})
    if len(values) > 1:
        raise UserError(
            f"the runs of {row!r} on {column!r} are scored by different {name}s ({', '.join(values)}); "
            "one cell holds scores of one kind: give the arms different names"
        )
    return values[0] if values else None


OWN = "this project"


def provenance(runs: Runs) -> Provenance:
    """Returns how many runs of each arm, task and origin there are, where they ran, and their ids."""
    counts = []
    for (arm, task), found in runs.by_place.items():
        by_origin: dict[str, int] = {}
        for run in found:
            if run["status"] == "finished":
                origin = run["source"] if isinstance(run["source"], str) else OWN
                by_origin[origin] = by_origin.get(origin, 0) + 1
        planned = runs.planned.get((arm, task), 0)
        counts += [(arm, task, origin, n, planned if origin == OWN else n) for origin, n in by_origin.items()]
        counts += [] if by_origin else [(arm, task, OWN, 0, planned)]
    ids = tuple(dict.fromkeys(run["run_id"] for found in runs.by_place.values() for run in found))
    return Provenance(tuple(counts), tuple(runs.environments.items()), ids)


def missing_runs(runs: Runs) -> Iterator[str]:
    """Yields for each sweep how many of its runs are not finished, and the command that fills the rest."""
    if runs.artifact.needs_no_run:
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


def provenance_values(found: Provenance) -> dict[str, Any]:
    """Returns where a report's numbers come from as JSON values."""
    names = ("arm", "task", "origin", "finished", "planned")
    return {
        "runs": [dict(zip(names, run, strict=True)) for run in found.runs],
        "environments": [{"environment": text, "runs": n} for text, n in found.environments],
        "run_ids": list(found.run_ids),
    }


NONE_YET = "no run is finished"

Run = Mapping[str, Any]


def reported(run: Run, of: str) -> float | None:
    """Returns the score that tables show of a run, or its validation score (None: not known)."""
    if of == "test":
        return run["score"]
    score = run["best_val" if run["checkpoint"] == "best" else "last_val"]
    return None if math.isnan(score) and not run["diverged"] else score


Places = dict[tuple[str, str], list[dict[str, Any]]]


def place_runs(frame: "pd.DataFrame", artifact: Artifact, planned: Iterable[tuple[str, str]]) -> Places:
    """Returns the runs of a frame by row and column of the artefact's table, with the planned places that have none."""
    places: Places = {place: [] for place in planned}
    for run in frame.to_dict("records"):
        places.setdefault((run[artifact.row], run[artifact.column]), []).append(run)  # type: ignore[arg-type]
    return places
