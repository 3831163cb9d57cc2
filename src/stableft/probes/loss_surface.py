"""Loss and gradient norm on the plane through a pre-trained, a failed and a successful model (M sec. 5.1, 7.6).

A point (alpha, beta) has the parameters `pretrained + alpha * (failed - pretrained) + beta * (successful -
pretrained)`, all of them, the head included. They lie in one flat buffer that the model's parameters are views of, so
that going to a point is one addition (two in a new row) and no part of the model is made anew.

DEVIATION: M do not say which head the pre-trained model has; here it is the one drawn by the failed run's init seed
(or by `--head-seed`), so that the failed run's direction is the way that it went.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stableft.config.local_files import file_digest
from stableft.config.planned_run import Execution, LocalPaths, RunInterrupted
from stableft.config.run_config import Checkpoint, RunConfig, Seeds, canonical_json
from stableft.data.metrics import label_entropy
from stableft.data.tokens import InputLayout, LabeledRows, collate, load_splits
from stableft.errors import UserError
from stableft.models.build import build_model, input_layout_for
from stableft.models.load import load_tokenizer
from stableft.models.start_weights import WEIGHTS_FILE, StartWeights, load_start_weights
from stableft.probes.partial_results import (
    PARTIAL_RESULTS_FILE,
    Facts,
    PartialResults,
    find_changed_fact,
    read_partial_results,
    saving_partial_results,
)
from stableft.probes.saved_runs import find_run, weights_folder
from stableft.records.probe_record import PROBES_FILE, SurfaceRecord, round_to_digits, write_probe_records
from stableft.records.run_record import RunRecord
from stableft.seeds import make_generator
from stableft.training.evaluate import loss_sum, to_device
from stableft.training.loop import resume_conditions
from stableft.training.setup import prepare_device

ALIGNMENT = 64  # floats: where a parameter begins decides which kernels read it, and so its last bits
LINE_POINTS = 21  # on the straight line from the failed to the successful model, both included
Batch = dict[str, Tensor]
PlanePoint = tuple[float, float]  # alpha, beta
LossAndNorm = tuple[float, float | None]  # loss, and norm of its gradient if asked for


@dataclass(frozen=True)
class Plane:
    """A model at some point of the plane. The others are vectors like `flat`, which holds its parameters."""

    model: nn.Module
    flat: Tensor
    origin: Tensor
    failed: Tensor  # from the origin
    successful: Tensor


def origin_config(config: RunConfig, head_seed: int) -> RunConfig:
    """Returns the config whose fresh model is the plane's origin: pre-trained weights and a drawn head, no more."""
    plain = {"reinit": None, "mixout": None, "start_from": None, "precision": "fp32"}
    return config.model_copy(update={**plain, "seeds": Seeds(init=head_seed, data=config.seeds.data)})


def flatten_parameters(model: nn.Module) -> Tensor:
    """Returns a buffer with all parameters, of which they are views from now on; tied ones are in it once."""
    parameters = list(model.parameters())
    sizes = [-(-parameter.numel() // ALIGNMENT) * ALIGNMENT for parameter in parameters]
    flat = torch.zeros(sum(sizes), device=parameters[0].device)
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        view = part[: parameter.numel()].view_as(parameter)
        view.copy_(parameter.detach())
        parameter.data = view
    return flat


def make_plane(model: nn.Module, runs: Sequence[tuple[RunRecord, Path]]) -> Plane:
    """Returns the plane of a model, its origin, and the weight files of a failed and a successful run.

    From now on the model is at whichever point `go_to` was last told, and in evaluation mode.

    Raises:
        UserError: a file does not hold finite weights of this model.
    """
    model.eval()
    flat = flatten_parameters(model)
    origin, ends = flat.clone(), []
    for record, weights in runs:
        try:
            load_start_weights(model, StartWeights(record, weights, with_head=True), head=())
        except SafetensorError as error:
            raise UserError(f"run {record.run_id}: {weights} holds no weights: {error}") from None
        except UserError as error:
            raise UserError(f"run {record.run_id}: {str(error).removeprefix('start_from: ')}") from None
        if not flat.isfinite().all():
            raise UserError(
                f"run {record.run_id}: the weights in {weights} are not all finite, so that nothing lies between them "
                "and the pre-trained ones"
            )
        ends.append(flat - origin)
    plane = Plane(model, flat, origin, *ends)
    move_model_to(plane, (0.0, 0.0))
    return plane


def parameters_at_beta(plane: Plane, beta: float) -> Tensor:
    """Returns what all points with this beta begin with."""
    return torch.add(plane.origin, plane.successful, alpha=beta)


@torch.no_grad()
def move_model_to(plane: Plane, point: PlanePoint, row: Tensor | None = None) -> None:
    """Gives the model the parameters of a point; `row`, if it is there already, is that of the point's beta."""
    alpha, beta = point
    torch.add(parameters_at_beta(plane, beta) if row is None else row, plane.failed, alpha=alpha, out=plane.flat)


def sample_examples(rows: LabeledRows, count: int, seed: int) -> np.ndarray:
    """Returns the numbers of so many rows, drawn without replacement; the longest first, so that little is padded.

    Raises:
        UserError: there are fewer rows.
    """
    if count > len(rows):
        raise UserError(f"--examples {count}: the runs were trained on {len(rows)} rows, and no more can be drawn")
    drawn = torch.randperm(len(rows), generator=make_generator(seed, "examples"))[:count].numpy()
    return drawn[np.argsort(-np.diff(rows.offsets)[drawn], kind="stable")]


def make_batches(
    rows: LabeledRows, drawn: np.ndarray, config: RunConfig, inputs: InputLayout, device: torch.device, size: int
) -> list[Batch]:
    """Returns these rows and their labels as batches of `size` on the device."""
    parts = (drawn[start : start + size] for start in range(0, len(drawn), size))
    return [to_device(collate(rows, part, inputs, config.data), device) for part in parts]


def measure_loss(
    model: nn.Module, batches: Sequence[Batch], with_norm: bool, stop: Callable[[], bool] = lambda: False
) -> LossAndNorm:
    """Returns the mean loss over all rows, and the L2 norm of its gradient to all parameters.

    Raises:
        Stopped: `stop()` was true, which is asked before every batch.
    """
    rows = sum(len(batch["labels"]) for batch in batches)
    total = torch.zeros((), dtype=torch.float64, device=batches[0]["labels"].device)
    model.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(with_norm):
        for batch in batches:
            if stop():
                raise RunInterrupted
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            loss = loss_sum(model(**inputs).logits, batch["labels"]) / rows
            if with_norm:
                loss.backward()
            total += loss.detach()
    norm = None
    if with_norm:
        # A parameter that the loss does not depend on has no gradient.
        norm = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        model.zero_grad(set_to_none=True)
    return float(total), norm


def make_grid_axis(points: int, low: float, high: float) -> tuple[float, ...]:
    """Returns the evenly spaced values of alpha, which are those of beta too."""
    return tuple(float(value) for value in np.linspace(low, high, points))


def list_line_points() -> list[PlanePoint]:
    """Returns the evenly spaced points of the straight line from the failed to the successful model."""
    steps = LINE_POINTS - 1
    return [(1 - i / steps, i / steps) for i in range(LINE_POINTS)]


def list_surface_points(values: Sequence[float]) -> list[PlanePoint]:
    """Returns the points of a surface in the order in which they are measured.

    First the origin, then the line from the failed to the successful model, then the grid, row by row: alpha runs
    fastest.
    """
    return [(0.0, 0.0), *list_line_points(), *((alpha, beta) for beta in values for alpha in values)]


def measure_points(
    plane: Plane,
    points: Iterable[PlanePoint],
    batches: Sequence[Batch],
    with_norms: bool,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[LossAndNorm]:
    """Yields what `measure` gives at each of the points; raises as it does."""
    row, row_beta = None, None
    for alpha, beta in points:
        if row is None or beta != row_beta:
            row, row_beta = parameters_at_beta(plane, beta), beta
        move_model_to(plane, (alpha, beta), row)
        yield measure_loss(plane.model, batches, with_norms, stop)


SURFACE_FORMAT = 1  # counted up when an equal request would give other numbers


@dataclass(frozen=True)
class SurfaceRequest:
    """One surface: the names of two runs, the grid (both axes alike), the examples, and what is measured."""

    failed: str
    successful: str
    checkpoint: Checkpoint = "last"
    points: int = 40  # M sec. 7.6: 40 along each axis, from -1.5 to 1.5, on 128 examples
    low: float = -1.5
    high: float = 1.5
    examples: int = 128
    examples_seed: int = 0
    head_seed: int | None = None  # None: the failed run's
    loss_only: bool = False


@dataclass(frozen=True)
class SurfaceRuns:
    """The two runs of a surface, their weight files, and the seed of the head that the pre-trained model is given."""

    failed: RunRecord
    successful: RunRecord
    failed_weights: Path
    successful_weights: Path
    head_seed: int

    @property
    def fingerprint(self) -> str:
        """That of the rows that both were trained on."""
        assert self.failed.data
        return self.failed.data.fingerprint


def find_surface_runs(request: SurfaceRequest, results: Path) -> SurfaceRuns:
    """Returns the two runs that are asked for.

    Raises:
        UserError: the request contradicts itself, a run or its weights are not there, one did not end as it is said
            to have, or they are not of one model and task.
    """
    if not (math.isfinite(request.low) and math.isfinite(request.high) and request.low < request.high):
        raise UserError(f"--range {request.low:g} {request.high:g}: give two numbers, the lower one first")
    failed, successful = find_run(results, request.failed), find_run(results, request.successful)
    _check_whether_failed(failed, "--failed", True)
    _check_whether_failed(successful, "--successful", False)
    _check_comparable(failed, successful)
    return SurfaceRuns(
        failed,
        successful,
        weights_folder(results, failed, request.checkpoint) / WEIGHTS_FILE,
        weights_folder(results, successful, request.checkpoint) / WEIGHTS_FILE,
        failed.config.seeds.init if request.head_seed is None else request.head_seed,
    )


def surface_id(request: SurfaceRequest, pair: SurfaceRuns) -> str:
    """Returns 16 hex digits, equal for surfaces whose numbers are equal on one machine and with equal versions."""
    config = pair.failed.config.normalized()
    content = {
        "format": SURFACE_FORMAT,
        **asdict(request),
        "failed": [pair.failed.run_id, file_digest(pair.failed_weights)],
        "successful": [pair.successful.run_id, file_digest(pair.successful_weights)],
        "head_seed": pair.head_seed,
        "model": config.model.model_dump(mode="json"),
        "commit": _model_commit(pair.failed),
        "data": config.data.model_dump(mode="json"),
        "rows": pair.fingerprint,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def _check_whether_failed(record: RunRecord, option: str, failed: bool) -> None:
    """Raises UserError unless the run failed, or did not, as the option says."""
    if record.failed is failed:
        return
    score, metric, split = record.reported_score, record.config.task.metric, record.config.reported_split
    at_end = record.score("last", split, metric)
    baseline = record.data.baselines[split][metric] if record.data else None
    words = "did not fail" if failed else "failed"
    how = f": its last {metric} is {at_end:.4f}, the majority baseline {baseline:.4f}" if score is not None else ""
    raise UserError(f"{option} {record.run_id}: this run ({record.arm} {record.config.data.task}) {words}{how}")


def _check_comparable(failed: RunRecord, successful: RunRecord) -> None:
    """Raises UserError if the two models differ in shape, or in what they were trained on, and names the difference."""
    for key, theirs in _comparable_settings(failed).items():
        other = _comparable_settings(successful)[key]
        if theirs != other:
            raise UserError(
                f"runs {failed.run_id} and {successful.run_id} differ in {key}, {_abbreviate(theirs)} and "
                f"{_abbreviate(other)}: "
                "a surface lies between two models of one kind that were trained on the same rows"
            )


def _comparable_settings(record: RunRecord) -> dict[str, Any]:
    """Returns what must be equal besides the model, which `sources_of` looks at; padding changes no loss."""
    config = record.config.normalized()
    data = config.data.model_dump(exclude={"pad_to_max"} | ({"task"} if config.data.own else set()))
    return {
        "model.head": config.model.head,
        "model.structure": config.model.structure,
        "the commit of the hub model": _model_commit(record),
        **{f"data.{key}": value for key, value in data.items()},
        "the fingerprint of their rows": record.data.fingerprint if record.data else None,
    }


def _model_commit(record: RunRecord) -> str | None:
    return record.environment.model_commit if record.environment else None


def _abbreviate(value: Any) -> str:
    return str(value)[:16] if isinstance(value, str) else repr(value)


DEFAULT_ROWS_AT_ONCE = 32  # at once, unless --micro-batch says otherwise; fewer where memory runs out
SURFACE_DIGITS = 8  # of what the record keeps: as many as float32 has


class PartialSurface(PartialResults):
    """Loss and gradient norm at the first points of a surface; `rows` is the number of rows per forward pass."""

    rows: int
    values: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True)
class SurfaceJob:
    """A surface made ready: a plane, the examples, and the points at which it is measured."""

    request: SurfaceRequest
    pair: SurfaceRuns
    folder: Path
    facts: Facts
    plane: Plane
    config: RunConfig
    inputs: InputLayout
    rows: LabeledRows
    drawn: np.ndarray
    device: torch.device
    at_once: int
    values: tuple[float, ...]  # of alpha, and of beta
    points: list[PlanePoint]


def prepare_surface(
    request: SurfaceRequest, pair: SurfaceRuns, folder: Path, sources: LocalPaths, execution: Execution
) -> SurfaceJob:
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
    drawn = sample_examples(splits.train, request.examples, request.examples_seed)
    model, pretrained = build_model(config, sources)
    trained_from = pair.failed.environment.model_commit if pair.failed.environment else None
    if pretrained.commit != trained_from:
        raise UserError(
            f"run {pair.failed.run_id} was trained from commit {trained_from} of model {config.model.name}, and what "
            f"is loaded now is {pretrained.commit}"
        )
    weights = ((pair.failed, pair.failed_weights), (pair.successful, pair.successful_weights))
    plane = make_plane(model.to(device), weights)  # pyright: ignore[reportArgumentType]
    values = make_grid_axis(request.points, request.low, request.high)
    return SurfaceJob(
        request=request,
        pair=pair,
        folder=folder,
        facts=resume_conditions(folder.name, pair.fingerprint, execution, device),
        plane=plane,
        config=config,
        inputs=input_layout_for(pretrained, tokenizer),
        rows=splits.train,
        drawn=drawn,
        device=device,
        at_once=min(execution.micro_batch or DEFAULT_ROWS_AT_ONCE, len(drawn)),
        values=values,
        points=list_surface_points(values),
    )


def read_partial_surface(work: SurfaceJob) -> PartialSurface | None:
    """Return what an earlier process has measured, or None.

    Raises:
        UserError: it was measured under other facts, so that the remaining points would not fit.
    """
    partial = read_partial_results(work.folder, PartialSurface)
    if partial and (name := find_changed_fact(partial, work.facts)):
        raise UserError(
            f"{work.folder / PARTIAL_RESULTS_FILE} has {len(partial.values)} points measured with {name} "
            f"{partial.facts.get(name)!r}, here it is {work.facts[name]!r}: go on as before, or delete it to start "
            "afresh"
        )
    return partial


def measure_surface(
    work: SurfaceJob, kept: PartialSurface | None, show: Callable[[int, LossAndNorm], None], stop: Callable[[], bool]
) -> SurfaceRecord:
    """Returns the surface, which is then on disk, after measuring the points that `kept` has not.

    `show` is told after each point how many are done, and the latest value.

    Raises:
        Stopped: `stop()` was true; the points so far were kept.
        UserError: memory ran out.
    """
    with_norm = not work.request.loss_only
    if kept:
        size, batches = kept.rows, _make_batches(work, kept.rows)
    else:
        size, batches = _fit_batches_in_memory(work)
    values: list[LossAndNorm] = list(kept.values) if kept else []
    remaining = islice(work.points, len(values), None)
    try:
        with saving_partial_results(
            work.folder, lambda: PartialSurface(facts=work.facts, rows=size, values=tuple(values))
        ) as save_when_due:
            for value in measure_points(work.plane, remaining, batches, with_norm, stop):
                values.append(value)
                show(len(values), value)
                save_when_due()
    except RunInterrupted:
        raise RunInterrupted(f"stopped after {len(values)} points") from None
    except torch.OutOfMemoryError:
        raise UserError(
            f"memory ran out at point {len(values) + 1} of {len(work.points)}; the points before it are kept, and the "
            "same command goes on from there once there is memory"
        ) from None
    record = _make_record(work, values)
    write_probe_records(work.folder / PROBES_FILE, [record])
    return record


def _make_batches(work: SurfaceJob, size: int) -> list[Batch]:
    return make_batches(work.rows, work.drawn, work.config, work.inputs, work.device, size)


def _fit_batches_in_memory(work: SurfaceJob) -> tuple[int, list[Batch]]:
    """Returns how many rows fit into memory at once, and the batches; the first one is the longest."""
    size = work.at_once
    while work.device.type == "cuda":
        try:
            measure_loss(work.plane.model, _make_batches(work, size)[:1], not work.request.loss_only)
            break
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError(f"a single example of {work.config.data.task} does not fit into memory") from None
            size = -(-size // 2)
    return size, _make_batches(work, size)


def _make_record(work: SurfaceJob, values: Sequence[LossAndNorm]) -> SurfaceRecord:
    request, pair = work.request, work.pair
    with_norm = not request.loss_only
    losses = round_to_digits((loss for loss, _ in values), SURFACE_DIGITS)
    norms = round_to_digits((norm for _, norm in values if norm is not None), SURFACE_DIGITS)
    grid = 1 + LINE_POINTS

    def rows(of: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
        n = request.points
        return tuple(of[start : start + n] for start in range(grid, len(of), n))

    return SurfaceRecord(
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
