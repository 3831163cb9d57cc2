"""Build panels from gradient norms, drift, perplexities and loss surfaces."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from stableft.records.probe_record import DriftRecord, GradNormsRecord, PerplexityRecord, ProbeRecord
from stableft.report.arm_cells import seed_order
from stableft.report.artifact import ArtifactPart, Drifts, Gradients, Perplexities, RunGroup, groups_of
from stableft.report.figures.from_curves import curve_with_band
from stableft.report.figures.panels import STEP_AXIS, Curve, CurvePanel, Panel, ReferenceLine
from stableft.report.figures.style import PURPLE
from stableft.report.paper_values import PAPERS
from stableft.report.runs import NO_FINISHED_RUN, PROBE_RECORD_OF_PART, ArtifactRuns
from stableft.text import seed_label

MAX_DRIFT_POINTS = 120  # per curve
MAX_NAMED_PERPLEXITIES = 8  # with more curves, all share one legend entry
BLOCK_NUMBERING = f"Blocks are numbered from 1, the lowest, as in {PAPERS['Z']}"
GRADIENT_BLOCK_NUMBERING = f"{BLOCK_NUMBERING}; {PAPERS['M']} count from 0."
DRIFT_AXIS_LABEL = "L2 distance to the initial weights"
NON_BLOCK_PARTS = ("embeddings", "pooler", "head")  # names in drift records that are not block numbers

PanelsWithNotes = list[tuple[Panel, list[str]]]


def build_drift_panels(part: Drifts, runs: ArtifactRuns) -> PanelsWithNotes:
    """Return a panel for each block, with the mean and range over seeds of every group's drift."""
    records_by_group: dict[str, list[DriftRecord]] = {}
    groups_without_drift, notes = [], []
    for group in part.groups:
        ids = [shown.run_id for shown in finished_runs(runs, [group])]
        records = runs.probes.of(DriftRecord, ids)
        records_by_group |= {group.label: records} if records else {}
        if len(records) < len(ids):
            groups_without_drift.append(group)
            notes.append(
                f"{group.label}: {len(ids) - len(records)} of {len(ids)} finished runs have no recorded drift."
            )
    if command := rerun_all_command(runs, groups_without_drift):
        notes.append(f"{command} trains such runs again and records it.")
    if not records_by_group:
        missing = (
            NO_FINISHED_RUN
            if not groups_without_drift
            else f"no finished run of {list_arms(groups_without_drift)} has recorded drift"
        )
        missing += f"; {command} trains them again and records it" if command else ""
        return [(CurvePanel(part.title, "", "", (), missing=missing), [])]
    model_blocks = [int(name) for name in _longest_names(records_by_group.values()) if name not in NON_BLOCK_PARTS]
    blocks = [block for block in part.blocks if block in model_blocks] or model_blocks
    if missing_blocks := [str(block) for block in part.blocks if block not in model_blocks]:
        notes.append(f"The model has {len(model_blocks)} blocks; there is no block {', '.join(missing_blocks)}.")
    notes.append(f"{BLOCK_NUMBERING}.")
    if any(record.redrawn for records in records_by_group.values() for record in records):
        notes.append("Blocks that were drawn anew, the top ones, are measured from the draw.")
    panels = [_drift_panel(part.title, block, records_by_group) for block in blocks]
    top = 1.05 * max((y for panel in panels for c in panel.curves for y in c.high if np.isfinite(y)), default=1.0)
    return [(replace(panel, top=top or 1.0), notes if i == 0 else []) for i, panel in enumerate(panels)]


def _longest_names(groups) -> tuple[str, ...]:
    return max((record.names for records in groups for record in records), key=len)


def _drift_panel(title: str, block: int, records_by_group: Mapping[str, Sequence[DriftRecord]]) -> CurvePanel:
    curves = [
        curve for label, records in records_by_group.items() if (curve := _mean_drift_curve(label, records, str(block)))
    ]
    return CurvePanel(
        f"{title}, block {block}" if title else f"Block {block}",
        STEP_AXIS,
        DRIFT_AXIS_LABEL,
        tuple(curves),
        bottom=0.0,
    )


def _mean_drift_curve(label: str, records: Sequence[DriftRecord], name: str) -> Curve | None:
    """Return mean and range over the runs, at no more than MAX_DRIFT_POINTS steps."""
    lines = [
        [
            (step, distances[record.names.index(name)])
            for step, distances in zip(record.steps, record.distances, strict=True)
        ]
        for record in records
        if name in record.names
    ]
    curve = curve_with_band(label, lines, "range")
    if not curve.x:
        return None
    indices = np.unique(np.linspace(0, len(curve.x) - 1, MAX_DRIFT_POINTS).round().astype(int))
    thinned = {key: tuple(getattr(curve, key)[i] for i in indices) for key in ("x", "y", "low", "high")}
    return replace(curve, **thinned)


def build_perplexity_panels(part: Perplexities, runs: ArtifactRuns) -> PanelsWithNotes:
    """Return one panel with a curve for each run.

    Records that differ from the first in text, masks or checkpoint are left out.
    """
    candidates = runs_with_verdict(runs, part.groups, part.only)
    by_id = {shown.run_id: shown for shown in candidates}
    ids_with_record = {left.run_ids[0] for left in runs.probes.about(PerplexityRecord, by_id.keys())}
    chosen = [shown for shown in candidates if shown.run_id in ids_with_record][: part.first]
    if not chosen:
        missing = why_no_runs(runs, part.groups, part.only)
        if candidates:
            ids = [shown.run_id for shown in candidates[: part.first or 3]]
            missing = f"no perplexity of a {part.only} run is recorded: " + command_needing_weights(
                f"stableft probe perplexity {' '.join(ids)}", sweep_file_of(runs, part.groups)
            )
        return [(CurvePanel(part.title, "", "", (), missing=missing), [])]
    records = runs.probes.of(PerplexityRecord, [shown.run_id for shown in chosen])
    comparable = [record for record in records if _perplexity_key(record) == _perplexity_key(records[0])]
    shown = [
        next(record for record in comparable if record.run_id == s.run_id)
        for s in chosen
        if s.run_id in _run_ids_of(comparable)
    ]
    labels = [by_id[record.run_id].label for record in shown]
    pairs = zip(labels, shown, strict=True)
    runs_shown = (
        [f"{label} (run {record.run_id})" for label, record in pairs] if len(shown) <= MAX_NAMED_PERPLEXITIES else []
    )
    notes = [f"{part.only.capitalize()}: {', '.join(runs_shown)}."] if runs_shown else []
    first = shown[0]
    notes.append(f"Text: {first.text}, {first.masked:,} masked of {first.tokens:,} tokens; {first.checkpoint} weights.")
    if part.first and len(shown) < part.first:
        notes.insert(0, f"{len(shown)} {part.only} runs, where the paper shows {part.first}.")
    if len(shown) < len(chosen):
        notes.append(
            f"{len(chosen) - len(shown)} runs are left out, whose perplexity is of another text or checkpoint."
        )
    return [(_share_legend_name(panel_from_perplexities(shown, labels, part.title), part.only), notes)]


def _perplexity_key(record: PerplexityRecord) -> tuple:
    return record.text_sha256, record.seed, record.max_length, record.checkpoint


def _run_ids_of(records: Sequence[PerplexityRecord]) -> set[str]:
    return {record.run_id for record in records}


def _share_legend_name(panel: CurvePanel, verdict: str) -> CurvePanel:
    """Return the panel with one legend entry for all runs if they are too many to be named."""
    if len(panel.curves) <= MAX_NAMED_PERPLEXITIES:
        return panel
    group = f"{verdict} runs, one line each"
    return replace(panel, curves=tuple(replace(curve, thin=True, group=group) for curve in panel.curves))


def command_needing_weights(command: str, sweep: str | None) -> str:
    """Return a text with the command that makes a probe record, and the one that keeps the weights it needs."""
    kept = f", from weights that `stableft sweep {sweep} --save last --complete` keeps" if sweep else ""
    return f"`{command}` makes it{kept}"


# Weight matrix -> its names within a block of BERT, RoBERTa and ELECTRA; ALBERT; BART; XLNet.
WEIGHT_MATRICES: dict[str, tuple[str, ...]] = {
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
MAX_GRADIENT_POINTS = {"layers": 300, "matrices": 120}  # per curve; the panels of matrices are narrower
NO_POOLER_NOTE = "The model has no pooler."
SHARED_BLOCK_NOTE = "The layers of the model share the weights of one block."
GRADIENT_AXIS = "gradient norm (L2)"
CurvePanelsWithNotes = list[tuple[CurvePanel, list[str]]]

RunVerdict = Literal["failed", "successful"]


class ShownRun(NamedTuple):
    """One of our runs and the group it belongs to."""

    group: RunGroup
    run: Mapping[str, Any]  # a row of the frame

    @property
    def run_id(self) -> str:
        return self.run["run_id"]

    @property
    def label(self) -> str:
        return f"{self.group.label}, seed {seed_label(self.run['seed_init'], self.run['seed_data'])}"


class GradientRun(NamedTuple):
    """One side of a gradient figure: a failed or successful run with its record, or why the record is missing."""

    verdict: RunVerdict
    shown: ShownRun | None
    record: GradNormsRecord | None
    missing: str
    note: str = ""


def build_gradient_panels(part: Gradients, runs: ArtifactRuns) -> CurvePanelsWithNotes:
    """Return the panels of a failed and a successful run, on the same scale, with their notes."""
    sides = [_find_gradient_run(part.failed, runs, "failed"), _find_gradient_run(part.successful, runs, "successful")]
    of_layers = part.of == "layers"
    panels = _layer_panels(part.title, sides) if of_layers else _matrix_panels(part.title, sides)
    low, high = _common_limits([panel for panel, _ in panels])
    records = [side.record for side in sides if side.record]
    general_notes = (
        [f"{GRADIENT_BLOCK_NUMBERING} The norm of a block is over all its parameters."] if of_layers and records else []
    )
    shares = any("albert" in name for r in records for name in r.parts.blocks) or (
        records and all(len(record.parts.blocks) == 1 for record in records)
    )
    general_notes += [SHARED_BLOCK_NOTE] if shares else []
    general_notes += [_matrix_names_note(records)] if not of_layers and records else []
    general_notes += [NO_POOLER_NOTE] if records and not any(record.parts.pooler for record in records) else []
    seen_notes: set[str] = set()  # of the same run's other panels
    panel_notes = [[note for note in notes if not (note in seen_notes or seen_notes.add(note))] for _, notes in panels]
    panel_notes[0] = [*(side.note for side in sides if side.note), *general_notes, *panel_notes[0]]
    scaled = [panel if panel.missing else replace(panel, bottom=low, top=high) for panel, _ in panels]
    return list(zip(scaled, panel_notes, strict=True))


def _find_gradient_run(groups: Sequence[RunGroup], runs: ArtifactRuns, verdict: RunVerdict) -> GradientRun:
    candidates = runs_with_verdict(runs, groups, verdict)
    if not candidates:
        return GradientRun(verdict, None, None, why_no_runs(runs, groups, verdict))
    by_id = {shown.run_id: shown for shown in candidates}
    ids_with_record = {left.run_ids[0] for left in runs.probes.about(GradNormsRecord, by_id.keys())}
    shown = next((shown for shown in candidates if shown.run_id in ids_with_record), None)
    if shown is None:
        first = candidates[0]
        sentence = f"no gradient norms are recorded of a {verdict} run ({first.label} is one)"
        command = rerun_command(runs, first)
        return GradientRun(
            verdict, None, None, sentence + (f"; {command} trains it again and records them" if command else "")
        )
    (record,) = runs.probes.of(GradNormsRecord, [shown.run_id])
    note = f"The {verdict} run is {shown.label} (run {shown.run_id}), {_why_this_run(shown, candidates, verdict)}."
    return GradientRun(verdict, shown, record, "", note)


def _why_this_run(shown: ShownRun, candidates: Sequence[ShownRun], verdict: RunVerdict) -> str:
    """Return how a run was chosen, in words: it is the first one of its arm by seed that has a record."""
    alike = [other for other in candidates if other.group == shown.group]
    arms = list(dict.fromkeys(other.group.label for other in candidates))
    of_arm = f"{len(alike)} {verdict} runs of {shown.group.label}"
    how = f"the run with the lowest seed among the {of_arm}" if len(alike) > 1 else f"the only {verdict} run of its arm"
    if before := alike.index(shown):
        how += f", but for {before} without recorded gradient norms"
    if shown.group.label != arms[0]:
        return f"{how}, the first arm with recorded gradient norms"
    return how + (f", the first of the {len(arms)} arms that have one" if len(arms) > 1 else "")


def _gradient_title(title: str, matrix: str, side: GradientRun, short: bool = False) -> str:
    name = side.verdict if short else f"{side.verdict} run" + (f"\n{side.shown.label}" if side.shown else "")
    return ": ".join(filter(None, [title, ", ".join(filter(None, [matrix, name]))]))


def _layer_panels(title: str, sides: Sequence[GradientRun]) -> CurvePanelsWithNotes:
    panels: CurvePanelsWithNotes = []
    for side in sides:
        if side.record is None:
            panels.append((_missing_gradient_panel(_gradient_title(title, "", side), side), []))
            continue
        parts = side.record.parts
        modules = {f"block {i}": (block,) for i, block in enumerate(parts.blocks, 1)}
        groups = {name: _parameter_indices(side.record, names) for name, names in modules.items()}
        panels.append(
            _gradient_panel(_gradient_title(title, "", side), side, side.record, groups, MAX_GRADIENT_POINTS["layers"])
        )
    return panels


def _matrix_panels(title: str, sides: Sequence[GradientRun]) -> CurvePanelsWithNotes:
    """Return the panels of each matrix, the failed run's before the successful one's.

    A run without any matrix has one panel that says why.
    """
    columns: list[dict[str, tuple[CurvePanel, list[str]]]] = []
    for side in sides:
        if side.record is None:
            columns.append({"": (_missing_gradient_panel(_gradient_title(title, "", side), side), [])})
            continue
        groups_by_matrix = {matrix: _matrix_indices(side.record, names) for matrix, names in WEIGHT_MATRICES.items()}
        columns.append(
            {
                matrix: _gradient_panel(
                    _gradient_title(title, matrix, side, True),
                    side,
                    side.record,
                    groups,
                    MAX_GRADIENT_POINTS["matrices"],
                )
                for matrix, groups in groups_by_matrix.items()
                if groups
            }
            or {"": (_missing_gradient_panel(_gradient_title(title, "", side), side), [])}
        )
    return [column[matrix] for matrix in ("", *WEIGHT_MATRICES) for column in columns if matrix in column]


def _missing_gradient_panel(title: str, side: GradientRun) -> CurvePanel:
    no_names = "the names of its weight matrices are not known"  # a model family that WEIGHT_MATRICES does not cover
    return CurvePanel(title, "", "", (), missing=side.missing or no_names)


def _parameter_indices(record: GradNormsRecord, modules: Sequence[str]) -> list[int]:
    """Return the indices of the parameters of these modules."""
    prefixes = tuple(f"{module}." for module in modules)
    return [i for i, name in enumerate(record.names) if prefixes and name.startswith(prefixes)]


def _matrix_indices(record: GradNormsRecord, names: Sequence[str]) -> dict[str, list[int]]:
    """Return block -> [index of its matrix with one of these names], for the blocks that have one."""
    places = {name: i for i, name in enumerate(record.names)}
    return {
        f"block {number}": [place]
        for number, block in enumerate(record.parts.blocks, 1)
        for name in names
        if (place := places.get(f"{block}.{name}")) is not None
    }


def _gradient_panel(
    title: str,
    side: GradientRun,
    record: GradNormsRecord,
    groups: Mapping[str, Sequence[int]],
    max_points: int,
) -> tuple[CurvePanel, list[str]]:
    """Return a panel with the gradient norm of each group of parameters over the steps.

    `groups` maps the names of blocks, drawn in shades of one colour, to parameter indices. Pooler and classifier have
    curves of their own.
    """
    ends = {
        "pooler": _parameter_indices(record, record.parts.pooler),
        "classifier": _parameter_indices(record, record.parts.head),
    }
    norms = np.asarray(record.norms, dtype=float).reshape(len(record.steps), len(record.names))
    no_gradient = np.all(np.isnan(norms), axis=0)  # parameters that never have a gradient
    no_gradient = np.zeros_like(no_gradient) if np.all(no_gradient) else no_gradient
    norms_by_group = {
        name: np.sqrt((norms[:, [i for i in places if not no_gradient[i]]] ** 2).sum(axis=1))
        for name, places in {**groups, **ends}.items()
        if len(places)
    }
    not_finite = np.any(~np.isfinite(np.column_stack(list(norms_by_group.values()))), axis=1)
    kept = _sample_steps(len(record.steps), not_finite, max_points)
    steps = tuple(float(record.steps[i]) for i in kept)
    styles = {"pooler": {"color": PURPLE}, "classifier": {"color": "black", "dashed": True}}
    curves = tuple(
        Curve(name, steps, tuple(values[kept].tolist()), **(styles[name] if name in ends else {}))
        for name, values in norms_by_group.items()
    )
    notes, which_run = [], f"{side.verdict.capitalize()} run"
    if not_finite.any():
        finite = np.flatnonzero(~not_finite)
        n_last = len(not_finite) - 1 - int(finite[-1]) if len(finite) else len(not_finite)
        diverged = n_last if side.shown and side.shown.run["diverged"] else 0
        skipped = int(not_finite.sum()) - diverged
        causes = [f"the gradient scaler skipped the step{'s' * (skipped > 1)}"] if skipped else []
        causes += [f"the run diverged by step {record.steps[-diverged]:,}"] if diverged else []
        notes.append(
            f"{which_run}: at {not_finite.sum()} of {len(not_finite)} recorded steps a norm is not finite "
            f"({' or '.join(causes)}), and the lines break."
        )
    if len(kept) < len(record.steps):
        notes.append(f"{which_run}: {len(kept)} of {len(record.steps)} recorded steps are drawn, at equal distances.")
    if zero := sum(int((values == 0).sum()) for values in norms_by_group.values()):
        notes.append(f"{which_run}: {zero} norms are 0, which has no place on a logarithmic scale.")
    panel = CurvePanel(title, STEP_AXIS, GRADIENT_AXIS, curves, ylog=True, sequential=True)
    note = f"{which_run}: {side.shown.label}." if side.shown and "\n" not in title else ""  # the title does not name it
    return replace(panel, share=GRADIENT_AXIS, scale_label="block (1 is the lowest)", note=note), notes


def _sample_steps(count: int, not_finite: np.ndarray, max_points: int) -> np.ndarray:
    """Return up to `max_points` evenly spaced indices including both ends, plus as many of steps without a finite norm.

    Without those steps, the gaps in the lines would be hidden.
    """
    if count <= max_points:
        return np.arange(count)
    even = np.linspace(0, count - 1, max_points).round().astype(int)
    return np.union1d(even, np.flatnonzero(not_finite)[:max_points])


def _common_limits(panels: Sequence[CurvePanel]) -> tuple[float | None, float | None]:
    """Return axis limits that hold every positive norm of these panels, or (None, None) without any."""
    values = np.array([y for panel in panels for curve in panel.curves for y in curve.y], dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    return (float(values.min() / 1.5), float(values.max() * 1.5)) if len(values) else (None, None)


def _matrix_names_note(records: Sequence[GradNormsRecord]) -> str:
    """Return a note with the parameter name of each matrix."""
    block_parameters = [
        name.removeprefix(f"{r.parts.blocks[0]}.") for r in records[:1] for name in r.names if r.parts.blocks
    ]
    matrix_names = [
        f"{matrix} is {name}" for matrix, names in WEIGHT_MATRICES.items() for name in names if name in block_parameters
    ]
    return f"{GRADIENT_BLOCK_NUMBERING} In each, {', '.join(matrix_names)}."


LOG_SCALE_ABOVE_RATIO = 20.0  # largest over smallest perplexity; above it, the scale is logarithmic
MAX_BLOCK_TICKS = 12


def perplexity_from_loss(loss: float) -> float:
    """Return e to the power of a loss in nats. Infinity on overflow, NaN for NaN."""
    return math.inf if loss > 700 else math.exp(loss)


def panel_from_perplexities(records: Sequence[PerplexityRecord], labels: Sequence[str], title: str) -> CurvePanel:
    """Return a panel with a labelled curve for each run and the pre-trained model as a horizontal line.

    Without a finite perplexity, the panel is missing and says why.
    """
    curves = tuple(
        Curve(label, tuple(map(float, record.reset)), tuple(map(perplexity_from_loss, record.losses)))
        for record, label in zip(records, labels, strict=True)
    )
    lines = tuple(
        ReferenceLine("pre-trained", value)
        for value in dict.fromkeys(perplexity_from_loss(r.pretrained) for r in records)
    )
    values = [value for curve in curves for value in curve.y if math.isfinite(value)]
    max_reset = max((record.reset[-1] for record in records), default=0)
    step = -(-max_reset // MAX_BLOCK_TICKS) or 1
    missing = "" if values else "no run's perplexity is a finite number" if records else "no run's perplexity is known"
    everything = [*values, *(line.value for line in lines)]
    return CurvePanel(
        share="perplexity",
        title=title,
        xlabel="top blocks reset to their pre-trained values (k)",
        ylabel="masked-LM perplexity",
        curves=curves,
        ylog=bool(values) and max(everything) > LOG_SCALE_ABOVE_RATIO * min(everything),
        horizontal=lines,
        xticks=tuple(float(k) for k in range(0, max_reset + 1, step)),
        missing=missing,
    )


def finished_runs(runs: ArtifactRuns, groups: Sequence[RunGroup]) -> Iterator[ShownRun]:
    """Yield our finished runs by group, then by seed. Imported runs have no probe records."""
    for group in groups:
        rows = [
            run
            for run in runs.by_arm_task.get((group.arm, group.task), [])
            if run["status"] == "finished" and not isinstance(run["source"], str)
        ]
        rows.sort(key=seed_order)
        yield from (ShownRun(group, run) for run in rows)


def runs_with_verdict(runs: ArtifactRuns, groups: Sequence[RunGroup], verdict: RunVerdict) -> list[ShownRun]:
    """Return the finished runs that failed, or those that did not."""
    return [shown for shown in finished_runs(runs, groups) if shown.run["failed"] is (verdict == "failed")]


def why_no_runs(runs: ArtifactRuns, groups: Sequence[RunGroup], verdict: RunVerdict) -> str:
    """Return why there are no runs with this verdict."""
    if not any(finished_runs(runs, groups)):
        return NO_FINISHED_RUN
    return (
        f"no run of {list_arms(groups)} has failed"
        if verdict == "failed"
        else f"every run of {list_arms(groups)} failed"
    )


def list_arms(groups: Sequence[RunGroup]) -> str:
    """Return the arms as a list in a sentence: "a, b and c"."""
    *others, last = dict.fromkeys(group.arm for group in groups)
    return f"{', '.join(others)} and {last}" if others else last


def sweep_file_of(runs: ArtifactRuns, groups: Sequence[RunGroup]) -> str | None:
    """Return the sweep file of the first group that has one. None: the runs come from a record file."""
    return next((sweep for g in groups if (sweep := runs.sweeps.get((g.arm, g.task)))), None)


def rerun_command(runs: ArtifactRuns, shown: ShownRun, options: str = "") -> str:
    """Return the command that re-trains a finished run to record what is missing. Empty without a sweep file."""
    sweep = sweep_file_of(runs, [shown.group])
    if sweep is None:
        return ""
    arm, init = shown.run["arm"], shown.run["seed_init"]
    plain = init == shown.run["seed_data"] and not set(arm) & set(" ,=")  # else --arms and --seeds cannot select it
    return f"`stableft sweep {sweep}{f' --arms {arm} --seeds {init}' if plain else ''}{options} --complete`"


def rerun_all_command(runs: ArtifactRuns, groups: Sequence[RunGroup], options: str = "") -> str:
    """Return the command that re-trains a sweep's finished runs with missing outputs. Empty without a sweep file."""
    sweep = sweep_file_of(runs, groups)
    return f"`stableft sweep {sweep}{options} --complete`" if sweep else ""


def count_probe_records(runs: ArtifactRuns, parts: Sequence[ArtifactPart]) -> int:
    """Return the number of probe records that these parts show, each counted once."""
    ids: dict[type[ProbeRecord], set[str]] = {}
    for part in parts:
        if kind := PROBE_RECORD_OF_PART.get(type(part)):
            ids.setdefault(kind, set()).update(shown.run_id for shown in finished_runs(runs, list(groups_of(part))))
    return sum(len(runs.probes.about(kind, run_ids)) for kind, run_ids in ids.items())


PROBE_FIGURE_ALTS = {  # figure name -> alternative text
    "gradient-norms": "Gradient norms of every block over the steps, of a failed and a successful run",
    "gradient-norms-matrices": "Gradient norms of the weight matrices of every block, of a failed and a successful run",
    "drift": "The L2 distance of blocks to their initial weights over the steps, mean and range",
    "perplexity": "Language-modelling perplexity with the top blocks reset to their pre-trained values",
    "loss-surface": "Loss between a pre-trained model, a failed and a successful run",
    "gradient-norm-surface": "Gradient norm between a pre-trained model, a failed and a successful run",
}
