"""Figure panels as CSV rows and as small tables."""

import math
from collections.abc import Sequence

import numpy as np

from stableft.report.figures.curves import thin_out_names
from stableft.report.figures.from_curves import BANDS
from stableft.report.figures.panels import (
    BoxPanel,
    ContourPanel,
    Curve,
    CurvePanel,
    EstimatePanel,
    HeatPanel,
    Panel,
    PointPanel,
)
from stableft.report.forms.document import NO_VALUE, ReportTable
from stableft.stats import summarize

MAX_POSITIONS = 6  # x values per curve in a table
BAND_TEXTS = {BANDS["std"]: "mean (mean - SD to mean + SD)", BANDS["range"]: "mean (range)"}  # of the cells


def panel_to_csv_rows(panel: Panel) -> list[dict[str, object]]:
    """Return the contents of a panel, one number or point per row. A missing panel has no rows."""
    if panel.missing:
        return []
    if isinstance(panel, BoxPanel):
        return [
            {"title": panel.title, "label": box.label, "n": box.n, "score": score, "failed": failed}
            for box in panel.boxes
            for score, failed in zip(box.scores, box.failed, strict=True)
        ]
    if isinstance(panel, CurvePanel):
        return [row for curve in panel.curves for row in _curve_rows(panel.title, curve)]
    if isinstance(panel, PointPanel):
        return [
            {"title": panel.title, "label": group.label, "x": x, "y": y}
            for group in panel.groups
            for x, y in zip(group.x, group.y, strict=True)
        ]
    if isinstance(panel, EstimatePanel):
        return [
            {"title": panel.title, "label": e.label, "kind": e.kind, "value": e.value, "low": e.low, "high": e.high}
            for e in panel.estimates
        ]
    if isinstance(panel, HeatPanel):
        return [
            {"title": panel.title, "row": row, "column": column, "value": value}
            for row, values in zip(panel.rows, panel.values, strict=True)
            for column, value in zip(panel.columns, values, strict=True)
        ]
    return [
        {"title": panel.title, "x": x, "y": y, "z": z}
        for y, values in zip(panel.y, panel.z, strict=True)
        for x, z in zip(panel.x, values, strict=True)
    ]


def _curve_rows(title: str, curve: Curve) -> list[dict[str, object]]:
    no_band = [None] * len(curve.x)
    return [
        {"title": title, "label": curve.label, "x": x, "y": y, "low": low, "high": high, "n": curve.n}
        for x, y, low, high in zip(curve.x, curve.y, curve.low or no_band, curve.high or no_band, strict=True)
    ]


def panel_to_table(panel: Panel, name: str) -> ReportTable | None:
    """Return a panel as a table, or None for contours and missing panels. Rows that summarize runs have n."""
    if panel.missing or isinstance(panel, ContourPanel):
        return None
    if isinstance(panel, BoxPanel):
        return _box_table(panel, name)
    if isinstance(panel, CurvePanel):
        return _curve_table(panel, name)
    if isinstance(panel, PointPanel):
        rows = tuple((group.label, str(len(group.x))) for group in panel.groups)
        return ReportTable(name, ("", "n"), rows, _table_caption(panel.title, f"{panel.ylabel} over {panel.xlabel}"))
    if isinstance(panel, EstimatePanel):
        return _estimate_table(panel, name)
    return _heat_table(panel, name)


def _estimate_table(panel: EstimatePanel, name: str) -> ReportTable:
    numbers = [
        (e, [NO_VALUE if n is None else _format_number(n) for n in (e.value, e.low, e.high)]) for e in panel.estimates
    ]
    rows = tuple((f"{e.label}, {e.kind}" if e.kind else e.label, *texts) for e, texts in numbers)
    return ReportTable(name, ("", "value", "low", "high"), rows, _table_caption(panel.title, panel.xlabel))


def _table_caption(title: str, contents: str) -> str:
    """Return the title and contents of a panel on one line."""
    text = f"{title}: {contents}" if title else contents
    return text.replace("\n(", " (").replace("\n", ", ")


def _box_table(panel: BoxPanel, name: str) -> ReportTable:
    rows = []
    for box in panel.boxes:
        summary = summarize(box.scores)
        n = f"{box.n}, {box.n_nan} NaN" if box.n_nan else str(box.n)
        values = (summary.mean, summary.std, summary.median, summary.min, summary.max)
        rows.append((box.label, n, box.n_failed, *(NO_VALUE if value is None else f"{value:.1f}" for value in values)))
    header = ("", "n", "failed", "mean", "std", "median", "min", "max")
    return ReportTable(name, header, tuple(rows), _table_caption(panel.title, panel.ylabel))


def _curve_table(panel: CurvePanel, name: str) -> ReportTable:
    """Return a table with a row for each curve that summarizes runs, or for each run if no curve does.

    Of the ordered curves of one run, such as those of its layers, some are left out if they are many.
    """
    if panel.sequential:
        return _ordered_curve_table(panel, name)
    curves = [curve for curve in panel.curves if not curve.thin] or panel.curves
    positions = _choose_positions(curves)
    header = ("", "n", *(f"{x:,.6g}" for x in positions))
    rows = tuple(
        (curve.label, NO_VALUE if curve.n is None else str(curve.n), *(_value_at(curve, x) for x in positions))
        for curve in curves
    )
    groups = (("", 1), (panel.xlabel, len(positions))) if positions else ()
    if curves and all(curve.n is None for curve in curves):  # of single runs
        header, rows, groups = header[:1] + header[2:], tuple(row[:1] + row[2:] for row in rows), groups[1:]
    bands = dict.fromkeys(f"; {BAND_TEXTS[curve.band]}" for curve in curves if curve.band)
    caption = _table_caption(panel.title, f"{panel.ylabel}, by {panel.xlabel}{''.join(bands)}")
    return ReportTable(name, header, rows, caption, groups)


def _ordered_curve_table(panel: CurvePanel, name: str) -> ReportTable:
    names = [curve.label for curve in panel.curves if curve.color is None]
    kept_names = set(thin_out_names(names))
    curves = [curve for curve in panel.curves if curve.color or curve.label in kept_names]
    positions = _choose_positions(curves)
    rows = tuple((curve.label, *(_value_at(curve, x) for x in positions)) for curve in curves)
    count_text = f"; {len(kept_names)} of the figure's {len(names)} blocks" if len(kept_names) < len(names) else ""
    caption = _table_caption(panel.title, f"{panel.ylabel}, by {panel.xlabel}{count_text}")
    groups = ((panel.xlabel, len(positions)),) if positions else ()
    return ReportTable(name, ("", *(f"{x:,.6g}" for x in positions)), rows, caption, groups)


def _choose_positions(curves: Sequence[Curve]) -> list[float]:
    """Return up to MAX_POSITIONS evenly spread values of x. Near each, the one that most curves share is taken."""
    counts: dict[float, int] = {}
    for x in (x for curve in curves for x in curve.x):
        counts[x] = counts.get(x, 0) + 1
    xs = sorted(counts)
    parts = min(MAX_POSITIONS, len(xs))
    if not parts:
        return []
    targets = np.linspace(0, len(xs) - 1, parts)
    return [
        xs[min(part, key=lambda i, target=target: (-counts[xs[i]], abs(i - target)))]
        for part, target in zip(np.array_split(np.arange(len(xs)), parts), targets, strict=True)
    ]


def _value_at(curve: Curve, x: float) -> str:
    """Return the text of a curve's value at x, with its band in brackets."""
    if x not in curve.x:
        return NO_VALUE
    i = curve.x.index(x)
    if not curve.low or not curve.high:
        return _format_number(curve.y[i])
    return f"{_format_number(curve.y[i])} ({_format_number(curve.low[i])} to {_format_number(curve.high[i])})"


def _format_number(value: float) -> str:
    """Return a number with three significant digits, or with one decimal from 10 to 100,000."""
    if not math.isfinite(value):
        return NO_VALUE
    return f"{value:.1f}" if 10 <= abs(value) < 1e5 else f"{value:.3g}"


def _heat_table(panel: HeatPanel, name: str) -> ReportTable:
    rows = tuple(
        (row, *(NO_VALUE if value is None else f"{value:.{panel.digits}f}" for value in values))
        for row, values in zip(panel.rows, panel.values, strict=True)
    )
    contents = f"{panel.unit}, {panel.ylabel} down, {panel.xlabel} across" if panel.ylabel else f"{panel.unit}"
    return ReportTable(name, ("", *panel.columns), rows, _table_caption(panel.title, contents).removesuffix(": "))
