"""`stableft probe perplexity`: choose runs, skip what is measured, measure, print."""

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
from stableft.sweep.progress import seed_label
from stableft.sweep.workers import EXIT_INTERRUPTED, collected_signals
from stableft.training.environment import device_name, package_versions
from stableft.training.setup import prepare_device

PERPLEXITY_FIGURE = "perplexity.png"
PRETRAINED_POINT = "pretrained"  # the point of the untouched model
PERPLEXITY_FORMAT = 1  # counted up when the same run and text would give other numbers


@dataclass(frozen=True)
class PerplexityRequest:
    """What is asked for on the command line."""

    runs: tuple[str, ...]
    text: str
    seed: int
    max_length: int | None  # None: as many positions as the model has
    checkpoint: Checkpoint
    batch_size: int


@dataclass(frozen=True)
class PerplexityProbe:
    """What all runs of a command have in common. `untouched` is filled with the pre-trained model's loss."""

    masked: MaskedLM
    text: ProbeText
    max_length: int
    guessed: int  # masked tokens
    request: PerplexityRequest
    untouched: dict[str, float] = field(default_factory=dict)  # by implementation of attention: last bits may differ


@dataclass(frozen=True)
class ProbedRun:
    """A run to be measured, what it is called, its weights and the folder of its probe."""

    record: RunRecord
    label: str
    weights: Path
    folder: Path


def run_perplexity(
    request: PerplexityRequest, results: Path, pretrained: str | None, config: str | None, device: str
) -> int:
    """Measures what is not measured yet, prints and draws all of it; returns the exit code: 0, 130 (interrupted).

    Raises:
        UserError: a run, its weights, its model or the text cannot be used, or another process is at it.
    """
    records = list({record.run_id: record for record in (find_run(results, name) for name in request.runs)}.values())
    folders = [weights_folder(results, record, request.checkpoint) for record in records]
    sources = locate_sources(records, pretrained, config, with_data=False)
    where = prepare_device(Execution(device=device))
    tokenizer = load_tokenizer(records[0].config, sources)
    masked = load_masked_lm(records[0].config, sources, tokenizer)
    length = _row_length(request.max_length, masked.positions, records[0].config.model.name)
    text = load_probe_text(request.text, tokenizer, length, sources)
    parts = mask_in_parts(text, masked.inputs, masked.letters, length, request.seed)
    guessed = sum(int(part.chosen.sum()) for part in parts)
    if not guessed:
        raise UserError(f"--text {request.text!r}: it has no word that the model's vocabulary knows, so none to mask")
    print(_describe_text(text, guessed), flush=True)
    masked.model.to(where)  # pyright: ignore[reportArgumentType]
    measuring = PerplexityProbe(masked, text, length, guessed, request)
    rows = hash_tokenizer(tokenizer)
    subjects = [
        ProbedRun(
            record,
            label,
            folder / "model.safetensors",
            results / PROBES_FOLDER / _probe_id(measuring, rows, record, folder),
        )
        for record, label, folder in zip(records, label_runs(records), folders, strict=True)
    ]
    try:
        found = _measure_all(subjects, measuring)
    except RunInterrupted as stopped:
        print(f"Interrupted: {stopped}; the same command goes on from there")
        return EXIT_INTERRUPTED
    labels = [subject.label for subject in subjects]
    print(f"\n{render_perplexities(found, labels)}\n")
    print("\n".join(map(describe_recovery, found, labels)))
    print("M sec. 4.1: resetting around 10 of BERT-large's 24 blocks is often enough.")
    names = [subject.folder.name for subject in subjects]
    figure = results / PROBES_FOLDER / (names[0] if len(names) == 1 else _hash(names)) / PERPLEXITY_FIGURE
    draw_perplexities(found, labels, [bool(record.failed) for record in records], figure)
    print(f"figure: {figure}")
    return 0


def _row_length(wanted: int | None, positions: int | None, name: str) -> int:
    if wanted is not None and positions is not None and wanted > positions:
        raise UserError(f"--max-length {wanted} is more than the {positions} positions of model {name!r}")
    length = wanted or positions
    if length is None:
        raise UserError(f"model {name!r} does not say how many positions it has: give --max-length")
    return length


def _describe_text(text: ProbeText, guessed: int) -> str:
    rule = text.masking
    kept = 1 - rule.masked - rule.random
    return (
        f"{text.name}: {len(text.order):,} rows of {text.tokens:,} tokens, {guessed:,} of them to be found out "
        f"({rule.share:.0%} of each row: {rule.masked:.0%} masked, {rule.random:.0%} replaced, {kept:.0%} as they are)"
    )


def _probe_id(measuring: PerplexityProbe, tokens: str, record: RunRecord, folder: Path) -> str:
    """Returns a hash of all that can change a number of a run's probe, but for last bits; `tokens` of the tokenizer."""
    text, model, request = measuring.text, record.config.model, measuring.request
    origin = model.sha256 or [*model.identity, measuring.masked.commit]
    weights = file_digest(folder / "model.safetensors")
    run = [record.run_id, request.checkpoint, weights, origin, model.attention]
    rows = [text.name, text.sha256, tokens, measuring.max_length, text.masking.model_dump(), request.seed]
    return _hash([PERPLEXITY_FORMAT, run, rows])


def _hash(values: list) -> str:
    return hashlib.sha256(canonical_json({"probe": "perplexity", "of": values}).encode()).hexdigest()[:16]


def _measure_all(subjects: Sequence[ProbedRun], measuring: PerplexityProbe) -> list[PerplexityRecord]:
    """Returns the record of every run, measured now or before.

    Raises:
        Stopped: a signal has come.
        UserError: another process is at a run, or the weights of one cannot be read.
    """
    points, rows = len(measuring.masked.blocks) + 2, len(measuring.text.order)
    facts, points_left = _numeric_conditions(measuring), 0
    for subject in subjects:
        if not _read_finished(subject):
            losses = _usable_losses(read_partial_results(subject.folder, PartialLosses), facts)
            points_left += points - len(losses.keys() - {PRETRAINED_POINT})
    found = []
    with collected_signals() as received, show_probe_progress((points_left + bool(points_left)) * rows) as show:

        def tick(point: str, done: int) -> None:
            show(point, done)
            if received:
                raise RunInterrupted(f"it was at {point}, and the points before are kept")

        for subject in subjects:
            found.append(_read_finished(subject) or _measure_run(subject, measuring, tick))
    return found


def _measure_run(subject: ProbedRun, measuring: PerplexityProbe, tick: ProgressCallback) -> PerplexityRecord:
    """Returns the record of a run, which is then on disk."""
    with claim_run(subject.folder) as ours:
        if not ours:
            raise UserError(f"another process is at run {subject.record.run_id} in {subject.folder}")
        record = _read_finished(subject)  # by another process, in the meantime
        if record is None:
            record = _make_record(subject, measuring, _measure_losses(subject, measuring, tick))
            write_probe_records(subject.folder / PROBES_FILE, [record])
        (subject.folder / PARTIAL_RESULTS_FILE).unlink(missing_ok=True)
    return record


def _read_finished(subject: ProbedRun) -> PerplexityRecord | None:
    return next((r for r in read_probe_records(subject.folder / PROBES_FILE) if isinstance(r, PerplexityRecord)), None)


class PartialLosses(PartialResults):
    """The losses of a run at the points measured so far."""

    model_config = ConfigDict(serialize_by_alias=True)
    facts: Facts = Field(alias="made")
    losses: dict[str, float]


def _measure_losses(subject: ProbedRun, measuring: PerplexityProbe, tick: ProgressCallback) -> dict[str, float]:
    """Return the loss at every point of a run; those measured by earlier commands are not measured again."""
    masked, request, attention = measuring.masked, measuring.request, subject.record.config.model.attention
    masked.model.set_attn_implementation(attention)
    facts = _numeric_conditions(measuring)
    partial = read_partial_results(subject.folder, PartialLosses)
    losses = _usable_losses(partial, facts)
    if partial and find_changed_fact(partial, facts):
        print(f"{subject.label}: points of an earlier command were made on another device or so, and are made again")
    if attention in measuring.untouched:
        losses[PRETRAINED_POINT] = measuring.untouched[attention]

    def find(point: str) -> None:
        if point in losses:
            return
        words = f"{subject.label}, {point if point in (PRETRAINED_POINT, ALL_RESET) else f'k = {point}'}"
        losses[point] = measure_masked_loss(
            masked,
            measuring.text,
            measuring.max_length,
            request.seed,
            request.batch_size,
            lambda rows: tick(words, rows),
        )
        save_when_due()

    with saving_partial_results(subject.folder, lambda: PartialLosses(made=facts, losses=losses)) as save_when_due:
        find(PRETRAINED_POINT)
        measuring.untouched[attention] = losses[PRETRAINED_POINT]
        if not math.isfinite(losses[PRETRAINED_POINT]):
            raise UserError(
                f"the pre-trained model itself has a loss of {losses[PRETRAINED_POINT]} on text {measuring.text.name}"
            )
        for point in reset_top_blocks(masked, load_finetuned_encoder(subject.weights, masked.model)):
            find(point)
    assert losses[ALL_RESET] == losses[PRETRAINED_POINT], "with everything reset it is the pre-trained model"
    return losses


def _numeric_conditions(measuring: PerplexityProbe) -> Facts:
    """Return what may change the last bits, so that points measured under different conditions are not mixed."""
    return {
        "torch": package_versions()["torch"],
        "device": device_name(measuring.masked.model.device),
        "threads": torch.get_num_threads(),
        "batch_size": measuring.request.batch_size,
    }


def _usable_losses(partial: PartialLosses | None, facts: Facts) -> dict[str, float]:
    """Return the losses that an earlier command has measured under the same conditions, by point."""
    return {} if partial is None or find_changed_fact(partial, facts) else dict(partial.losses)


def _make_record(subject: ProbedRun, measuring: PerplexityProbe, losses: dict[str, float]) -> PerplexityRecord:
    counts = tuple(range(len(measuring.masked.blocks) + 1))
    return PerplexityRecord(
        run_id=subject.record.run_id,
        checkpoint=measuring.request.checkpoint,
        text=measuring.text.name,
        text_sha256=measuring.text.sha256,
        seed=measuring.request.seed,
        max_length=measuring.max_length,
        tokens=measuring.text.tokens,
        masked=measuring.guessed,
        reset=counts,
        losses=tuple(losses[str(count)] for count in counts),
        all_reset=losses[ALL_RESET],
        pretrained=losses[PRETRAINED_POINT],
    )


RECOVERED_RATIO = 1.1  # times the pre-trained model's perplexity: recovered
RUNS_PER_TABLE = 6  # runs side by side in the table


def label_runs(records: Sequence[RunRecord]) -> list[str]:
    """Returns what runs are called: arm and seed, the task where there are several, the id where that is not enough."""
    several = len({record.config.data.task for record in records}) > 1
    names = []
    for record in records:
        task = f" {record.config.data.task}" if several else ""
        names.append(f"{record.arm}{task} {seed_label(record.config)}{' failed' if record.failed else ''}")
    return [
        f"{name} {record.run_id[:6]}" if names.count(name) > 1 else name
        for name, record in zip(names, records, strict=True)
    ]


def render_perplexities(records: Sequence[PerplexityRecord], labels: Sequence[str]) -> str:
    """Returns perplexities, k down and runs across, in several tables where there are many runs."""
    tables = []
    for start in range(0, len(records), RUNS_PER_TABLE):
        few = slice(start, start + RUNS_PER_TABLE)
        columns = [["k", *map(str, records[0].reset), "all", "pre-trained"]]
        for record, label in zip(records[few], labels[few], strict=True):
            losses = (*record.losses, record.all_reset, record.pretrained)
            columns.append([label, *(_format_perplexity(perplexity_from_loss(loss)) for loss in losses)])
        widths = [max(map(len, column)) for column in columns]
        tables.append("\n".join("  ".join(map(str.rjust, row, widths)) for row in zip(*columns, strict=True)))
    return "\n\n".join(tables)


def count_blocks_to_recovery(record: PerplexityRecord) -> int | None:
    """Returns the smallest number of reset blocks with a perplexity within 10 % of the pre-trained model's."""
    near = RECOVERED_RATIO * perplexity_from_loss(record.pretrained)
    pairs = zip(record.reset, record.losses, strict=True)
    return next((count for count, loss in pairs if perplexity_from_loss(loss) <= near), None)


def describe_recovery(record: PerplexityRecord, label: str) -> str:
    """Returns how far a run is from the pre-trained model, and how many blocks must be reset to be near it again."""
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
    """Writes the figure: failed and successful runs side by side, as M has them, on one scale."""
    panels = []
    for kind, title in ((True, "failed run"), (False, "successful run")):
        few = [i for i, one in enumerate(failed) if one == kind]
        if few:
            panels.append(
                panel_from_perplexities(
                    [records[i] for i in few], [labels[i] for i in few], title + "s" * (len(few) > 1)
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
