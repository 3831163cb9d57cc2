"""What `stableft probe perplexity` does around the measuring: which runs, what is done already, where it is."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from stableft.config.local_files import file_digest
from stableft.config.planned_run import Execution, Stopped
from stableft.config.run_config import canonical_json
from stableft.data.tokens import tokenizer_hash
from stableft.errors import UserError
from stableft.models.load import load_tokenizer
from stableft.probes.mlm_perplexity import (
    ALL,
    MaskedModel,
    ProbeText,
    finetuned_encoder,
    load_masked_model,
    load_text,
    masked_loss,
    masked_parts,
    reset_points,
)
from stableft.probes.saved_runs import Checkpoint, Tick, find_run, open_view, sources_of, weights_folder
from stableft.records.probe_record import PROBES_FILE, PROBES_FOLDER, Perplexity, read_probes, write_probes
from stableft.records.run_record import RunRecord, atomic_write
from stableft.report.figures.draw import draw
from stableft.report.figures.from_probes import WIDE, perplexity_of, perplexity_panel
from stableft.report.figures.panels import Panel
from stableft.report.figures.style import file_bytes
from stableft.sweep.claims import claim
from stableft.sweep.progress import seed_label
from stableft.sweep.workers import INTERRUPTED, collected_signals
from stableft.training.environment import device_name, versions
from stableft.training.setup import prepare_device

POINTS_FILE, FIGURE = "points.json", "perplexity.png"
PRETRAINED = "pretrained"  # the point of the untouched model
FORMAT = 1  # counted up when the same run and text would give other numbers


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
class Measuring:
    """What all runs of a command have in common. `untouched` is filled with the pre-trained model's loss."""

    masked: MaskedModel
    text: ProbeText
    max_length: int
    guessed: int  # masked tokens
    request: PerplexityRequest
    untouched: dict[str, float] = field(default_factory=dict)  # by implementation of attention: last bits may differ


@dataclass(frozen=True)
class Subject:
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
    sources = sources_of(records, pretrained, config, with_data=False)
    where = prepare_device(Execution(device=device))
    tokenizer = load_tokenizer(records[0].config, sources)
    masked = load_masked_model(records[0].config, sources, tokenizer)
    length = _row_length(request.max_length, masked.positions, records[0].config.model.name)
    text = load_text(request.text, tokenizer, length, sources)
    parts = masked_parts(text, masked.inputs, masked.letters, length, request.seed)
    guessed = sum(int(part.chosen.sum()) for part in parts)
    if not guessed:
        raise UserError(f"--text {request.text!r}: it has no word that the model's vocabulary knows, so none to mask")
    print(_about(text, guessed), flush=True)
    masked.model.to(where)  # pyright: ignore[reportArgumentType]
    measuring = Measuring(masked, text, length, guessed, request)
    rows = tokenizer_hash(tokenizer)
    subjects = [
        Subject(
            record, label, folder / "model.safetensors", results / PROBES_FOLDER / _id(measuring, rows, record, folder)
        )
        for record, label, folder in zip(records, labels_of(records), folders, strict=True)
    ]
    try:
        found = _find_all(subjects, measuring)
    except Stopped as stopped:
        print(f"Interrupted: {stopped}; the same command goes on from there")
        return INTERRUPTED
    labels = [subject.label for subject in subjects]
    print(f"\n{perplexity_table(found, labels)}\n")
    print("\n".join(map(recovery_sentence, found, labels)))
    print("M sec. 4.1: resetting around 10 of BERT-large's 24 blocks is often enough.")
    names = [subject.folder.name for subject in subjects]
    figure = results / PROBES_FOLDER / (names[0] if len(names) == 1 else _hash(names)) / FIGURE
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


def _about(text: ProbeText, guessed: int) -> str:
    rule = text.masking
    kept = 1 - rule.masked - rule.random
    return (
        f"{text.name}: {len(text.order):,} rows of {text.tokens:,} tokens, {guessed:,} of them to be found out "
        f"({rule.share:.0%} of each row: {rule.masked:.0%} masked, {rule.random:.0%} replaced, {kept:.0%} as they are)"
    )


def _id(measuring: Measuring, tokens: str, record: RunRecord, folder: Path) -> str:
    """Returns a hash of all that can change a number of a run's probe, but for last bits; `tokens` of the tokenizer."""
    text, model, request = measuring.text, record.config.model, measuring.request
    origin = model.sha256 or [model.name, model.revision, measuring.masked.commit]
    weights = file_digest(folder / "model.safetensors")
    run = [record.run_id, request.checkpoint, weights, origin, model.attention]
    rows = [text.name, text.sha256, tokens, measuring.max_length, text.masking.model_dump(), request.seed]
    return _hash([FORMAT, run, rows])


def _hash(values: list) -> str:
    return hashlib.sha256(canonical_json({"probe": "perplexity", "of": values}).encode()).hexdigest()[:16]


def _find_all(subjects: Sequence[Subject], measuring: Measuring) -> list[Perplexity]:
    """Returns the record of every run, measured now or before.

    Raises:
        Stopped: a signal has come.
        UserError: another process is at a run, or the weights of one cannot be read.
    """
    points, rows = len(measuring.masked.blocks) + 2, len(measuring.text.order)
    kept = [points if _finished(s) else len(_kept(s, measuring).keys() - {PRETRAINED}) for s in subjects]
    left = sum(points - count for count in kept)
    found = []
    with collected_signals() as received, open_view((left + bool(left)) * rows) as show:

        def tick(point: str, done: int) -> None:
            show(point, done)
            if received:
                raise Stopped(f"it was at {point}, and the points before are kept")

        for subject in subjects:
            found.append(_finished(subject) or _find(subject, measuring, tick))
    return found


def _find(subject: Subject, measuring: Measuring, tick: Tick) -> Perplexity:
    """Returns the record of a run, which is then on disk."""
    with claim(subject.folder) as ours:
        if not ours:
            raise UserError(f"another process is at run {subject.record.run_id} in {subject.folder}")
        record = _finished(subject)  # by another process, in the meantime
        if record is None:
            record = _record(subject, measuring, _measure(subject, measuring, tick))
            write_probes(subject.folder / PROBES_FILE, [record])
        (subject.folder / POINTS_FILE).unlink(missing_ok=True)
    return record


def _finished(subject: Subject) -> Perplexity | None:
    return next((r for r in read_probes(subject.folder / PROBES_FILE) if isinstance(r, Perplexity)), None)


def _measure(subject: Subject, measuring: Measuring, tick: Tick) -> dict[str, float]:
    """Returns the loss of every point of a run; each is kept on disk as soon as it is known."""
    masked, request, attention = measuring.masked, measuring.request, subject.record.config.model.attention
    masked.model.set_attn_implementation(attention)
    losses = _kept(subject, measuring)
    if not losses and (subject.folder / POINTS_FILE).exists():
        print(f"{subject.label}: points of an earlier command were made on another device or so, and are made again")
    if attention in measuring.untouched:
        losses[PRETRAINED] = measuring.untouched[attention]

    def find(point: str) -> None:
        if point in losses:
            return
        words = f"{subject.label}, {point if point in (PRETRAINED, ALL) else f'k = {point}'}"
        losses[point] = masked_loss(
            masked,
            measuring.text,
            measuring.max_length,
            request.seed,
            request.batch_size,
            lambda rows: tick(words, rows),
        )
        content = {"made": _circumstances(measuring), "losses": losses}
        atomic_write(subject.folder / POINTS_FILE, json.dumps(content).encode())

    find(PRETRAINED)
    measuring.untouched[attention] = losses[PRETRAINED]
    if not math.isfinite(losses[PRETRAINED]):
        raise UserError(
            f"the pre-trained model itself has a loss of {losses[PRETRAINED]} on text {measuring.text.name}"
        )
    for point in reset_points(masked, finetuned_encoder(subject.weights, masked.model)):
        find(point)
    assert losses[ALL] == losses[PRETRAINED], "with everything reset it is the pre-trained model"
    return losses


def _circumstances(measuring: Measuring) -> dict[str, str | int]:
    """Returns what may move the last bits, so that points made under other ones are not mixed."""
    device = device_name(measuring.masked.model.device)
    size = measuring.request.batch_size
    return {"torch": versions()["torch"], "device": device, "threads": torch.get_num_threads(), "batch_size": size}


def _kept(subject: Subject, measuring: Measuring) -> dict[str, float]:
    """Returns the points that an interrupted command left, if they were made under the same circumstances."""
    path = subject.folder / POINTS_FILE
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    return content["losses"] if content["made"] == _circumstances(measuring) else {}


def _record(subject: Subject, measuring: Measuring, losses: dict[str, float]) -> Perplexity:
    counts = tuple(range(len(measuring.masked.blocks) + 1))
    return Perplexity(
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
        all_reset=losses[ALL],
        pretrained=losses[PRETRAINED],
    )


NEAR = 1.1  # times the pre-trained model's perplexity: recovered
COLUMNS = 6  # runs side by side in the table


def labels_of(records: Sequence[RunRecord]) -> list[str]:
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


def perplexity_table(records: Sequence[Perplexity], labels: Sequence[str]) -> str:
    """Returns perplexities, k down and runs across, in several tables where there are many runs."""
    tables = []
    for start in range(0, len(records), COLUMNS):
        few = slice(start, start + COLUMNS)
        columns = [["k", *map(str, records[0].reset), "all", "pre-trained"]]
        for record, label in zip(records[few], labels[few], strict=True):
            losses = (*record.losses, record.all_reset, record.pretrained)
            columns.append([label, *(_number(perplexity_of(loss)) for loss in losses)])
        widths = [max(map(len, column)) for column in columns]
        tables.append("\n".join("  ".join(map(str.rjust, row, widths)) for row in zip(*columns, strict=True)))
    return "\n\n".join(tables)


def recovery(record: Perplexity) -> int | None:
    """Returns the smallest number of reset blocks with a perplexity within 10 % of the pre-trained model's."""
    near = NEAR * perplexity_of(record.pretrained)
    pairs = zip(record.reset, record.losses, strict=True)
    return next((count for count, loss in pairs if perplexity_of(loss) <= near), None)


def recovery_sentence(record: Perplexity, label: str) -> str:
    """Returns how far a run is from the pre-trained model, and how many blocks must be reset to be near it again."""
    first, last, own = (
        _number(perplexity_of(loss)) for loss in (record.losses[0], record.losses[-1], record.pretrained)
    )
    count, blocks = recovery(record), record.reset[-1]
    start = f"{label}: {first} with nothing reset, {own} pre-trained;"
    if count is None:
        return f"{start} with all {blocks} blocks reset it is {last}, still not within 10%"
    if count == 0:
        return f"{start} that is within 10%"
    return f"{start} within 10% once the top {count} of {blocks} blocks are reset"


def draw_perplexities(records: Sequence[Perplexity], labels: Sequence[str], failed: Sequence[bool], path: Path) -> None:
    """Writes the figure: failed and successful runs side by side, as M has them, on one scale."""
    panels = []
    for kind, title in ((True, "failed run"), (False, "successful run")):
        few = [i for i, one in enumerate(failed) if one == kind]
        if few:
            panels.append(
                perplexity_panel([records[i] for i in few], [labels[i] for i in few], title + "s" * (len(few) > 1))
            )
    values = [value for panel in panels for curve in panel.curves for value in curve.y if math.isfinite(value)]
    values += [line.value for panel in panels for line in panel.horizontal]
    ylog = any(panel.ylog for panel in panels) or max(values) > WIDE * min(values)
    room = 1.3 if ylog else 1.05
    bottom, top = (min(values) / room if ylog else 0.0), max(values) * room
    scaled: list[Panel] = [replace(panel, ylog=ylog, bottom=bottom, top=top) for panel in panels]
    first = records[0]
    caption = f"{first.text}: {first.masked:,} masked tokens, masks of seed {first.seed}; {first.checkpoint} weights"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, file_bytes(draw(scaled, caption), "png"))


def _number(perplexity: float) -> str:
    return f"{perplexity:.2e}" if 1e6 <= perplexity < math.inf else f"{perplexity:,.2f}"
