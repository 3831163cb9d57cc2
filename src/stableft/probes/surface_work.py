"""The measuring of a surface, point after point: made ready, gone on with where it was left, kept every few seconds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from stableft.config import RunConfig
from stableft.data import Inputs, TokenRows, load_splits
from stableft.errors import UserError
from stableft.job import prepare_device
from stableft.loop import resume_facts
from stableft.model import build_model, model_inputs
from stableft.plan import Execution, Sources, Stopped
from stableft.probe_record import PROBES_FILE, Surface, digits, write_probes
from stableft.probes.surface import (
    LINE_POINTS,
    Batch,
    Plane,
    Point,
    Value,
    all_points,
    axis,
    draw_examples,
    label_entropy,
    make_batches,
    make_plane,
    measure,
    measure_points,
    origin_config,
)
from stableft.probes.surface_request import Pair, SurfaceRequest
from stableft.record import RecordPart, atomic_write, checked_values, dump_record, set_aside
from stableft.weights import load_tokenizer

POINTS_FILE = "points.json"  # what is measured of an unfinished surface
SAVE_SECONDS = 3.0
ROWS = 32  # at once, unless --micro-batch says otherwise; fewer where memory runs out
DIGITS = 8  # of what the record keeps: as many as float32 has


class Unfinished(RecordPart):
    """The first points of a surface, and what must be equal for the others to fit to them; `rows` went in at once."""

    facts: dict[str, str | int | None]
    rows: int
    values: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True)
class Work:
    """A surface made ready: a plane, the examples, and the points at which it is measured."""

    request: SurfaceRequest
    pair: Pair
    folder: Path
    facts: dict[str, str | int | None]
    plane: Plane
    config: RunConfig
    inputs: Inputs
    rows: TokenRows
    drawn: np.ndarray
    device: torch.device
    at_once: int
    values: tuple[float, ...]  # of alpha, and of beta
    points: list[Point]


def prepare_work(request: SurfaceRequest, pair: Pair, folder: Path, sources: Sources, execution: Execution) -> Work:
    """Returns a surface made ready, not touching the disk but for the cache of tokens.

    Raises:
        UserError: model, data or weights cannot be used, or are not those that the runs were trained with.
    """
    device = prepare_device(execution)
    config = origin_config(pair.failed.config.normalized(), pair.head_seed)
    tokenizer = load_tokenizer(config, sources)
    splits = load_splits(config, sources, tokenizer)
    if splits.record.fingerprint != pair.fingerprint:
        raise UserError(
            f"run {pair.failed.run_id} was trained on rows with fingerprint {pair.fingerprint[:16]}, and now they have "
            f"{splits.record.fingerprint[:16]}: its data has changed"
        )
    drawn = draw_examples(splits.train, request.examples, request.examples_seed)
    model, pretrained = build_model(config, sources)
    trained_from = pair.failed.environment.model_commit if pair.failed.environment else None
    if pretrained.commit != trained_from:
        raise UserError(
            f"run {pair.failed.run_id} was trained from commit {trained_from} of model {config.model.name}, and what "
            f"is loaded now is {pretrained.commit}"
        )
    weights = ((pair.failed, pair.failed_weights), (pair.successful, pair.successful_weights))
    plane = make_plane(model.to(device), weights)  # pyright: ignore[reportArgumentType]
    values = axis(request.points, request.low, request.high)
    return Work(
        request=request,
        pair=pair,
        folder=folder,
        facts=resume_facts(folder.name, pair.fingerprint, execution, device),
        plane=plane,
        config=config,
        inputs=model_inputs(pretrained, tokenizer),
        rows=splits.train,
        drawn=drawn,
        device=device,
        at_once=min(execution.micro_batch or ROWS, len(drawn)),
        values=values,
        points=all_points(values),
    )


def read_points(work: Work) -> Unfinished | None:
    """Returns what an earlier process has measured, or None; what cannot be read is set aside, and a line says so.

    Raises:
        UserError: it was measured in another way, so that the rest would not fit to it.
    """
    path = work.folder / POINTS_FILE
    try:
        kept = Unfinished.model_validate(checked_values(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (UserError, ValidationError, UnicodeDecodeError):
        print(f"{path} cannot be read: set aside as {set_aside(path)}, and every point is measured anew")
        return None
    for key, value in work.facts.items():
        if kept.facts.get(key) != value:
            raise UserError(
                f"{path} has {len(kept.values)} points measured with {key} {kept.facts.get(key)!r}, here it is "
                f"{value!r}: go on as before, or delete it to start afresh"
            )
    return kept


def measure_surface(
    work: Work, kept: Unfinished | None, show: Callable[[int, Value], None], stop: Callable[[], bool]
) -> Surface:
    """Returns the surface, which is then on disk, after measuring the points that `kept` has not.

    `show` is told after each point how many are done, and the latest value.

    Raises:
        Stopped: `stop()` was true; the points so far were kept.
        UserError: memory ran out.
    """
    with_norm = not work.request.loss_only
    if kept:
        size, batches = kept.rows, _batches(work, kept.rows)
    else:
        size, batches = _fitting(work)
    values: list[Value] = list(kept.values) if kept else []
    saved_at = time.monotonic()

    def save() -> None:
        content = Unfinished(facts=work.facts, rows=size, values=tuple(values))
        atomic_write(work.folder / POINTS_FILE, (dump_record(content) + "\n").encode())

    left = islice(work.points, len(values), None)
    try:
        for value in measure_points(work.plane, left, batches, with_norm, stop):
            values.append(value)
            show(len(values), value)
            if time.monotonic() - saved_at >= SAVE_SECONDS:
                save()
                saved_at = time.monotonic()
    except Stopped:
        save()
        raise Stopped(f"stopped after {len(values)} points") from None
    except torch.OutOfMemoryError:
        save()
        raise UserError(
            f"memory ran out at point {len(values) + 1} of {len(work.points)}; the points before it are kept, and the "
            "same command goes on from there once there is memory"
        ) from None
    record = _surface(work, values)
    write_probes(work.folder / PROBES_FILE, [record])
    return record


def _batches(work: Work, size: int) -> list[Batch]:
    return make_batches(work.rows, work.drawn, work.config, work.inputs, work.device, size)


def _fitting(work: Work) -> tuple[int, list[Batch]]:
    """Returns how many rows fit into memory at once, and the batches; the first one is the longest."""
    size = work.at_once
    while work.device.type == "cuda":
        try:
            measure(work.plane.model, _batches(work, size)[:1], not work.request.loss_only)
            break
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError(f"a single example of {work.config.data.task} does not fit into memory") from None
            size = -(-size // 2)
    return size, _batches(work, size)


def _surface(work: Work, values: Sequence[Value]) -> Surface:
    request, pair = work.request, work.pair
    with_norm = not request.loss_only
    losses = digits((loss for loss, _ in values), DIGITS)
    norms = digits((norm for _, norm in values if norm is not None), DIGITS)
    grid = 1 + LINE_POINTS

    def rows(of: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
        n = request.points
        return tuple(of[start : start + n] for start in range(grid, len(of), n))

    return Surface(
        run_id=work.folder.name,
        model=work.config.model.name,
        task=work.config.data.task,
        failed=pair.failed.run_id,
        successful=pair.successful.run_id,
        checkpoint=request.checkpoint,
        head_seed=pair.head_seed,
        examples=request.examples,
        examples_seed=request.examples_seed,
        alphas=work.values,
        betas=work.values,
        losses=rows(losses),
        grad_norms=rows(norms) if with_norm else None,
        label_entropy=label_entropy(work.rows.labels[work.drawn]),
        pretrained_loss=losses[0],
        pretrained_norm=norms[0] if with_norm else None,
        line_losses=losses[1:grid],
        line_norms=norms[1:grid] if with_norm else (),
    )
