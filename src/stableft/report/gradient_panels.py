"""Recorded gradient norms -> panels: a failed run beside a successful one, by layer or by weight matrix of layers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stableft.probe_record import GradNorms
from stableft.report.artifact import Gradients, Group
from stableft.report.drawing import PURPLE
from stableft.report.gather import Runs
from stableft.report.panels import Curve, CurvePanel
from stableft.report.probe_runs import Only, Shown, none_of, one_again, only

MATRICES: dict[str, tuple[str, ...]] = {  # what it is -> its name in a block of BERT, RoBERTa, ELECTRA; ALBERT; others
    "query": ("attention.self.query.weight", "attention.query.weight", "self_attn.q_proj.weight", "rel_attn.q"),
    "key": ("attention.self.key.weight", "attention.key.weight", "self_attn.k_proj.weight", "rel_attn.k"),
    "value": ("attention.self.value.weight", "attention.value.weight", "self_attn.v_proj.weight", "rel_attn.v"),
    "attention output": (
        *("attention.output.dense.weight", "attention.dense.weight"),
        *("self_attn.out_proj.weight", "rel_attn.o"),
    ),
    "intermediate": ("intermediate.dense.weight", "ffn.weight", "fc1.weight", "ff.layer_1.weight"),
    "output": ("output.dense.weight", "ffn_output.weight", "fc2.weight", "ff.layer_2.weight"),
}
POINTS = {"layers": 300, "matrices": 120}  # of a curve, at most; a panel of a matrix is a quarter as wide as a page
NUMBERED = "Layers are numbered from 0, the lowest (as in M sec. 7.5)"
Panels = list[tuple[CurvePanel, list[str]]]


class Side(NamedTuple):
    """The failed or the successful run: its record, or why there is none."""

    which: Only
    shown: Shown | None
    record: GradNorms | None
    missing: str
    note: str = ""


def gradients(part: Gradients, runs: Runs) -> Panels:
    """Returns the panels of a failed and a successful run, with the same scale, and what a reader must know."""
    sides = [_side(part.failed, runs, "failed"), _side(part.successful, runs, "successful")]
    of_layers = part.of == "layers"
    panels = _layers(part.title, sides) if of_layers else _matrices(part.title, sides)
    low, high = _limits([panel for panel, _ in panels])
    known = [side.record for side in sides if side.record]
    about = [f"{NUMBERED}; the norm of a layer is over all parameters of its block."] if of_layers and known else []
    about += [_names(known)] if not of_layers and known else []
    said: set[str] = set()  # of the same run's other panels
    told = [[note for note in notes if not (note in said or said.add(note))] for _, notes in panels]
    told[0] = [*(side.note for side in sides if side.note), *about, *told[0]]
    scaled = [panel if panel.missing else replace(panel, bottom=low, top=high) for panel, _ in panels]
    return list(zip(scaled, told, strict=True))


def _side(groups: Sequence[Group], runs: Runs, which: Only) -> Side:
    candidates = only(runs, groups, which)
    if not candidates:
        return Side(which, None, None, none_of(runs, groups, which))
    by_id = {shown.run_id: shown for shown in candidates}
    there = {left.run_ids[0] for left in runs.probes.about(GradNorms, by_id.keys())}
    shown = next((shown for shown in candidates if shown.run_id in there), None)
    if shown is None:
        first = candidates[0]
        sentence = f"no gradient norms are recorded of a {which} run ({first.name} is one)"
        again = one_again(runs, first)
        return Side(which, None, None, sentence + (f"; {again} trains it again and records them" if again else ""))
    (record,) = runs.probes.of(GradNorms, [shown.run_id])
    before = candidates.index(shown)
    of = f", but for {before} without recorded gradient norms" if before else ""
    place = f"the first of {len(candidates)} by seed{of}" if len(candidates) > 1 else "the only one"
    note = f"The {which} run is {shown.name} (run {shown.run_id}), {place}."
    return Side(which, shown, record, "", note)


def _title(title: str, what: str, side: Side, short: bool = False) -> str:
    name = side.which if short else f"{side.which} run" + (f"\n{side.shown.name}" if side.shown else "")
    return ": ".join(filter(None, [title, ", ".join(filter(None, [what, name]))]))


def _layers(title: str, sides: Sequence[Side]) -> Panels:
    panels: Panels = []
    for side in sides:
        if side.record is None:
            panels.append((_missing(_title(title, "", side), side), []))
            continue
        parts = side.record.parts
        modules = {f"layer {i}": (block,) for i, block in enumerate(parts.blocks)}
        groups = {name: _within(side.record, names) for name, names in modules.items()}
        ends = {"pooler": _within(side.record, parts.pooler), "classifier": _within(side.record, parts.head)}
        panels.append(_panel(_title(title, "", side), side, side.record, groups, ends, POINTS["layers"]))
    return panels


def _matrices(title: str, sides: Sequence[Side]) -> Panels:
    """Returns a row of two for each matrix, or what there is of one run alone, and one panel for a run without any."""
    columns: list[dict[str, tuple[CurvePanel, list[str]]]] = []
    for side in sides:
        if side.record is None:
            columns.append({"": (_missing(_title(title, "", side), side), [])})
            continue
        found = {what: _matrix(side.record, names) for what, names in MATRICES.items()}
        columns.append(
            {
                what: _panel(_title(title, what, side, True), side, side.record, groups, {}, POINTS["matrices"])
                for what, groups in found.items()
                if groups
            }
            or {"": (_missing(_title(title, "", side), side), [])}
        )
    return [column[what] for what in ("", *MATRICES) for column in columns if what in column]


def _missing(title: str, side: Side) -> CurvePanel:
    none = "the names of its weight matrices are not known"  # a family that nobody has looked at
    return CurvePanel(title, "", "", (), missing=side.missing or none)


def _within(record: GradNorms, modules: Sequence[str]) -> list[int]:
    """Returns the places of the parameters of these modules."""
    inside = tuple(f"{module}." for module in modules)
    return [i for i, name in enumerate(record.names) if inside and name.startswith(inside)]


def _matrix(record: GradNorms, names: Sequence[str]) -> dict[str, list[int]]:
    """Returns layer -> the place of its matrix that has one of these names, for the layers that have it."""
    places = {name: i for i, name in enumerate(record.names)}
    return {
        f"layer {number}": [place]
        for number, block in enumerate(record.parts.blocks)
        for name in names
        if (place := places.get(f"{block}.{name}")) is not None
    }


def _panel(
    title: str,
    side: Side,
    record: GradNorms,
    groups: Mapping[str, Sequence[int]],
    ends: Mapping[str, Sequence[int]],
    most: int,
) -> tuple[CurvePanel, list[str]]:
    """Returns a panel of the norm of each group over the steps, the layers in shades and what is above them apart."""
    norms = np.asarray(record.norms, dtype=float).reshape(len(record.steps), len(record.names))
    without = np.all(np.isnan(norms), axis=0)  # parameters that have no gradient at all
    without = np.zeros_like(without) if np.all(without) else without
    of = {
        name: np.sqrt((norms[:, [i for i in places if not without[i]]] ** 2).sum(axis=1))
        for name, places in {**groups, **ends}.items()
        if len(places)
    }
    lost = np.any(~np.isfinite(np.column_stack(list(of.values()))), axis=1)
    kept = _sample(len(record.steps), lost, most)
    steps = tuple(float(record.steps[i]) for i in kept)
    looks = {"pooler": {"color": PURPLE}, "classifier": {"color": "black", "dashed": True}}
    curves = tuple(
        Curve(name, steps, tuple(values[kept].tolist()), **(looks[name] if name in ends else {}))
        for name, values in of.items()
    )
    notes, whose = [], f"{side.which.capitalize()} run"
    if lost.any():
        notes.append(
            f"{whose}: at {lost.sum()} of {len(lost)} recorded steps a norm is not finite (a step that the gradient "
            "scaler skipped, or the end of a diverged run), and the lines break."
        )
    if len(kept) < len(record.steps):
        notes.append(f"{whose}: {len(kept)} of {len(record.steps)} recorded steps are drawn, at equal distances.")
    if zero := sum(int((values == 0).sum()) for values in of.values()):
        notes.append(f"{whose}: {zero} norms are 0, which has no place on a logarithmic scale.")
    panel = CurvePanel(title, "optimizer step", "gradient norm (L2)", curves, ylog=True, sequential=True)
    return panel, notes


def _sample(count: int, lost: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` places at equal distances, the first and the last among them, and those that are lost."""
    if count <= most:
        return np.arange(count)
    even = np.linspace(0, count - 1, most).round().astype(int)
    return np.union1d(even, np.flatnonzero(lost)[:most])


def _limits(panels: Sequence[CurvePanel]) -> tuple[float | None, float | None]:
    """Returns a scale that every norm of these panels has a place on."""
    values = np.array([y for panel in panels for curve in panel.curves for y in curve.y], dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    return (float(values.min() / 1.5), float(values.max() * 1.5)) if len(values) else (None, None)


def _names(records: Sequence[GradNorms]) -> str:
    """Returns which parameters of a block the matrices are."""
    there = [name.removeprefix(f"{r.parts.blocks[0]}.") for r in records[:1] for name in r.names if r.parts.blocks]
    found = [f"{what} is {name}" for what, names in MATRICES.items() for name in names if name in there]
    return f"{NUMBERED}; in each, {', '.join(found)}."
