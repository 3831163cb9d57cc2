"""`stableft probe surface`: choose runs, measure the surface, describe it."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.errors import UserError
from stableft.probes.loss_surface import (
    LossAndNorm,
    SurfaceJob,
    SurfaceRequest,
    find_surface_runs,
    measure_surface,
    prepare_surface,
    read_partial_surface,
    surface_id,
)
from stableft.probes.partial_results import PARTIAL_RESULTS_FILE
from stableft.probes.saved_runs import locate_sources, show_probe_progress
from stableft.records.probe_record import PROBES_FILE, PROBES_FOLDER, SurfaceRecord, read_probe_records
from stableft.records.run_record import atomic_write
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.from_probes import SURFACE_MODELS, nearest_grid_point, panel_from_surface, surface_caption
from stableft.report.figures.style import figure_to_bytes
from stableft.sweep.claims import claim_run
from stableft.sweep.workers import EXIT_INTERRUPTED, collected_signals
from stableft.text import align_columns

SURFACE_FIGURES: dict[Literal["loss", "grad_norm"], str] = {
    "loss": "loss-surface.png",
    "grad_norm": "gradient-norm-surface.png",
}


def run_surface(
    request: SurfaceRequest,
    results: Path,
    pretrained: str | None,
    config: str | None,
    data_dir: Path | None,
    device: str,
    micro_batch: int | None,
) -> int:
    """Measures the surface, unless that is done, draws and describes it; returns the exit code: 0 or 130 (interrupted).

    Raises:
        UserError: the request, its runs or what they need cannot be used, or another process is at this surface.
    """
    pair = find_surface_runs(request, results)
    folder = results / PROBES_FOLDER / surface_id(request, pair)
    record = read_stored_surface(folder)
    if record:
        print("this surface is done already: nothing is measured")
        return _report_surface(record, folder)
    sources = locate_sources((pair.failed, pair.successful), pretrained, config, data_dir)
    work = prepare_surface(request, pair, folder, sources, Execution(device=device, micro_batch=micro_batch))
    with claim_run(folder) as ours, collected_signals() as received:
        if not ours:
            raise UserError(f"another process is at surface {folder.name} in {folder}")
        record = read_stored_surface(folder) or _measure_showing_progress(work, lambda: bool(received))
    return _report_surface(record, folder) if record else EXIT_INTERRUPTED


def read_stored_surface(folder: Path) -> SurfaceRecord | None:
    """Returns the record of a finished surface, or None.

    Raises:
        UserError: it is damaged.
    """
    found = list(read_probe_records(folder / PROBES_FILE))
    return found[0] if found and isinstance(found[0], SurfaceRecord) else None


def _measure_showing_progress(work: SurfaceJob, stop: Callable[[], bool]) -> SurfaceRecord | None:
    """Returns the surface, or None after an interruption, and tells where it goes on."""
    kept = read_partial_surface(work)
    done, total = len(kept.values) if kept else 0, len(work.points)
    what = "loss" if work.request.loss_only else "loss and gradient norm"
    weights = sum(parameter.numel() for parameter in work.plane.model.parameters())
    print(
        f"{work.folder.name}: {what} of {work.config.model.name} ({weights:,} weights on {work.device}) at {total:,} "
        f"points, {work.request.examples} examples of {work.config.data.task}"
        + (f"; {done:,} points are done" if done else ""),
        flush=True,
    )
    last = done
    with show_probe_progress(total, done) as tick:

        def show(at: int, value: LossAndNorm) -> None:
            nonlocal last
            last, norm = at, "" if value[1] is None else f"  gradient norm {value[1]:.4g}"
            tick(f"point {at:,}/{total:,}  loss {value[0]:.4g}{norm}", 1)

        try:
            return measure_surface(work, kept, show, stop)
        except RunInterrupted:
            pass
    print(f"Interrupted after {last:,} of {total:,} points; the same command goes on from there")
    return None


def _report_surface(record: SurfaceRecord, folder: Path) -> int:
    """Draws the figures, prints what the surface shows and returns the exit code."""
    print(describe_surface(record))
    title, paths = f"{record.task}, {record.model}", []
    for of, name in SURFACE_FIGURES.items():
        if of == "loss" or record.grad_norms:
            figure = draw_panels([panel_from_surface(record, of, title)], surface_caption(record))
            atomic_write(folder / name, figure_to_bytes(figure, "png"))
            paths.append(str(folder / name))
    # Last, so that after a kill before this line the next command deletes it.
    (folder / PARTIAL_RESULTS_FILE).unlink(missing_ok=True)
    print(f"record: {folder / PROBES_FILE}")
    print(f"figures: {', '.join(paths)}")
    return 0


# Of the label entropy: a loss above it is that of a model that has learnt next to nothing.
NOTHING_LEARNT_ENTROPY_SHARE = 0.95

FINE_GRID_STEP = 0.1  # the widest step of a grid that does not stride over a barrier unseen


def describe_surface(record: SurfaceRecord) -> str:
    """Returns a table of losses and gradient norms at the three models, and what lies between them."""
    sentences = [
        _describe_straight_line(record),
        _describe_best_path(record),
        _describe_failed_loss(record),
        _describe_failed_gradient(record),
    ]
    return "\n".join([_three_models_table(record), *(sentence for sentence in sentences if sentence)])


def find_minimax_path_loss(losses: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> float:
    """Returns the height that a path over the grid from one point to another cannot stay below, at its best.

    A step goes to any of the 8 neighbours; a loss that is not finite is never walked over.
    """
    from scipy.ndimage import label

    levels = np.unique(losses[np.isfinite(losses)])
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        regions = label(losses <= levels[middle], structure=np.ones((3, 3)))[0]  # pyright: ignore[reportIndexIssue]
        if regions[start] and regions[start] == regions[end]:
            high = middle
        else:
            low = middle + 1
    return float(levels[low]) if low < len(levels) else np.inf


def _three_models_table(record: SurfaceRecord) -> str:
    norms = record.line_norms or (None,) * len(record.line_losses)
    first, last = (record.line_losses[0], norms[0]), (record.line_losses[-1], norms[-1])
    values = ((record.pretrained_loss, record.pretrained_norm), first, last)
    rows = [("", "alpha", "beta", "loss", "gradient norm")]
    for (name, alpha, beta), (loss, norm) in zip(SURFACE_MODELS, values, strict=True):
        rows.append((name, f"{alpha:g}", f"{beta:g}", _format_number(loss), _format_number(norm)))
    losses = np.asarray(record.losses)
    if np.isfinite(losses).any():
        i, j = np.unravel_index(np.nanargmin(losses), losses.shape)
        norm = record.grad_norms[i][j] if record.grad_norms else None
        at = (f"{record.alphas[j]:.3g}", f"{record.betas[i]:.3g}")
        rows.append(("lowest on the grid", *at, _format_number(losses[i, j]), _format_number(norm)))
    return align_columns(rows if record.grad_norms else [row[:-1] for row in rows])


def _describe_straight_line(record: SurfaceRecord) -> str:
    """Returns the sentence about the straight line between failed and successful."""
    losses = np.asarray(record.line_losses)
    if not np.isfinite(losses).all():
        return "On the straight line from failed to successful the loss is not finite everywhere."
    top = int(losses.argmax())
    ends = f"{_format_number(losses[0])} and {_format_number(losses[-1])}"
    if top in (0, len(losses) - 1):
        return (
            f"On the straight line from failed to successful the loss never rises above its ends, {ends}: no barrier."
        )
    share, height = top / (len(losses) - 1), losses[top] - max(losses[0], losses[-1])
    return (
        f"On the straight line from failed to successful the loss rises to {_format_number(losses[top])}, "
        f"{share:.0%} of the "
        f"way along: a barrier {_format_number(height)} above the higher of its ends, {ends}."
    )


def _describe_best_path(record: SurfaceRecord) -> str:
    """Returns the sentence about the best way round; none where the grid is coarse or does not reach both models."""
    step = record.alphas[1] - record.alphas[0]
    if not (record.alphas[0] <= 0 and record.alphas[-1] >= 1 and step <= FINE_GRID_STEP):
        return ""
    losses = np.asarray(record.losses)
    start, end = nearest_grid_point(record, 1.0, 0.0), nearest_grid_point(record, 0.0, 1.0)
    height = find_minimax_path_loss(losses, start, end)
    if not np.isfinite(height):
        return "No path over the grid leads from failed to successful: losses between them are not finite."
    begin = max(losses[start], losses[end])
    if height <= begin:
        return "A path over the grid leads from failed to successful on which the loss never rises above its ends."
    rise = (
        f"{_format_number(height)}, {_format_number(height - begin)} above its higher end on the grid "
        f"({_format_number(begin)})"
    )
    return f"Every path over the grid from failed to successful has to climb to {rise}."


def _describe_failed_loss(record: SurfaceRecord) -> str:
    if record.label_entropy is None:
        return ""
    loss, entropy = record.line_losses[0], record.label_entropy
    learnt = "next to nothing was learnt" if loss >= NOTHING_LEARNT_ENTROPY_SHARE * entropy else "something was learnt"
    labels = f"the entropy of these examples' labels {_format_number(entropy)}"
    return f"The failed model's loss is {_format_number(loss)}, {labels}: {learnt}."


def _describe_failed_gradient(record: SurfaceRecord) -> str:
    if not record.grad_norms or record.pretrained_norm is None:
        return ""
    norm = record.line_norms[0]
    share = float((np.asarray(record.grad_norms) < norm).mean())
    times = norm / record.pretrained_norm if record.pretrained_norm else np.nan
    return (
        f"The gradient norm at the failed model is {_format_number(norm)}, {times:.2g} times that at the "
        "pre-trained one; at "
        f"{share:.0%} of the grid's points it is smaller."
    )


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
