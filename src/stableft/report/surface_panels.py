"""The surfaces of M's Figs. 7 and 13 as panels: a probe's record in, contours with the three models marked out."""

import math
from typing import Literal

import numpy as np

from stableft.probe_record import Surface
from stableft.report.panels import ContourPanel, Place

MODELS = (("pre-trained", 0.0, 0.0), ("failed", 1.0, 0.0), ("successful", 0.0, 1.0))  # name, alpha, beta
# A model that ignores its input has a loss about 0.7 (two classes) or 1.1 (three), and that of a bad valley and of the
# barrier beside it are close to it: there the levels are dense. The lowest losses are orders of magnitude smaller, and
# how small does not matter here.
LOSSES = (0.0, 0.01, 0.1, 0.2, 0.4, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)
FACTORS = (1, 2, 5)
FEWEST = 4  # levels inside of the numbers; where they are fewer, the figure chooses its own


def surface_panel(record: Surface, of: Literal["loss", "grad_norm"], title: str) -> ContourPanel:
    """Returns the contours of a surface's losses or gradient norms, or a panel that says why there are none."""
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
            Place(name, alpha, beta)
            for name, alpha, beta in MODELS
            if record.alphas[0] <= alpha <= record.alphas[-1] and record.betas[0] <= beta <= record.betas[-1]
        ),
        missing=missing,
        levels=() if missing else _levels(record, of, np.asarray(z)),
    )


def surface_caption(record: Surface) -> str:
    """Returns the small print below a surface: what was measured on what, and of which runs."""
    text = (
        f"{record.examples} training examples of {record.task}, dropout off, all parameters of {record.model}, head "
        f"included (drawn with seed {record.head_seed}); failed: run {record.failed}, successful: run "
        f"{record.successful}, {record.checkpoint} weights."
    )
    if record.label_entropy is not None:
        text += f" A model that says the same of every example has a loss of {record.label_entropy:.3f} at best."
    return text


def nearest(record: Surface, alpha: float, beta: float) -> tuple[int, int]:
    """Returns row and column of the grid's point that is nearest to this one."""
    row = int(np.abs(np.subtract(record.betas, beta)).argmin())
    return row, int(np.abs(np.subtract(record.alphas, alpha)).argmin())


def _zlabel(record: Surface, of: Literal["loss", "grad_norm"]) -> str:
    if of == "grad_norm":
        return "gradient norm"
    return "mean squared error" if record.label_entropy is None else "cross-entropy"


def _levels(record: Surface, of: Literal["loss", "grad_norm"], z: np.ndarray) -> tuple[float, ...]:
    """Returns levels that show the valley around the failed model: what is far below it is all alike."""
    finite = z[np.isfinite(z)]
    high = float(finite.max())
    if of == "loss" and record.label_entropy is not None:
        levels = LOSSES + _ladder(10.0, high)
    else:
        at_failed = float(z[nearest(record, 1.0, 0.0)])
        low = at_failed if math.isfinite(at_failed) and at_failed > 0 else high / 1000
        levels = (0.0, *_ladder(low / 5, high))
    return levels if sum(finite.min() < level < high for level in levels) >= FEWEST else ()


def _ladder(low: float, high: float) -> tuple[float, ...]:
    """Returns 1, 2 and 5 times powers of ten from about `low` to above `high`, the powers alone if they are many."""
    if not 0 < low < high:
        return (low, 2 * low) if low > 0 else (1.0,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = FACTORS if last - first < 5 else (1,)
    levels = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    above = next(i for i, level in enumerate(levels) if level >= high)
    return tuple(level for level in levels[: above + 1] if level >= low)
