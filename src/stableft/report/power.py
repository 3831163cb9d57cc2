"""`stableft power`: how many seeds a claim about two arms needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stableft.errors import UserError, did_you_mean
from stableft.records.frame import build_frame
from stableft.records.run_record import atomic_write
from stableft.records.stored_records import read_records_files
from stableft.stats import compute_normal_power_curve, compute_observed_power_curves, render_power
from stableft.stats.power import PowerCurve
from stableft.stats.summary import Center


def compute_power(
    sd: float | None,
    ratio: float | None,
    files: Sequence[Path],
    arms: str,
    task: str | None,
    alpha: float,
    target: float,
    center: Center,
    seed: int,
) -> tuple[str, list[PowerCurve]]:
    """Return what is compared, in words, and the power of its tests by number of runs per arm.

    Raises:
        UserError: The options contradict each other, or the records have no such arms.
    """
    for option, value in (("--alpha", alpha), ("--power", target)):
        if not 0 < value < 1:
            raise UserError(f"{option} {value:g} must be between 0 and 1")
    if files:
        if sd is not None or ratio is not None:
            raise UserError("--from takes spread and failures from the records; leave out --sd and --ratio")
        a, b = _scored_runs_of_arms(files, arms, task)
        scores, failed = zip(
            *((_column_values(arm, "score"), _column_values(arm, "failed")) for arm in (a, b)), strict=True
        )
        curves = compute_observed_power_curves(*scores, *failed, alpha=alpha, target=target, center=center, seed=seed)
        names = [f"{arm[0]['arm']} (n = {len(arm)})" for arm in (a, b)]
        return f"{names[0]} against {names[1]} on {a[0]['task']}", curves
    if sd is None or ratio is None:
        raise UserError("power needs --sd and --ratio, or --from with --arms A,B")
    for option, value in (("--sd", sd), ("--ratio", ratio)):
        if not 0 < value < float("inf"):
            raise UserError(f"{option} {value:g} must be a number above 0")
    return "", [compute_normal_power_curve(sd, ratio, alpha, target, center, seed)]


def describe_power(
    sd: float | None,
    ratio: float | None,
    files: Sequence[Path],
    arms: str,
    task: str | None,
    alpha: float,
    target: float,
    center: Center,
    seed: int,
    out: Path | None = None,
    width: float | None = None,
) -> str:
    """Return a text with the power by number of runs per arm, and the number needed. `out` is a figure file to write.

    Raises:
        UserError: As `compute_power`, or the power cannot be drawn.
    """
    title, curves = compute_power(sd, ratio, files, arms, task, alpha, target, center, seed)
    if out and not any(curve.points for curve in curves):
        reasons = "; ".join(dict.fromkeys(curve.reason or "no power is known" for curve in curves))
        raise UserError(f"--out {out}: there is no curve to draw: {reasons}")
    if out:
        from stableft.report.figures.from_tests import draw_power
        from stableft.report.figures.style import figure_to_bytes, png_dpi

        figure = draw_power(curves, title, width)
        atomic_write(out, figure_to_bytes(figure, out.suffix.removeprefix("."), png_dpi(width)))
    return f"{title}\n{render_power(curves)}" if title else render_power(curves)


def _scored_runs_of_arms(
    files: Sequence[Path], arms: str, task: str | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the scored runs of two arms on one task: the given one, or the only one that both have."""
    names = [name.strip() for name in arms.split(",") if name.strip()]
    runs = [run for run in build_frame(read_records_files(files)).to_dict("records") if run["scored"]]
    arm_names = {run["arm"]: None for run in runs}
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"--arms {arms}: give the names of two arms, A,B; the records have {', '.join(arm_names)}")
    for name in names:
        if name not in arm_names:
            raise UserError(f"--arms: the records have no arm {name!r}{did_you_mean(name, arm_names)}")
    tasks = [{run["task"] for run in runs if run["arm"] == name} for name in names]
    common = sorted(tasks[0] & tasks[1])
    if task is not None and task not in common:
        raise UserError(f"--task {task}: the arms have runs of {', '.join(common) or 'no common task'}")
    if task is None and len(common) != 1:
        tasks_text = f"runs of {', '.join(common)}: select one with --task" if common else "no task in common"
        raise UserError(f"--arms {arms}: the arms have {tasks_text}")
    chosen = task or common[0]
    a, b = ([run for run in runs if (run["arm"], run["task"]) == (name, chosen)] for name in names)
    return a, b


def _column_values(runs: Sequence[dict[str, Any]], name: str) -> list[Any]:
    if name == "failed":
        return [run[name] if isinstance(run[name], bool) else None for run in runs]
    return [100 * run[name] for run in runs]
