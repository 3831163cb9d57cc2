"""What `stableft probe perplexity` does around the measuring: which runs, what is done already, where it is."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stableft.claim import claim
from stableft.config import canonical_json
from stableft.data import tokenizer_hash
from stableft.environment import device_name, versions
from stableft.errors import UserError
from stableft.job import prepare_device
from stableft.launch.signals import INTERRUPTED, collected_signals
from stableft.locate import file_digest
from stableft.plan import Execution, Stopped
from stableft.probe_record import PROBES_FILE, PROBES_FOLDER, Perplexity, read_probes, write_probes
from stableft.probes.masked_text import ProbeText, load_text, masked_parts
from stableft.probes.perplexity import ALL, MaskedModel, finetuned_encoder, load_masked_model, masked_loss, reset_points
from stableft.probes.perplexity_shown import draw_perplexities, labels_of, perplexity_table, recovery_sentence
from stableft.probes.saved import Checkpoint, find_run, sources_of, weights_folder
from stableft.probes.view import Tick, open_view
from stableft.record import RunRecord, atomic_write
from stableft.weights import load_tokenizer

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
