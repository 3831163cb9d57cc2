"""`stableft choose`: select each grid's best setting by mean validation score, and write a sweep file of these."""

import itertools
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stableft.catalog.tasks import METRIC_TITLES
from stableft.config.local_files import find_file, shipped_configs
from stableft.config.planned_run import LocalPaths
from stableft.config.recipe import find_recipe
from stableft.config.run_config import RunConfig
from stableft.config.sweep_arms import parse_seeds
from stableft.config.sweep_file import Sweep, SweepPoint, grid_label, load_sweep
from stableft.config.yaml_file import YamlDumper
from stableft.errors import UserError
from stableft.records.run_record import RunRecord, atomic_write
from stableft.text import TextRow, align_columns


@dataclass(frozen=True)
class TriedSetting:
    """A setting with the validation scores (fractions) of its finished runs. NaN: the run diverged."""

    point: SweepPoint
    scores: tuple[float, ...]
    crashed: int
    stopped_early: int

    @property
    def unfinished(self) -> int:
        """Number of runs that have neither finished, crashed nor been early-stopped."""
        return len(self.point.runs) - len(self.scores) - self.crashed - self.stopped_early

    @property
    def mean(self) -> float:
        """Mean score. NaN if there are no scores or if any run diverged."""
        return statistics.fmean(self.scores) if self.scores else math.nan

    @property
    def std(self) -> float | None:
        """Standard deviation of the scores (ddof 1). None with fewer than two scores, or if any run diverged."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 and not math.isnan(self.mean) else None


@dataclass(frozen=True)
class GridSearch:
    """The settings of one arm on one task with one model, in grid order. A single setting is not a search."""

    settings: tuple[TriedSetting, ...]

    @property
    def best(self) -> TriedSetting:
        """The setting with the highest mean; the first of equal ones."""
        known = [setting for setting in self.settings if not math.isnan(setting.mean)]
        # Ties are common with few validation rows. Floating-point error must not break them.
        return max(known, key=lambda setting: round(setting.mean, 12), default=self.settings[0])


def choose_settings(
    sweep: Sweep,
    records: Iterable[RunRecord],
    out: Path | None = None,
    seeds: str | None = None,
    report_seeds: str | None = None,
    allow_missing: bool = False,
) -> str:
    """Write a sweep file of the chosen settings and return a table of all settings' scores.

    `out` defaults to the sweep's file name plus `-chosen`, in the current folder. `seeds` are the seeds that replaced
    the sweep's own when it was loaded. `report_seeds` are the seeds of the written file.

    Raises:
        UserError: Runs are missing, there is nothing to choose, or `out` cannot be written.
    """
    if report_seeds is not None:
        parse_seeds(report_seeds, "--report-seeds")
    searches = collect_grid_searches(sweep, records)
    check_grid_searches(sweep, searches, allow_missing)
    notes = [_choice_line(search) for search in searches if len(search.settings) > 1]
    chosen = [search.best.point for search in searches]
    out = out or Path(f"{sweep.path.stem}-chosen.yaml")
    runs = write_chosen_sweep(sweep, chosen, notes, out, report_seeds or seeds)
    return f"{render_grid_searches(searches)}\n\nwrote {out}: {runs} runs"


def collect_grid_searches(sweep: Sweep, records: Iterable[RunRecord]) -> list[GridSearch]:
    """Return the grid searches of a sweep's arms, in file order, with scores from the records.

    A run's score is the reported metric on the validation rows, at the checkpoint that its arm reports.
    """
    by_id: dict[str, RunRecord] = {}
    for record in records:
        if record.run_id not in by_id or by_id[record.run_id].status != "finished":
            by_id[record.run_id] = record
    searches = []
    for _, points in itertools.groupby(sweep.points, lambda point: (point.arm, point.task, point.model)):
        searches.append(GridSearch(tuple(_score_setting(point, by_id) for point in points)))
    return searches


def _score_setting(point: SweepPoint, by_id: dict[str, RunRecord]) -> TriedSetting:
    scores, ends = [], Counter()
    for run in point.runs:
        record = by_id.get(run.run_id)
        ends[record and record.status] += 1
        if record and record.status == "finished":
            score = record.score(run.report, "val", run.config.task.metric)
            scores.append(math.nan if score is None else score)
    return TriedSetting(point, tuple(scores), ends["crashed"], ends["stopped"])


def check_grid_searches(sweep: Sweep, searches: list[GridSearch], allow_missing: bool) -> None:
    """Check that every search has a best setting.

    Raises:
        UserError: No arm has a search, runs are missing, or a search has no best setting. With `allow_missing`, runs
            may be missing. A search has no best setting if each of its settings has a diverged run or no finished run.
    """
    if command := next((point.arm.name for point in sweep.points if point.arm.keys.command), None):
        raise UserError(f"{sweep.path}: arm {command!r} has a command and no grid; choose among the others with --arms")
    searched = [search for search in searches if len(search.settings) > 1]
    if not searched:
        raise UserError(f"{sweep.path}: no arm has a grid of several settings, so there is nothing to choose")
    settings = [settings for search in searched for settings in search.settings]
    planned = sum(len(setting.point.runs) for setting in settings)
    finished = sum(len(setting.scores) for setting in settings)
    if finished < planned and not allow_missing:
        crashed = sum(setting.crashed for setting in settings)
        stopped = sum(setting.stopped_early for setting in settings)
        unfinished = sum(setting.unfinished for setting in settings)
        raise UserError(
            f"{sweep.path}: {finished} of the {planned} runs of its grids are finished, {crashed} crashed, {stopped} "
            f"were stopped early and {unfinished} are left; run them with `stableft sweep` (crashed ones need "
            "--retry-crashed, stopped ones a sweep without stop_hopeless), or choose with --allow-missing"
        )
    for search in searched:
        if math.isnan(search.best.mean):
            scored = any(setting.scores for setting in search.settings)
            reason = "every setting has a diverged run, whose score is NaN" if scored else "no run is finished"
            raise UserError(f"{sweep.path}: {_search_label(search)}: {reason}, so there is no best setting")


def render_grid_searches(searches: list[GridSearch]) -> str:
    """Return a table with one line per setting, the chosen ones marked, and notes on the comparison."""
    rows: list[TextRow] = [("arm", "task", "model", "setting", "validation score", "n", "mean", "std", "")]
    tasks_on_report_rows = []
    for search in searches:
        config = search.best.point.runs[0].config
        if len(search.settings) > 1 and config.reported_split == "val":
            tasks_on_report_rows.append(config.data.task)
        for tried in search.settings:
            searched = len(search.settings) > 1
            remark = "no choice" if not searched else "<- chosen" if tried is search.best else ""
            diverged = sum(math.isnan(score) for score in tried.scores)
            remark = f"{diverged} diverged" if diverged and searched else remark
            rows.append((*_row_labels(tried), *_score_cells(tried), remark))
    if len({row[2] for row in rows}) == 2:  # the header plus a single model: drop the column
        rows = [(*row[:2], *row[3:]) for row in rows]
    notes = [
        "mean and std over seeds, in percent, on validation rows; the first setting with the highest mean is chosen",
        "a setting with a diverged run has no mean and is not chosen",
    ]
    n_stopped = sum(tried.stopped_early for search in searches for tried in search.settings)
    if n_stopped:
        notes.append(
            f"{n_stopped} runs were stopped early because of their scores: the means are over the better ones only"
        )
    if tasks_on_report_rows:
        tasks = ", ".join(dict.fromkeys(tasks_on_report_rows))
        notes.append(f"{tasks}: reports use the same rows, so the choice makes the chosen settings' scores too high")
    return "\n".join([align_columns(rows), "", *notes])


def _row_labels(tried: TriedSetting) -> tuple[str, str, str, str]:
    config = tried.point.runs[0].config
    return (
        tried.point.arm.name,
        config.data.task,
        tried.point.model_label or (config.model.name if isinstance(config, RunConfig) else "(a command)"),
        _setting_label(tried.point),
    )


def _score_cells(tried: TriedSetting) -> tuple[str, str, str, str]:
    first, planned = tried.point.runs[0], len(tried.point.runs)
    n = str(planned) if len(tried.scores) == planned else f"{len(tried.scores)} of {planned}"
    mean = "-" if math.isnan(tried.mean) else f"{100 * tried.mean:.2f}"
    deviation = "-" if tried.std is None else f"{100 * tried.std:.2f}"
    return f"{METRIC_TITLES[first.config.task.metric]}, {first.report} checkpoint", n, mean, deviation


def _setting_label(point: SweepPoint) -> str:
    return grid_label(point.grid) or "-"


def _search_label(search: GridSearch) -> str:
    arm, task, model, _ = _row_labels(search.settings[0])
    return f"arm {arm!r}, task {task!r}, model {model!r}"


def _choice_line(search: GridSearch) -> str:
    """Return a one-line summary of a choice, for the header of the written file."""
    score, n, mean, deviation = _score_cells(search.best)
    arm, task, model, setting = _row_labels(search.best)
    place = f"{arm}, {task}" + (f", {model}" if search.best.point.model_label else "")
    return f"{place}: {setting} ({score}: mean {mean}, std {deviation}, n {n}; of {len(search.settings)} settings)"


CHOSEN_MARK = "chosen by `stableft choose`"
YAML_MAP_TAG = "tag:yaml.org,2002:map"
ArmEntry = dict[str, Any]  # an arm of the written file


def write_chosen_sweep(
    sweep: Sweep, chosen: Sequence[SweepPoint], notes: Iterable[str], out: Path, seeds: str | None
) -> int:
    """Write a sweep of the chosen points and return its number of runs.

    `seeds` None: the arms keep their own seeds. An arm is split into several of the same name if its tasks differ in
    the chosen setting. Paths are kept as written if they resolve to the same file from the new file's folder.
    Otherwise they are made absolute.

    Raises:
        UserError: `out` is not a usable path, or a setting cannot be expressed in a sweep file.
    """
    check_chosen_sweep_path(sweep, out)
    for point in chosen:
        if any(key.startswith("seeds.") for key in point.settings):
            raise UserError("--set seeds.init and seeds.data cannot be kept in a sweep file; use --report-seeds")
    folder = out.resolve().parent
    entries = [entry for points in _group_by_arm(chosen) for entry in _arm_entries(points, sweep, folder, seeds)]
    body = _dump(_sweep_file_content(entries))
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, suffix=".yaml") as draft:
        draft.write(body)
        draft.flush()
        try:
            written = load_sweep(draft.name, LocalPaths())
        except UserError as error:
            reason = str(error).replace(draft.name, "it")
            raise UserError(f"{sweep.path}: the choice cannot be written as one sweep file: {reason}") from None
    chosen_keys = {point.runs[0].config.setting_id() for point in chosen}
    assert {run.config.setting_id() for run in written.runs} == chosen_keys, "the file asks for other runs"
    shipped = sweep.path.resolve().is_relative_to(shipped_configs().resolve())
    origin = f"configs/{sweep.name}.yaml" if shipped else sweep.path
    header = [f"stableft sweep {out}      {CHOSEN_MARK} from {origin}      {len(written.runs)} runs"]
    header += ["Of each grid the setting with the highest mean validation score over seeds, in percent:"]
    header += [f"  {note}" for note in notes]
    atomic_write(out, ("".join(f"# {line}\n" for line in header) + body).encode())
    return len(written.runs)


def check_chosen_sweep_path(sweep: Sweep, out: Path) -> None:
    """Raise UserError if `out` is not a usable path, or exists and was not written by this command."""
    if out.is_dir() or out.suffix != ".yaml":
        raise UserError(f"--out {out}: the file name must end in .yaml")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and (out.samefile(sweep.path) or CHOSEN_MARK.encode() not in out.read_bytes().partition(b"\n")[0]):
        raise UserError(f"--out {out}: this file was not written by `stableft choose`; use another name")


def _group_by_arm(points: Sequence[SweepPoint]) -> Iterable[list[SweepPoint]]:
    for _, arm_points in itertools.groupby(points, lambda point: point.arm):
        yield list(arm_points)


def _arm_entries(points: list[SweepPoint], sweep: Sweep, folder: Path, seeds: str | None) -> list[ArmEntry]:
    """Return the arm entries for one arm's chosen points.

    There is one entry per model and setting. If all models agree on the settings, they share entries.
    """
    by_model: dict[str, list[SweepPoint]] = {}
    for point in points:
        by_model.setdefault(repr(point.model), []).append(point)
    blocks = list(by_model.values())
    agree = len({repr([_setting_values(point) for point in block]) for block in blocks}) == 1
    entries = []
    for block in blocks[:1] if agree else blocks:
        by_setting: dict[str, list[SweepPoint]] = {}
        for point in block:
            by_setting.setdefault(repr(_setting_values(point)), []).append(point)
        for setting_points in by_setting.values():
            models = [_portable_model(other[0], sweep, folder) for other in (blocks if agree else [setting_points])]
            name = setting_points[0].arm.name + ("" if agree else f" ({setting_points[0].model_label})")
            entries.append(_arm_entry(name, setting_points, models, sweep, folder, seeds))
    return entries


def _setting_values(point: SweepPoint) -> dict[str, Any]:
    return {key: setting.value for key, setting in point.settings.items()}


def _arm_entry(
    name: str, points: list[SweepPoint], models: list[str | None], sweep: Sweep, folder: Path, seeds: str | None
) -> ArmEntry:
    arm = points[0].arm
    tasks = [_portable_task(point.task.value, point.runs[0].run_config, sweep, folder) for point in points]
    entry: ArmEntry = {"name": name, "recipe": _portable_recipe(arm.recipe, sweep, folder)}
    entry["task"] = tasks if len(tasks) > 1 else tasks[0]
    if models != [None]:
        entry["model"] = models if len(models) > 1 else models[0]
    entry["seeds"] = arm.written["seeds"].value if seeds is None else seeds
    if rule := arm.keys.stop_hopeless:
        entry["stop_hopeless"] = rule.model_dump()
    entry["set"] = _setting_values(points[0])
    if (start := entry["set"].get("start_from")) and points[0].start_run:
        portable = {"recipe": _portable_recipe(start["recipe"], sweep, folder)}
        portable["task"] = _portable_task(start["task"], points[0].start_run.run_config, sweep, folder)
        entry["set"]["start_from"] = start | portable
    return entry


def _portable_task(task: Any, config: RunConfig, sweep: Sweep, folder: Path) -> Any:
    """Return a task as written in a sweep file, with the user's own files resolvable from `folder`."""
    own = config.data.own
    if own is None:
        return config.data.task
    hashes = {"train": own.train, "validation": own.validation, "test": own.test}
    files = {key: sweep.sources.paths[digest] for key, digest in hashes.items() if digest}
    return task | {key: _portable_path(task[key], path, folder) for key, path in files.items()}


def _portable_model(point: SweepPoint, sweep: Sweep, folder: Path) -> str | None:
    written, digest = point.model and point.model.value, point.runs[0].run_config.model.sha256
    return written if digest is None else _portable_path(written, sweep.sources.paths[digest], folder)


def _portable_recipe(name: str, sweep: Sweep, folder: Path) -> str:
    file = find_recipe(name, (Path.cwd(), sweep.path.parent)).resolve()
    if name.endswith(".yaml"):
        return _portable_path(name, file, folder)
    try:
        resolves_alike = find_recipe(name, (Path.cwd(), folder)).resolve() == file
    except UserError:
        resolves_alike = False
    return name if resolves_alike else str(file)


def _portable_path(written: str | None, path: Path, folder: Path) -> str:
    """Return the path as written if it leads to `path` from `folder`, else the absolute path."""
    found = find_file(written, (folder,)) if written else None
    return written if written and found and found.resolve() == path.resolve() else str(path.resolve())


def _sweep_file_content(entries: list[ArmEntry]) -> dict[str, Any]:
    """Return the content of a sweep file, with values that most arms share moved to the top level."""
    keys = [key for key in ("task", "model", "seeds", "stop_hopeless") if all(key in entry for entry in entries)]
    shared = {key: _most_common([entry[key] for entry in entries]) for key in keys}
    first = entries[0]["set"]
    shared_keys = {key for key in first if all(key in e["set"] and e["set"][key] == first[key] for e in entries)}
    if len(entries) == 1:  # a single arm shows its chosen settings in place
        shared_keys = set()
    arms = []
    for entry in entries:
        arm_values = {key: value for key, value in entry.items() if key != "set" and value != shared.get(key)}
        settings = {key: value for key, value in entry["set"].items() if key not in shared_keys}
        arms.append(_BlockMapping(arm_values | ({"set": settings} if settings else {})))
    shared_settings = {key: value for key, value in first.items() if key in shared_keys}
    return shared | ({"set": shared_settings} if shared_settings else {}) | {"arms": arms}


def _most_common(values: list) -> Any:
    return max(values, key=values.count)


class _BlockMapping(dict):
    """A mapping dumped with one key per line."""


class _Dumper(YamlDumper):
    """YAML dumper without aliases, with indented lists, and with floats written as 2.0e-5 rather than 2.0e-05."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    node = dumper.represent_float(value)
    node.value = node.value.replace("e-0", "e-").replace("e+0", "e+")
    return node


_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(
    _BlockMapping, lambda dumper, block: dumper.represent_mapping(YAML_MAP_TAG, block, flow_style=False)
)


def _dump(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
