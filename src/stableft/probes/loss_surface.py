"""Loss and gradient norm on the plane through a pre-trained, a failed and a successful model (M sec. 5.1, 7.6).

At a point (alpha, beta), all parameters (including the head) are `pretrained + alpha * (failed - pretrained) + beta *
(successful - pretrained)`. They are stored in one flat buffer, and the model's parameters are views of it. Moving to a
point is therefore one addition (two in a new row), and no part of the model is rebuilt.

DEVIATION: M do not say which head the pre-trained model has. Here it is the one drawn by the failed run's init seed
(or by `--head-seed`), so that the failed run's direction is the way that its training went.
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
from stableft.records.failure import find_chance, has_failed
from stableft.records.probe_record import PROBES_FILE, SurfaceRecord, round_to_digits, write_probe_records
from stableft.records.run_record import RunRecord
from stableft.seeds import make_generator
from stableft.training.evaluate import loss_sum, to_device
from stableft.training.loop import resume_conditions
from stableft.training.setup import prepare_device

ALIGNMENT = 64  # floats; the alignment of a parameter decides which kernels read it, and hence the last bits
LINE_POINTS = 21  # on the straight line from the failed to the successful model, including both
PlanePoint = tuple[float, float]  # alpha, beta
LossAndNorm = tuple[float, float | None]  # loss, and the norm of its gradient if requested


@dataclass(frozen=True)
class Plane:
    """A model at some point of the plane. `flat_parameters` is the buffer of its parameters."""

    model: nn.Module
    flat_parameters: Tensor
    origin: Tensor  # the other vectors have the layout of the buffer
    failed_direction: Tensor  # from the origin
    successful_direction: Tensor


def origin_config(config: RunConfig, head_seed: int) -> RunConfig:
    """Return the config whose initial model is the plane's origin: pre-trained weights and a newly drawn head."""
    overrides = {"reinit": None, "mixout": None, "start_from": None, "precision": "fp32", "execution": None}
    return config.model_copy(update={**overrides, "seeds": Seeds(init=head_seed, data=config.seeds.data)})


def flatten_parameters(model: nn.Module) -> Tensor:
    """Move all parameters into one buffer, of which they become views, and return it. Tied ones are stored once."""
    parameters = list(model.parameters())
    sizes = [-(-parameter.numel() // ALIGNMENT) * ALIGNMENT for parameter in parameters]
    flat = torch.zeros(sum(sizes), device=parameters[0].device)
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        view = part[: parameter.numel()].view_as(parameter)
        view.copy_(parameter.detach())
        parameter.data = view
    return flat


def make_plane(model: nn.Module, runs: Sequence[tuple[RunRecord, Path]]) -> Plane:
    """Return the plane through a model (the origin) and the weights of a failed and a successful run.

    The model is put into evaluation mode. From then on its parameters are those of the last `move_model_to`.

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
    """Return the parameters at (0, beta), which all points of that row share."""
    return torch.add(plane.origin, plane.successful_direction, alpha=beta)


@torch.no_grad()
def move_model_to(plane: Plane, point: PlanePoint, row: Tensor | None = None) -> None:
    """Set the model's parameters to those of a point. `row`: the result of `parameters_at_beta`, if known."""
    alpha, beta = point
    torch.add(
        parameters_at_beta(plane, beta) if row is None else row,
        plane.failed_direction,
        alpha=alpha,
        out=plane.flat_parameters,
    )


def sample_examples(rows: LabeledRows, count: int, seed: int) -> np.ndarray:
    """Return the indices of `count` rows drawn without replacement, longest first to reduce padding.

    Raises:
        UserError: there are fewer rows.
    """
    if count > len(rows):
        raise UserError(f"--examples {count}: the runs were trained on {len(rows)} rows, and no more can be drawn")
    drawn = torch.randperm(len(rows), generator=make_generator(seed, "examples"))[:count].numpy()
    return drawn[np.argsort(-np.diff(rows.offsets)[drawn], kind="stable")]


def make_batches(
    rows: LabeledRows, indices: np.ndarray, config: RunConfig, inputs: InputLayout, device: torch.device, size: int
) -> list[dict[str, Tensor]]:
    """Return these rows and their labels as batches of `size` rows on the device."""
    batches = (indices[start : start + size] for start in range(0, len(indices), size))
    return [to_device(collate(rows, batch, inputs, config.data), device) for batch in batches]


def measure_loss(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], with_norm: bool, stop: Callable[[], bool] = lambda: False
) -> LossAndNorm:
    """Return the mean loss over all rows and, `with_norm`, the L2 norm of its gradient over all parameters.

    Raises:
        RunInterrupted: `stop()`, which is called before every batch, returned True.
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
    """Return the evenly spaced values of alpha, and of beta."""
    return tuple(float(value) for value in np.linspace(low, high, points))


def list_line_points() -> list[PlanePoint]:
    """Return evenly spaced points on the straight line from the failed to the successful model."""
    steps = LINE_POINTS - 1
    return [(1 - i / steps, i / steps) for i in range(LINE_POINTS)]


def list_surface_points(axis: Sequence[float]) -> list[PlanePoint]:
    """Return the points of a surface in the order of measurement.

    These are the origin, the line from the failed to the successful model, and the grid row by row (alpha varies
    fastest).
    """
    return [(0.0, 0.0), *list_line_points(), *((alpha, beta) for beta in axis for alpha in axis)]


def measure_points(
    plane: Plane,
    points: Iterable[PlanePoint],
    batches: Sequence[dict[str, Tensor]],
    with_norms: bool,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[LossAndNorm]:
    """Yield the result of `measure_loss` at each of the points; raises what it raises."""
    row, row_beta = None, None
    for alpha, beta in points:
        if row is None or beta != row_beta:
            row, row_beta = parameters_at_beta(plane, beta), beta
        move_model_to(plane, (alpha, beta), row)
        yield measure_loss(plane.model, batches, with_norms, stop)


SURFACE_FORMAT = 1  # increased when the same request would give different numbers


@dataclass(frozen=True)
class SurfaceRequest:
    """A requested surface: two runs, the grid (the same on both axes), the examples, and what is measured.

    The fields enter the surface's id by their names.
    """

    failed: str
    successful: str
    checkpoint: Checkpoint = "last"
    points: int = 40  # M sec. 7.6: 40 per axis, from -1.5 to 1.5, on 128 examples
    low: float = -1.5
    high: float = 1.5
    examples: int = 128
    examples_seed: int = 0
    head_seed: int | None = None  # None: the failed run's
    loss_only: bool = False


@dataclass(frozen=True)
class SurfaceRuns:
    """The two runs of a surface, their weight files, and the seed that draws the pre-trained model's head."""

    failed: RunRecord
    successful: RunRecord
    failed_weights: Path
    successful_weights: Path
    head_seed: int

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the rows on which both runs were trained."""
        assert self.failed.data
        return self.failed.data.fingerprint


def find_surface_runs(request: SurfaceRequest, results: Path) -> SurfaceRuns:
    """Return the two runs that a request names.

    Raises:
        UserError: the range is empty, a run or its weights are missing, the failed run did not fail or the successful
            one did, or the runs differ in model, data or task.
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


def surface_id(request: SurfaceRequest, runs: SurfaceRuns) -> str:
    """Return a hash (16 hex digits) of everything that determines the numbers, except machine and versions."""
    config = runs.failed.run_config.normalized()
    content = {
        "format": SURFACE_FORMAT,
        **asdict(request),
        "failed": [runs.failed.run_id, file_digest(runs.failed_weights)],
        "successful": [runs.successful.run_id, file_digest(runs.successful_weights)],
        "head_seed": runs.head_seed,
        "model": config.model.model_dump(mode="json"),
        "commit": _model_commit(runs.failed),
        "data": config.data.model_dump(mode="json"),
        "rows": runs.fingerprint,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def _check_whether_failed(record: RunRecord, option: str, should_have_failed: bool) -> None:
    """Check that the run failed, or did not, as the option says."""
    if has_failed(record) is should_have_failed:
        return
    score, metric, split = record.reported_score, record.config.task.metric, record.config.reported_split
    last = record.score("last", split, metric)
    level = find_chance(record, split, metric).level
    outcome = "did not fail" if should_have_failed else "failed"
    how = f": its last {metric} is {last:.4f}, the chance level {level:.4f}" if score is not None else ""
    raise UserError(f"{option} {record.run_id}: this run ({record.arm} {record.config.data.task}) {outcome}{how}")


def _check_comparable(failed: RunRecord, successful: RunRecord) -> None:
    """Check that the two models have the same shape and were trained on the same data."""
    for key, of_failed in _comparable_settings(failed).items():
        of_successful = _comparable_settings(successful)[key]
        if of_failed != of_successful:
            raise UserError(
                f"runs {failed.run_id} and {successful.run_id} differ in {key}, {_abbreviate(of_failed)} and "
                f"{_abbreviate(of_successful)}: a surface lies between two models of one kind that were trained on the "
                "same rows"
            )


def _comparable_settings(record: RunRecord) -> dict[str, Any]:
    """Return what must be equal besides the model, which `locate_sources` checks; padding changes no loss."""
    config = record.run_config.normalized()
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


DEFAULT_ROWS_AT_ONCE = 32  # per forward pass, unless --micro-batch is given; fewer if memory runs out
SURFACE_DIGITS = 8  # significant digits in the record, as many as float32 has


class PartialSurface(PartialResults):
    """Loss and gradient norm at the first points of a surface; `rows` is the number of rows per forward pass."""

    rows: int
    values: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True)
class SurfaceSetup:
    """A surface ready to be measured: the plane, the examples and the points."""

    request: SurfaceRequest
    runs: SurfaceRuns
    folder: Path
    facts: Facts
    plane: Plane
    config: RunConfig
    inputs: InputLayout
    rows: LabeledRows
    example_indices: np.ndarray
    device: torch.device
    rows_at_once: int
    axis: tuple[float, ...]  # the values of alpha, and of beta
    points: list[PlanePoint]


def prepare_surface(
    request: SurfaceRequest, runs: SurfaceRuns, folder: Path, sources: LocalPaths, execution: Execution
) -> SurfaceSetup:
    """Return a surface ready to be measured. Only the token cache on disk is written.

    Raises:
        UserError: model, data or weights are damaged, or not those of the runs.
    """
    device = prepare_device(execution)
    config = origin_config(runs.failed.run_config.normalized(), runs.head_seed)
    tokenizer = load_tokenizer(config, sources)
    splits = load_splits(config, sources, tokenizer)
    if splits.record.fingerprint != runs.fingerprint:
        raise UserError(
            f"run {runs.failed.run_id} was trained on rows with fingerprint {runs.fingerprint[:16]}, and now they have "
            f"{splits.record.fingerprint[:16]}: its data has changed"
        )
    indices = sample_examples(splits.train, request.examples, request.examples_seed)
    model, pretrained = build_model(config, sources)
    trained_from = runs.failed.environment.model_commit if runs.failed.environment else None
    if pretrained.commit != trained_from:
        raise UserError(
            f"run {runs.failed.run_id} was trained from commit {trained_from} of model {config.model.name}, and "
            f"the one loaded now is {pretrained.commit}"
        )
    weights = ((runs.failed, runs.failed_weights), (runs.successful, runs.successful_weights))
    plane = make_plane(model.to(device), weights)  # pyright: ignore[reportArgumentType]
    axis = make_grid_axis(request.points, request.low, request.high)
    return SurfaceSetup(
        request=request,
        runs=runs,
        folder=folder,
        facts=resume_conditions(folder.name, runs.fingerprint, execution, device),
        plane=plane,
        config=config,
        inputs=input_layout_for(pretrained, tokenizer),
        rows=splits.train,
        example_indices=indices,
        device=device,
        rows_at_once=min(execution.micro_batch or DEFAULT_ROWS_AT_ONCE, len(indices)),
        axis=axis,
        points=list_surface_points(axis),
    )


def read_partial_surface(setup: SurfaceSetup) -> PartialSurface | None:
    """Return what an earlier process has measured, or None.

    Raises:
        UserError: it was measured under other facts, so that the remaining points would not fit.
    """
    partial = read_partial_results(setup.folder, PartialSurface)
    if partial and (name := find_changed_fact(partial, setup.facts)):
        raise UserError(
            f"{setup.folder / PARTIAL_RESULTS_FILE} has {len(partial.values)} points measured with {name} "
            f"{partial.facts.get(name)!r}, here it is {setup.facts[name]!r}: go on as before, or delete it to start "
            "afresh"
        )
    return partial


def measure_surface(
    setup: SurfaceSetup,
    partial: PartialSurface | None,
    on_point: Callable[[int, LossAndNorm], None],
    stop: Callable[[], bool],
) -> SurfaceRecord:
    """Measure the points that are not in `partial`, write the record and return it.

    `on_point` is called after each point with the number of points done and the latest value.

    Raises:
        RunInterrupted: `stop()` returned True; the points measured so far were saved.
        UserError: memory ran out.
    """
    with_norm = not setup.request.loss_only
    if partial:
        size, batches = partial.rows, _make_batches(setup, partial.rows)
    else:
        size, batches = _fit_batches_in_memory(setup)
    values: list[LossAndNorm] = list(partial.values) if partial else []
    remaining = islice(setup.points, len(values), None)
    try:
        with saving_partial_results(
            setup.folder, lambda: PartialSurface(facts=setup.facts, rows=size, values=tuple(values))
        ) as save_when_due:
            for value in measure_points(setup.plane, remaining, batches, with_norm, stop):
                values.append(value)
                on_point(len(values), value)
                save_when_due()
    except RunInterrupted:
        raise RunInterrupted(f"stopped after {len(values)} points") from None
    except torch.OutOfMemoryError:
        raise UserError(
            f"memory ran out at point {len(values) + 1} of {len(setup.points)}; the points before it are kept, and the "
            "same command goes on from there once there is memory"
        ) from None
    record = _make_record(setup, values)
    write_probe_records(setup.folder / PROBES_FILE, [record])
    return record


def _make_batches(setup: SurfaceSetup, size: int) -> list[dict[str, Tensor]]:
    return make_batches(setup.rows, setup.example_indices, setup.config, setup.inputs, setup.device, size)


def _fit_batches_in_memory(setup: SurfaceSetup) -> tuple[int, list[dict[str, Tensor]]]:
    """Return the number of rows per forward pass that fits in memory, and the batches (longest rows first)."""
    size = setup.rows_at_once
    while setup.device.type == "cuda":
        try:
            measure_loss(setup.plane.model, _make_batches(setup, size)[:1], not setup.request.loss_only)
            break
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError(f"a single example of {setup.config.data.task} does not fit into memory") from None
            size = -(-size // 2)
    return size, _make_batches(setup, size)


def _make_record(setup: SurfaceSetup, values: Sequence[LossAndNorm]) -> SurfaceRecord:
    request, runs = setup.request, setup.runs
    with_norm = not request.loss_only
    losses = round_to_digits((loss for loss, _ in values), SURFACE_DIGITS)
    norms = round_to_digits((norm for _, norm in values if norm is not None), SURFACE_DIGITS)
    grid = 1 + LINE_POINTS

    def rows(of: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
        n = request.points
        return tuple(of[start : start + n] for start in range(grid, len(of), n))

    return SurfaceRecord(
        run_id=setup.folder.name,
        model=setup.config.model.name,
        task=setup.config.data.task,
        failed=runs.failed.run_id,
        successful=runs.successful.run_id,
        checkpoint=request.checkpoint,
        head_seed=runs.head_seed,
        examples=request.examples,
        examples_seed=request.examples_seed,
        alphas=setup.axis,
        betas=setup.axis,
        losses=rows(losses),
        grad_norms=rows(norms) if with_norm else None,
        label_entropy=label_entropy(setup.rows.labels[setup.example_indices]),
        pretrained_loss=losses[0],
        pretrained_norm=norms[0] if with_norm else None,
        line_losses=losses[1:grid],
        line_norms=norms[1:grid] if with_norm else (),
    )
