"""Recorded drift, perplexities and surfaces -> panels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from stableft.probe_record import Drift, Perplexity, Surface
from stableft.report.artifact import Drifts, Perplexities, Surfaces
from stableft.report.curve_panels import NONE_YET, spread
from stableft.report.gather import Runs
from stableft.report.panels import Curve, CurvePanel, Panel
from stableft.report.perplexity_panels import perplexity_panel
from stableft.report.probe_runs import all_again, arms_of, finished, none_of, only, sweep_of
from stableft.report.surface_panels import surface_panel

POINTS = 120  # of a curve of drift, at most
MANY = 8  # curves of perplexity that a legend names one by one
DISTANCE = "L2 distance to the initial weights"
OTHERS = ("embeddings", "pooler", "head")  # names in a record of drift that are no block's

Panels = list[tuple[Panel, list[str]]]


def drifts(part: Drifts, runs: Runs) -> Panels:
    """Returns a panel for each block: of every group the mean distance over seeds and its range."""
    found: dict[str, list[Drift]] = {}
    lacking, notes = [], []
    for group in part.groups:
        ids = [shown.run_id for shown in finished(runs, [group])]
        records = runs.probes.of(Drift, ids)
        found |= {group.label: records} if records else {}
        if len(records) < len(ids):
            lacking.append(group)
            notes.append(
                f"{group.label}: {len(ids) - len(records)} of {len(ids)} finished runs have no recorded drift."
            )
    if again := all_again(runs, lacking):
        notes.append(f"{again} trains such runs again and records it.")
    if not found:
        missing = NONE_YET if not lacking else f"no finished run of {arms_of(lacking)} has recorded drift"
        missing += f"; {again} trains them again and records it" if again else ""
        return [(CurvePanel(part.title, "", "", (), missing=missing), [])]
    there = [int(name) for name in _longest(found.values()) if name not in OTHERS]
    blocks = [block for block in part.blocks if block in there] or there
    if absent := [str(block) for block in part.blocks if block not in there]:
        notes.append(f"The model has {len(there)} blocks; there is no block {', '.join(absent)}.")
    if any(record.redrawn for records in found.values() for record in records):
        notes.append("Blocks that were drawn anew, the top ones, are measured from the draw.")
    panels = [_block(part.title, block, found) for block in blocks]
    top = 1.05 * max((y for panel in panels for c in panel.curves for y in c.high if np.isfinite(y)), default=1.0)
    return [(replace(panel, top=top or 1.0), notes if i == 0 else []) for i, panel in enumerate(panels)]


def _longest(groups) -> tuple[str, ...]:
    return max((record.names for records in groups for record in records), key=len)


def _block(title: str, block: int, found: Mapping[str, Sequence[Drift]]) -> CurvePanel:
    curves = [curve for label, records in found.items() if (curve := _pooled(label, records, str(block)))]
    return CurvePanel(
        f"{title}, block {block}" if title else f"Block {block}", "optimizer step", DISTANCE, tuple(curves), bottom=0.0
    )


def _pooled(label: str, records: Sequence[Drift], name: str) -> Curve | None:
    """Returns mean and range over the runs at every step that half of them have, with the number of runs."""
    values: dict[int, list[float]] = {}
    those = [record for record in records if name in record.names]
    for record in those:
        place = record.names.index(name)
        for step, distances in zip(record.steps, record.distances, strict=True):
            values.setdefault(step, []).append(distances[place])
    steps = [step for step, at in sorted(values.items()) if 2 * len(at) >= len(those)]
    if not steps:
        return None
    steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))]
    mean, low, high = zip(*(spread(values[step], "range") for step in steps), strict=True)
    return Curve(label, tuple(map(float, steps)), mean, low, high, n=len(those))


def perplexities(part: Perplexities, runs: Runs) -> Panels:
    """Returns one panel with a curve for each of the runs; all are of the text, masks and checkpoint of the first."""
    candidates = only(runs, part.groups, part.only)
    by_id = {shown.run_id: shown for shown in candidates}
    there = {left.run_ids[0] for left in runs.probes.about(Perplexity, by_id.keys())}
    chosen = [shown for shown in candidates if shown.run_id in there][: part.first]
    if not chosen:
        missing = none_of(runs, part.groups, part.only)
        if candidates:
            ids = [shown.run_id for shown in candidates[: part.first or 3]]
            missing = f"no perplexity of a {part.only} run is there: " + _from_weights(
                f"stableft probe perplexity {' '.join(ids)}", sweep_of(runs, part.groups)
            )
        return [(CurvePanel(part.title, "", "", (), missing=missing), [])]
    records = runs.probes.of(Perplexity, [shown.run_id for shown in chosen])
    alike = [record for record in records if _asked(record) == _asked(records[0])]
    shown = [next(record for record in alike if record.run_id == s.run_id) for s in chosen if s.run_id in _ids(alike)]
    labels = [by_id[record.run_id].name for record in shown]
    pairs = zip(labels, shown, strict=True)
    runs_shown = [f"{label} (run {record.run_id})" for label, record in pairs] if len(shown) <= MANY else []
    notes = [f"{part.only.capitalize()}: {', '.join(runs_shown)}."] if runs_shown else []
    first = shown[0]
    notes.append(f"Text: {first.text}, {first.masked:,} masked of {first.tokens:,} tokens; {first.checkpoint} weights.")
    if part.first and len(shown) < part.first:
        notes.insert(0, f"{len(shown)} {part.only} runs, where the paper shows {part.first}.")
    if len(shown) < len(chosen):
        notes.append(
            f"{len(chosen) - len(shown)} runs are left out, whose perplexity is of another text or checkpoint."
        )
    return [(_unnamed(perplexity_panel(shown, labels, part.title), part.only), notes)]


def _asked(record: Perplexity) -> tuple:
    return record.text_sha256, record.seed, record.max_length, record.checkpoint


def _ids(records: Sequence[Perplexity]) -> set[str]:
    return {record.run_id for record in records}


def _unnamed(panel: CurvePanel, which: str) -> CurvePanel:
    """Returns the panel with one name for all of its runs where they are too many for a legend."""
    if len(panel.curves) <= MANY:
        return panel
    group = f"{which} runs, one line each"
    return replace(panel, curves=tuple(replace(curve, thin=True, group=group) for curve in panel.curves))


def _from_weights(command: str, sweep: str | None) -> str:
    """Returns what makes the record of a probe that needs weights."""
    kept = f", from weights that `stableft sweep {sweep} --save last --complete` keeps" if sweep else ""
    return f"`{command}` makes it{kept}"


def surfaces(part: Surfaces, runs: Runs) -> Panels:
    """Returns the surface between the first failed and the first successful run by seed that have one, or each."""
    failed, fine = only(runs, part.failed, "failed"), only(runs, part.successful, "successful")
    names = {shown.run_id: shown for shown in (*failed, *fine)}
    if not failed or not fine:
        which, groups = ("failed", part.failed) if not failed else ("successful", part.successful)
        return [(_no_surface(part.title, none_of(runs, groups, which)), [])]
    order = {shown.run_id: i for side in (failed, fine) for i, shown in enumerate(side)}
    records = [record for record in runs.probes.of(Surface, names.keys()) if _between(record, failed, fine)]
    records = [record for record in records if part.of == "loss" or record.grad_norms is not None]
    records.sort(key=lambda record: (order[record.failed], order[record.successful], record.run_id))
    if not records:
        command = f"stableft probe surface --failed {failed[0].run_id} --successful {fine[0].run_id}"
        missing = "no surface between a failed and a successful run is there: "
        return [(_no_surface(part.title, missing + _from_weights(command, sweep_of(runs, part.failed))), [])]
    made: Panels = []
    for record in records[:1] if part.first else records:
        pair = names[record.failed], names[record.successful]
        title = part.title if part.first else f"{part.title}\n{' / '.join(shown.name for shown in pair)}"
        notes = [
            f"Failed: {pair[0].name} (run {record.failed}); successful: {pair[1].name} (run {record.successful}).",
            f"{len(record.alphas)}×{len(record.betas)} points, {record.examples} training rows, "
            f"{record.checkpoint} weights; the pre-trained model has the head that seed {record.head_seed} draws.",
        ]
        made.append((surface_panel(record, part.of, title), notes))
    return made


def _between(record: Surface, failed: Sequence, fine: Sequence) -> bool:
    return record.failed in {s.run_id for s in failed} and record.successful in {s.run_id for s in fine}


def _no_surface(title: str, missing: str) -> CurvePanel:
    return CurvePanel(title, "", "", (), missing=missing)
