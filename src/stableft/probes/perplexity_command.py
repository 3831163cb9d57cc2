"""`stableft probe perplexity`: choose runs, measure what is left, print and draw."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import ConfigDict, Field

from stableft.config.local_files import file_digest
from stableft.config.planned_run import Execution, RunInterrupted
from stableft.config.run_config import Checkpoint, canonical_json
from stableft.config.sweep_file import Sweep
from stableft.data.tokens import hash_tokenizer
from stableft.errors import UserError
from stableft.models.load import load_tokenizer
from stableft.probes.mlm_perplexity import (
    ALL_RESET,
    MaskedLM,
    ProbeText,
    load_finetuned_encoder,
    load_masked_lm,
    load_probe_text,
    mask_in_parts,
    measure_masked_loss,
    reset_top_blocks,
)
from stableft.probes.partial_results import (
    PARTIAL_RESULTS_FILE,
    Facts,
    PartialResults,
    find_changed_fact,
    read_partial_results,
    saving_partial_results,
)
from stableft.probes.saved_runs import (
    ProgressCallback,
    find_run,
    locate_sources,
    show_probe_progress,
    weights_folder,
)
from stableft.records.atomic_folder import remove_under_claim
from stableft.records.failure import has_failed
from stableft.records.probe_record import (
    PROBES_FILE,
    PROBES_FOLDER,
    PerplexityRecord,
    read_probe_records,
    write_probe_records,
)
from stableft.records.run_record import RunRecord, atomic_write
from stableft.report.figures.draw import draw_panels
from stableft.report.figures.from_probes import LOG_SCALE_ABOVE_RATIO, panel_from_perplexities, perplexity_from_loss
from stableft.report.figures.panels import Panel
from stableft.report.figures.style import figure_to_bytes
from stableft.sweep.claims import claim_run
from stableft.sweep.signals import EXIT_INTERRUPTED, collected_signals
from stableft.training.environment import device_name, package_versions
from stableft.training.setup import prepare_device, torch_settings_restored

PERPLEXITY_FIGURE = "perplexity.png"
PRETRAINED_POINT = "pretrained"  # the pre-trained model, before any weights are copied in
PERPLEXITY_FORMAT = 1  # increased when the same run and text would give different numbers


@dataclass(frozen=True)
class PerplexityRequest:
    """The request on the command line."""

    runs: tuple[str, ...]
    text: str
    seed: int
    max_length: int | None  # None: the model's maximum
    checkpoint: Checkpoint
    batch_size: int


@dataclass(frozen=True)
class PerplexityProbe:
    """What all runs of a command share. `pretrained_losses` is filled with the pre-trained model's loss."""

    masked: MaskedLM
    text: ProbeText
    max_length: int
    n_masked: int
    request: PerplexityRequest
    pretrained_losses: dict[str, float] = field(default_factory=dict)  # by attention, which may change the last bits


@dataclass(frozen=True)
class ProbedRun:
    """A run to measure, its label, its weights and the folder of its probe."""

    record: RunRecord
    label: str
    weights: Path
    folder: Path


@torch_settings_restored()
def run_perplexity(
    request: PerplexityRequest, results: Path, pretrained: str | None, sweep: Sweep | None, device: str
) -> int:
    """Measure what is left, print and draw everything, and return the exit code: 0, or 130 if interrupted.

    Raises:
        UserError: a run, its weights, its model or the text is missing or damaged, or another process is probe it.
    """
    records = list({record.run_id: record for record in (find_run(results, name) for name in request.runs)}.values())
    folders = [weights_folder(results, record, request.checkpoint) for record in records]
    sources = locate_sources(records, pretrained, sweep, with_data=False)
    torch_device = prepare_device(Execution(device=device))
    tokenizer = load_tokenizer(records[0].run_config, sources)
    masked = load_masked_lm(records[0].run_config, sources, tokenizer)
    length = _row_length(request.max_length, masked.max_positions, records[0].run_config.model.name)
    text = load_probe_text(request.text, tokenizer, length, sources)
    masked_parts = mask_in_parts(text, masked.inputs, masked.vocabulary, length, request.seed)
    n_masked = sum(int(part.is_masked.sum()) for part in masked_parts)
    if not n_masked:
        raise UserError(f"--text {request.text!r}: it has no word of the model's vocabulary, so nothing to mask")
    print(_describe_text(text, n_masked), flush=True)
    masked.model.to(torch_device)  # pyright: ignore[reportArgumentType]
    probe = PerplexityProbe(masked, text, length, n_masked, request)
    tokenizer_digest = hash_tokenizer(tokenizer)
    probed_runs = [
        ProbedRun(
            record,
            label,
            folder / "model.safetensors",
            results / PROBES_FOLDER / _probe_id(probe, tokenizer_digest, record, folder),
        )
        for record, label, folder in zip(records, label_runs(records), folders, strict=True)
    ]
    try:
        found = _measure_all(probed_runs, probe)
    except RunInterrupted as stopped:
        print(f"Interrupted: {stopped}; the same command goes on from there")
        return EXIT_INTERRUPTED
    labels = [run.label for run in probed_runs]
    print(f"\n{render_perplexities(found, labels)}\n")
    print("\n".join(map(describe_recovery, found, labels)))
    print("M sec. 4.1: resetting around 10 of BERT-large's 24 blocks is often enough.")
    names = [run.folder.name for run in probed_runs]
    figure = results / PROBES_FOLDER / (names[0] if len(names) == 1 else _hash(names)) / PERPLEXITY_FIGURE
    draw_perplexities(found, labels, [bool(has_failed(record)) for record in records], figure)
    print(f"figure: {figure}")
    return 0


def _row_length(max_length: int | None, positions: int | None, name: str) -> int:
    if max_length is not None and positions is not None and max_length > positions:
        raise UserError(f"--max-length {max_length} is more than the {positions} positions of model {name!r}")
    length = max_length or positions
    if length is None:
        raise UserError(f"model {name!r} has an unknown number of positions: give --max-length")
    return length


def _describe_text(text: ProbeText, n_masked: int) -> str:
    rule = text.masking
    unchanged = 1 - rule.masked - rule.random
    how = f"{rule.masked:.0%} masked, {rule.random:.0%} replaced, {unchanged:.0%} unchanged"
    return (
        f"{text.name}: {len(text.rows_longest_first):,} rows of {text.tokens:,} tokens, {n_masked:,} of them to be "
        f"predicted ({rule.share:.0%} of each row: {how})"
    )


def _probe_id(probe: PerplexityProbe, tokenizer_digest: str, record: RunRecord, folder: Path) -> str:
    """Return a hash of everything that determines the numbers of a run's probe, except the last bits."""
    text, model, request = probe.text, record.run_config.model, probe.request
    origin = model.sha256 or [*model.identity, probe.masked.commit]
    weights = file_digest(folder / "model.safetensors")
    run = [record.run_id, request.checkpoint, weights, origin, model.attention]
    rows = [text.name, text.sha256, tokenizer_digest, probe.max_length, text.masking.model_dump(), request.seed]
    return _hash([PERPLEXITY_FORMAT, run, rows])


def _hash(values: list) -> str:
    return hashlib.sha256(canonical_json({"probe": "perplexity", "of": values}).encode()).hexdigest()[:16]


def _measure_all(probed_runs: Sequence[ProbedRun], probe: PerplexityProbe) -> list[PerplexityRecord]:
    """Return the record of every run, measured now or earlier.

    Raises:
        RunInterrupted: a signal was received.
        UserError: another process is probe a run, or its weights cannot be read.
    """
    points, rows = len(probe.masked.blocks) + 2, len(probe.text.rows_longest_first)
    facts, points_left = _numeric_conditions(probe), 0
    for run in probed_runs:
        if not _read_finished(run):
            losses = _usable_losses(read_partial_results(run.folder, PartialLosses), facts)
            points_left += points - len(losses.keys() - {PRETRAINED_POINT})
    found = []
    with collected_signals() as received, show_probe_progress((points_left + bool(points_left)) * rows) as show:

        def on_batch(point: str, rows_done: int) -> None:
            show(point, rows_done)
            if received:
                raise RunInterrupted(f"it was at {point}, and the points before are kept")

        for run in probed_runs:
            found.append(_read_finished(run) or _measure_run(run, probe, on_batch))
    return found


def _measure_run(run: ProbedRun, probe: PerplexityProbe, on_batch: ProgressCallback) -> PerplexityRecord:
    """Measure a run, write its record and return it."""
    with claim_run(run.folder) as claimed:
        if not claimed:
            raise UserError(f"another process is at run {run.record.run_id} in {run.folder}")
        record = _read_finished(run)  # another process may have finished it in the meantime
        if record is None:
            record = _make_record(run, probe, _measure_losses(run, probe, on_batch))
            write_probe_records(run.folder / PROBES_FILE, [record])
        remove_under_claim(run.folder / PARTIAL_RESULTS_FILE)
    return record


def _read_finished(run: ProbedRun) -> PerplexityRecord | None:
    return next((r for r in read_probe_records(run.folder / PROBES_FILE) if isinstance(r, PerplexityRecord)), None)


class PartialLosses(PartialResults):
    """The losses of a run at the points measured so far."""

    model_config = ConfigDict(serialize_by_alias=True)
    facts: Facts = Field(alias="made")
    losses: dict[str, float]
    halved: dict[str, int] = Field(default={})  # points at which memory ran out: rows of a batch that fitted then


def _measure_losses(run: ProbedRun, probe: PerplexityProbe, on_batch: ProgressCallback) -> PartialLosses:
    """Return the loss at every point of a run; those measured by earlier commands are not measured again."""
    masked, request, attention = probe.masked, probe.request, run.record.run_config.model.attention
    masked.model.set_attn_implementation(attention)
    facts = _numeric_conditions(probe)
    partial = read_partial_results(run.folder, PartialLosses)
    losses = _usable_losses(partial, facts)
    halved = dict(partial.halved) if partial and losses else {}
    if partial and find_changed_fact(partial, facts):
        print(f"{run.label}: points of an earlier command were made on another device or so, and are made again")
    if attention in probe.pretrained_losses:
        losses[PRETRAINED_POINT] = probe.pretrained_losses[attention]

    def measure_point(point: str) -> None:
        if point in losses:
            return
        label = f"{run.label}, {point if point in (PRETRAINED_POINT, ALL_RESET) else f'k = {point}'}"
        losses[point] = measure_masked_loss(
            masked,
            probe.text,
            probe.max_length,
            request.seed,
            min((request.batch_size, *halved.values())),
            lambda rows: on_batch(label, rows),
            lambda rows: halved.update({point: rows}),
        )
        save_when_due()

    def measured() -> PartialLosses:
        return PartialLosses(made=facts, losses=losses, halved=halved)

    with saving_partial_results(run.folder, measured) as save_when_due:
        measure_point(PRETRAINED_POINT)
        probe.pretrained_losses[attention] = losses[PRETRAINED_POINT]
        if not math.isfinite(losses[PRETRAINED_POINT]):
            raise UserError(
                f"the pre-trained model itself has a loss of {losses[PRETRAINED_POINT]} on text {probe.text.name}"
            )
        for point in reset_top_blocks(masked, load_finetuned_encoder(run.weights, masked.model)):
            measure_point(point)
    assert losses[ALL_RESET] == losses[PRETRAINED_POINT], "with everything reset it is the pre-trained model"
    return measured()


def _numeric_conditions(probe: PerplexityProbe) -> Facts:
    """Return what may change the last bits, so that points measured under different conditions are not mixed."""
    return {
        "torch": package_versions()["torch"],
        "device": device_name(probe.masked.model.device),
        "threads": torch.get_num_threads(),
        "batch_size": probe.request.batch_size,
    }


def _usable_losses(partial: PartialLosses | None, facts: Facts) -> dict[str, float]:
    """Return the losses that an earlier command has measured under the same conditions, by point."""
    return {} if partial is None or find_changed_fact(partial, facts) else dict(partial.losses)


def _make_record(run: ProbedRun, probe: PerplexityProbe, measured: PartialLosses) -> PerplexityRecord:
    counts, losses = tuple(range(len(probe.masked.blocks) + 1)), measured.losses
    return PerplexityRecord(
        run_id=run.record.run_id,
        checkpoint=probe.request.checkpoint,
        text=probe.text.name,
        text_sha256=probe.text.sha256,
        seed=probe.request.seed,
        max_length=probe.max_length,
        tokens=probe.text.tokens,
        masked=probe.n_masked,
        reset=counts,
        losses=tuple(losses[str(count)] for count in counts),
        all_reset=losses[ALL_RESET],
        pretrained=losses[PRETRAINED_POINT],
        eval_batch=min(measured.halved.values(), default=None),
        eval_batch_halved_at=tuple(measured.halved) or None,
    )


RECOVERED_RATIO = 1.1  # a perplexity within this factor of the pre-trained model's counts as recovered
RUNS_PER_TABLE = 6


def label_runs(records: Sequence[RunRecord]) -> list[str]:
    """Return labels of runs: arm and seed, with the task if there are several, and the id if labels would be equal."""
    several_tasks = len({record.config.data.task for record in records}) > 1
    names = []
    for record in records:
        task = f" {record.config.data.task}" if several_tasks else ""
        names.append(f"{record.arm}{task} {record.config.seeds.label}{' failed' if has_failed(record) else ''}")
    return [
        f"{name} {record.run_id[:6]}" if names.count(name) > 1 else name
        for name, record in zip(names, records, strict=True)
    ]


def render_perplexities(records: Sequence[PerplexityRecord], labels: Sequence[str]) -> str:
    """Return tables of perplexities with one row per k and one column per run, split if there are many runs."""
    tables = []
    for start in range(0, len(records), RUNS_PER_TABLE):
        selected = slice(start, start + RUNS_PER_TABLE)
        columns = [["k", *map(str, records[0].reset), "all", "pre-trained"]]
        for record, label in zip(records[selected], labels[selected], strict=True):
            losses = (*record.losses, record.all_reset, record.pretrained)
            columns.append([label, *(_format_perplexity(perplexity_from_loss(loss)) for loss in losses)])
        widths = [max(map(len, column)) for column in columns]
        tables.append("\n".join("  ".join(map(str.rjust, row, widths)) for row in zip(*columns, strict=True)))
    return "\n\n".join(tables)


def count_blocks_to_recovery(record: PerplexityRecord) -> int | None:
    """Return the smallest number of reset blocks with a perplexity within 10 % of the pre-trained model's, or None."""
    threshold = RECOVERED_RATIO * perplexity_from_loss(record.pretrained)
    pairs = zip(record.reset, record.losses, strict=True)
    return next((count for count, loss in pairs if perplexity_from_loss(loss) <= threshold), None)


def describe_recovery(record: PerplexityRecord, label: str) -> str:
    """Return in words how far a run is from the pre-trained model, and how many reset blocks bring it back."""
    first, last, own = (
        _format_perplexity(perplexity_from_loss(loss))
        for loss in (record.losses[0], record.losses[-1], record.pretrained)
    )
    count, blocks = count_blocks_to_recovery(record), record.reset[-1]
    start = f"{label}: {first} with nothing reset, {own} pre-trained;"
    if count is None:
        return f"{start} with all {blocks} blocks reset it is {last}, still not within 10%"
    if count == 0:
        return f"{start} that is within 10%"
    return f"{start} within 10% once the top {count} of {blocks} blocks are reset"


def draw_perplexities(
    records: Sequence[PerplexityRecord], labels: Sequence[str], failed: Sequence[bool], path: Path
) -> None:
    """Write the figure: failed and successful runs side by side, as in M, on one scale."""
    panels = []
    for kind, title in ((True, "failed run"), (False, "successful run")):
        selected = [i for i, run_failed in enumerate(failed) if run_failed == kind]
        if selected:
            plural = "s" if len(selected) > 1 else ""
            panels.append(
                panel_from_perplexities(
                    [records[i] for i in selected], [labels[i] for i in selected], f"{title}{plural}"
                )
            )
    values = [value for panel in panels for curve in panel.curves for value in curve.y if math.isfinite(value)]
    values += [line.value for panel in panels for line in panel.horizontal]
    ylog = any(panel.ylog for panel in panels) or max(values) > LOG_SCALE_ABOVE_RATIO * min(values)
    room = 1.3 if ylog else 1.05
    bottom, top = (min(values) / room if ylog else 0.0), max(values) * room
    scaled: list[Panel] = [replace(panel, ylog=ylog, bottom=bottom, top=top) for panel in panels]
    first = records[0]
    caption = f"{first.text}: {first.masked:,} masked tokens, masks of seed {first.seed}; {first.checkpoint} weights"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, figure_to_bytes(draw_panels(scaled, caption), "png"))


def _format_perplexity(perplexity: float) -> str:
    return f"{perplexity:.2e}" if 1e6 <= perplexity < math.inf else f"{perplexity:,.2f}"
