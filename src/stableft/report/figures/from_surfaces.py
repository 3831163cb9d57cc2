"""Build panels from loss surfaces: loss or gradient norm on the plane through three models."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from stableft.records.probe_record import SurfaceRecord
from stableft.report.artifact import Surfaces
from stableft.report.figures.from_probes import (
    PanelsWithNotes,
    command_needing_weights,
    runs_with_verdict,
    sweep_file_of,
    why_no_runs,
)
from stableft.report.figures.maps import log_levels
from stableft.report.figures.panels import ContourPanel, CurvePanel, MarkedPoint
from stableft.report.runs import ArtifactRuns

SURFACE_MODELS = (("pre-trained", 0.0, 0.0), ("failed", 1.0, 0.0), ("successful", 0.0, 1.0))  # name, alpha, beta
# A model that ignores its input has a cross-entropy of about 0.7 (two classes) or 1.1 (three), and the failed model and
# the barrier beside it have no lower one. The lowest losses are orders of magnitude smaller; how small does not matter.
LOWEST_ENTROPY = 0.2
LOWEST_SHARE = 1 / 5  # the lowest level of other quantities, as a share of the failed model's value
MIN_INNER_LEVELS = 4  # with fewer levels within the range of the data, the figure chooses linear ones


def panel_from_surface(record: SurfaceRecord, of: Literal["loss", "grad_norm"], title: str) -> ContourPanel:
    """Return the contours of a surface's losses or gradient norms, or a panel that says why they are missing."""
    z = record.losses if of == "loss" else record.grad_norms
    missing = ""
    if z is None:
        z, missing = (), "This surface was computed without gradient norms (--loss-only)."
    elif not np.isfinite(z).any():
        missing = "None of these numbers is finite."
    return ContourPanel(
        title=title,
        xlabel="α, towards the failed model",
        ylabel="β, towards the successful model",
        x=record.alphas,
        y=record.betas,
        z=z,
        zlabel=_zlabel(record, of),
        places=tuple(
            MarkedPoint(name, alpha, beta)
            for name, alpha, beta in SURFACE_MODELS
            if record.alphas[0] <= alpha <= record.alphas[-1] and record.betas[0] <= beta <= record.betas[-1]
        ),
        missing=missing,
        levels=() if missing else _surface_levels(record, of, np.asarray(z)),
    )


def surface_caption(record: SurfaceRecord) -> str:
    """Return the caption of a surface: its examples, model, runs and checkpoint."""
    text = (
        f"{record.examples} training examples of {record.task}, dropout off, all parameters of {record.model}, head "
        f"included (drawn with seed {record.head_seed}); failed: run {record.failed}, successful: run "
        f"{record.successful}, {record.checkpoint} weights."
    )
    if record.label_entropy is not None:
        text += f" A model that says the same of every example has a loss of {record.label_entropy:.3f} at best."
    return text


def nearest_grid_point(record: SurfaceRecord, alpha: float, beta: float) -> tuple[int, int]:
    """Return row and column of the grid point nearest to (alpha, beta)."""
    row = int(np.abs(np.subtract(record.betas, beta)).argmin())
    return row, int(np.abs(np.subtract(record.alphas, alpha)).argmin())


def _zlabel(record: SurfaceRecord, of: Literal["loss", "grad_norm"]) -> str:
    if of == "grad_norm":
        return "gradient norm"
    return "mean squared error" if record.label_entropy is None else "cross-entropy"


def _surface_levels(record: SurfaceRecord, of: Literal["loss", "grad_norm"], z: np.ndarray) -> tuple[float, ...]:
    """Return logarithmic levels that resolve the valley around the failed model, or () to let the figure choose.

    Differences among much lower values are of no interest.
    """
    finite = z[np.isfinite(z)]
    high = float(finite.max())
    if of == "loss" and record.label_entropy is not None:
        low = LOWEST_ENTROPY
    else:
        at_failed = float(z[nearest_grid_point(record, 1.0, 0.0)])
        low = (at_failed if math.isfinite(at_failed) and at_failed > 0 else high / 1000) * LOWEST_SHARE
    levels = log_levels(low, high) if 0 < low < high else ()
    return levels if sum(finite.min() < level < high for level in levels) >= MIN_INNER_LEVELS else ()


def build_surface_panels(part: Surfaces, runs: ArtifactRuns) -> PanelsWithNotes:
    """Return a panel for every surface between a failed and a successful run, or only the first with `part.first`.

    Surfaces are ordered by the seeds of the failed and the successful run.
    """
    failed, successful = (
        runs_with_verdict(runs, part.failed, "failed"),
        runs_with_verdict(runs, part.successful, "successful"),
    )
    runs_by_id = {shown.run_id: shown for shown in (*failed, *successful)}
    if not failed or not successful:
        verdict, groups = ("failed", part.failed) if not failed else ("successful", part.successful)
        return [(_missing_surface_panel(part.title, why_no_runs(runs, groups, verdict)), [])]
    order = {shown.run_id: i for side in (failed, successful) for i, shown in enumerate(side)}
    records = [
        record for record in runs.probes.of(SurfaceRecord, runs_by_id.keys()) if _is_between(record, failed, successful)
    ]
    records = [record for record in records if part.of == "loss" or record.grad_norms is not None]
    records.sort(key=lambda record: (order[record.failed], order[record.successful], record.run_id))
    if not records:
        command = f"stableft probe surface --failed {failed[0].run_id} --successful {successful[0].run_id}"
        surface = "loss surface" if part.of == "loss" else "gradient-norm surface"
        missing = f"no {surface} between a failed and a successful run is recorded: "
        return [
            (
                _missing_surface_panel(
                    part.title, missing + command_needing_weights(command, sweep_file_of(runs, part.failed))
                ),
                [],
            )
        ]
    panels: PanelsWithNotes = []
    for record in records[:1] if part.first else records:
        pair = runs_by_id[record.failed], runs_by_id[record.successful]
        title = f"{part.title}\n{' / '.join(shown.label for shown in pair)}"
        notes = [
            f"Failed: {pair[0].label} (run {record.failed}); successful: {pair[1].label} (run {record.successful}).",
            f"{len(record.alphas)}×{len(record.betas)} points, {record.examples} training rows, "
            f"{record.checkpoint} weights; the pre-trained model has the head that seed {record.head_seed} draws.",
        ]
        panels.append((panel_from_surface(record, part.of, title), notes))
    return panels


def _is_between(record: SurfaceRecord, failed: Sequence, successful: Sequence) -> bool:
    return record.failed in {s.run_id for s in failed} and record.successful in {s.run_id for s in successful}


def _missing_surface_panel(title: str, missing: str) -> CurvePanel:
    return CurvePanel(title, "", "", (), missing=missing)
