"""`stableft probe surface`: choose runs, measure the surface, describe it."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from stableft.config.planned_run import Execution, RunInterrupted
from stableft.config.sweep_file import Sweep
from stableft.errors import UserError
from stableft.probes.loss_surface import (
    LossAndNorm,
    SurfaceRequest,
    SurfaceSetup,
    find_surface_runs,
    measure_surface,
    prepare_surface,
    read_partial_surface,
    surface_id,
)
from stableft.probes.partial_results import PARTIAL_RESULTS_FILE
from stableft.probes.saved_runs import locate_sources, show_probe_progress
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.probe_record import PROBES_FILE, PROBES_FOLDER, SurfaceRecord, read_probe_records
from stableft.records.run_record import atomic_write
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.from_surfaces import (
    SURFACE_MODELS,
    nearest_grid_point,
    panel_from_surface,
    surface_caption,
)
from stableft.report.figures.style import figure_to_bytes
from stableft.sweep.claims import claim_run
from stableft.sweep.signals import EXIT_INTERRUPTED, collected_signals
from stableft.text import align_columns
from stableft.training.setup import torch_settings_restored

SURFACE_FIGURES: dict[Literal["loss", "grad_norm"], str] = {
    "loss": "loss-surface.png",
    "grad_norm": "gradient-norm-surface.png",
}


@torch_settings_restored()
def run_surface(
    request: SurfaceRequest,
    results: Path,
    pretrained: str | None,
    sweep: Sweep | None,
    data_dir: Path | None,
    device: str,
    micro_batch: int | None,
) -> int:
    """Measure (unless finished), draw and describe the surface, and return the exit code: 0, or 130 if interrupted.

    Raises:
        UserError: the runs do not fit the request, their model or data are missing, or another process is measuring.
    """
    runs = find_surface_runs(request, results)
    folder = results / PROBES_FOLDER / surface_id(request, runs)
    record = read_stored_surface(folder)
    if record:
        print("this surface is done already: nothing is measured")
        return _report_surface(record, folder)
    sources = locate_sources((runs.failed, runs.successful), pretrained, sweep, data_dir)
    setup = prepare_surface(request, runs, folder, sources, Execution(device=device, micro_batch=micro_batch))
    with claim_run(folder) as claimed, collected_signals() as received:
        if not claimed:
            raise UserError(f"another process is at surface {folder.name} in {folder}")
        record = read_stored_surface(folder) or _measure_showing_progress(setup, lambda: bool(received))
    return _report_surface(record, folder) if record else EXIT_INTERRUPTED


def read_stored_surface(folder: Path) -> SurfaceRecord | None:
    """Return the record of a finished surface, or None.

    Raises:
        UserError: it is damaged.
    """
    found = list(read_probe_records(folder / PROBES_FILE))
    return found[0] if found and isinstance(found[0], SurfaceRecord) else None


def _measure_showing_progress(setup: SurfaceSetup, stop: Callable[[], bool]) -> SurfaceRecord | None:
    """Return the measured surface, or None if interrupted, after a message on how to continue."""
    partial = read_partial_surface(setup)
    done, total = len(partial.values) if partial else 0, len(setup.points)
    measure = "loss" if setup.request.loss_only else "loss and gradient norm"
    weights = sum(parameter.numel() for parameter in setup.plane.model.parameters())
    model = f"{setup.config.model.name} ({weights:,} weights on {setup.device})"
    print(
        f"{setup.folder.name}: {measure} of {model} at {total:,} points, {setup.request.examples} examples of "
        + setup.config.data.task
        + (f"; {done:,} points are done" if done else ""),
        flush=True,
    )
    last = done
    with show_probe_progress(total, done) as show:

        def on_point(n_done: int, value: LossAndNorm) -> None:
            nonlocal last
            last, norm = n_done, "" if value[1] is None else f"  gradient norm {value[1]:.4g}"
            show(f"point {n_done:,}/{total:,}  loss {value[0]:.4g}{norm}", 1)

        try:
            return measure_surface(setup, partial, on_point, stop)
        except RunInterrupted:
            pass
    print(f"Interrupted after {last:,} of {total:,} points; the same command goes on from there")
    return None


def _report_surface(record: SurfaceRecord, folder: Path) -> int:
    """Draw the figures, print a description and return the exit code."""
    print(describe_surface(record))
    title, paths = f"{record.task}, {record.model}", []
    for of, name in SURFACE_FIGURES.items():
        if of == "loss" or record.grad_norms:
            figure = draw_panels([panel_from_surface(record, of, title)], surface_caption(record))
            atomic_write(folder / name, figure_to_bytes(figure, "png"))
            paths.append(str(folder / name))
    # Last, so that after a kill before this line the next command deletes it.
    remove_under_claim(folder / PARTIAL_RESULTS_FILE)
    print(f"record: {folder / PROBES_FILE}")
    print(f"figures: {', '.join(paths)}")
    return 0


# Share of the label entropy above which a loss counts as that of a model that has learnt next to nothing.
NOTHING_LEARNT_ENTROPY_SHARE = 0.95

FINE_GRID_STEP = 0.1  # a grid with wider steps may miss a barrier


def describe_surface(record: SurfaceRecord) -> str:
    """Return a table of losses and gradient norms at the three models, and sentences on what lies between them."""
    sentences = [
        _describe_straight_line(record),
        _describe_best_path(record),
        _describe_failed_loss(record),
        _describe_failed_gradient(record),
    ]
    return "\n".join([_three_models_table(record), *(sentence for sentence in sentences if sentence)])


def find_minimax_path_loss(losses: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> float:
    """Return the smallest possible maximum of the loss along a path over the grid from `start` to `end`.

    A step goes to any of the 8 neighbors. Points with a loss that is not finite are never used; infinity if there is no
    other path.
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
    """Return a sentence on the straight line from the failed to the successful model."""
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
    """Return a sentence on the best path; "" if the grid is coarse or does not reach both models."""
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
