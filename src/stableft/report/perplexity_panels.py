"""The panel of masked-language-model perplexities over the number of reset blocks (M Fig. 2a, b)."""

import math
from collections.abc import Sequence

from stableft.probe_record import Perplexity
from stableft.report.panels import Curve, CurvePanel, Line

WIDE = 20.0  # times the smallest, from which on perplexities are on a logarithmic scale
TICKS = 12  # at most, of the number of blocks


def perplexity_of(loss: float) -> float:
    """Returns e to the power of a loss in nats: infinity where that is no number any more, NaN for NaN."""
    return math.inf if loss > 700 else math.exp(loss)


def perplexity_panel(records: Sequence[Perplexity], labels: Sequence[str], title: str) -> CurvePanel:
    """Returns a curve for each run, named by its label, and the untouched pre-trained model as a horizontal line.

    Without records, or without a finite number in them, the panel says so.
    """
    curves = tuple(
        Curve(label, tuple(map(float, record.reset)), tuple(map(perplexity_of, record.losses)))
        for record, label in zip(records, labels, strict=True)
    )
    lines = tuple(Line("pre-trained", value) for value in dict.fromkeys(perplexity_of(r.pretrained) for r in records))
    values = [value for curve in curves for value in curve.y if math.isfinite(value)]
    most = max((record.reset[-1] for record in records), default=0)
    step = -(-most // TICKS) or 1
    missing = "" if values else "no run's perplexity is a finite number" if records else "no run's perplexity is known"
    everything = [*values, *(line.value for line in lines)]
    return CurvePanel(
        title=title,
        xlabel="top blocks reset to their pre-trained values (k)",
        ylabel="masked-LM perplexity",
        curves=curves,
        ylog=bool(values) and max(everything) > WIDE * min(everything),
        horizontal=lines,
        xticks=tuple(float(k) for k in range(0, most + 1, step)),
        missing=missing,
    )
