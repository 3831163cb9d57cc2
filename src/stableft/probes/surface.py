"""Loss and gradient norm on the plane through three models: pre-trained, failed, successful (M sec. 5.1, 7.6).

A point (alpha, beta) has the parameters `pretrained + alpha * (failed - pretrained) + beta * (successful -
pretrained)`, all of them, the head included. They lie in one flat buffer that the model's parameters are views of, so
that going to a point is one addition (two in a new row) and no part of the model is made anew.

DEVIATION: M do not say which head the pre-trained model has; here it is the one drawn by the failed run's init seed
(or by `--head-seed`), so that the failed run's direction is the way that it went.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stableft.config import RunConfig, Seeds
from stableft.data import Inputs, TokenRows, collate
from stableft.errors import UserError
from stableft.evaluate import loss_sum, to_device
from stableft.inherit import Start, load_start
from stableft.plan import Stopped
from stableft.record import RunRecord
from stableft.seeds import generator

ALIGNED = 64  # floats: where a parameter begins decides which kernels read it, and so its last bits
LINE_POINTS = 21  # on the straight line from the failed to the successful model, both included
Batch = dict[str, Tensor]
Point = tuple[float, float]  # alpha, beta
Value = tuple[float, float | None]  # loss, and norm of its gradient if asked for


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


def flatten(model: nn.Module) -> Tensor:
    """Returns a buffer with all parameters, of which they are views from now on; tied ones are in it once."""
    parameters = list(model.parameters())
    sizes = [-(-parameter.numel() // ALIGNED) * ALIGNED for parameter in parameters]
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
    flat = flatten(model)
    origin, ends = flat.clone(), []
    for record, weights in runs:
        try:
            load_start(model, Start(record, weights, with_head=True), head=())
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
    go_to(plane, (0.0, 0.0))
    return plane


def row_at(plane: Plane, beta: float) -> Tensor:
    """Returns what all points with this beta begin with."""
    return torch.add(plane.origin, plane.successful, alpha=beta)


@torch.no_grad()
def go_to(plane: Plane, point: Point, row: Tensor | None = None) -> None:
    """Gives the model the parameters of a point; `row`, if it is there already, is that of the point's beta."""
    alpha, beta = point
    torch.add(row_at(plane, beta) if row is None else row, plane.failed, alpha=alpha, out=plane.flat)


def draw_examples(rows: TokenRows, count: int, seed: int) -> np.ndarray:
    """Returns the numbers of so many rows, drawn without replacement; the longest first, so that little is padded.

    Raises:
        UserError: there are fewer rows.
    """
    if count > len(rows):
        raise UserError(f"--examples {count}: the runs were trained on {len(rows)} rows, and no more can be drawn")
    drawn = torch.randperm(len(rows), generator=generator(seed, "examples"))[:count].numpy()
    return drawn[np.argsort(-np.diff(rows.offsets)[drawn], kind="stable")]


def make_batches(
    rows: TokenRows, drawn: np.ndarray, config: RunConfig, inputs: Inputs, device: torch.device, size: int
) -> list[Batch]:
    """Returns these rows and their labels as batches of `size` on the device."""
    parts = (drawn[start : start + size] for start in range(0, len(drawn), size))
    return [to_device(collate(rows, part, inputs, config.data), device) for part in parts]


def label_entropy(labels: np.ndarray) -> float | None:
    """Returns the entropy of class labels in nats: the least loss of a model that ignores its input. None for numbers.

    A model that says the same of every example has this loss at best.
    """
    if labels.dtype.kind == "f":
        return None
    counts = np.unique(labels, return_counts=True)[1]
    shares = counts / counts.sum()
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def measure(
    model: nn.Module, batches: Sequence[Batch], with_norm: bool, stop: Callable[[], bool] = lambda: False
) -> Value:
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
                raise Stopped
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


def axis(points: int, low: float, high: float) -> tuple[float, ...]:
    """Returns the evenly spaced values of alpha, which are those of beta too."""
    return tuple(float(value) for value in np.linspace(low, high, points))


def line() -> list[Point]:
    """Returns the evenly spaced points of the straight line from the failed to the successful model."""
    steps = LINE_POINTS - 1
    return [(1 - i / steps, i / steps) for i in range(LINE_POINTS)]


def all_points(values: Sequence[float]) -> list[Point]:
    """Returns the points of a surface in the order in which they are measured.

    First the origin, then the line from the failed to the successful model, then the grid, row by row: alpha runs
    fastest.
    """
    return [(0.0, 0.0), *line(), *((alpha, beta) for beta in values for alpha in values)]


def measure_points(
    plane: Plane,
    points: Iterable[Point],
    batches: Sequence[Batch],
    with_norms: bool,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Value]:
    """Yields what `measure` gives at each of the points; raises as it does."""
    row, row_beta = None, None
    for alpha, beta in points:
        if row is None or beta != row_beta:
            row, row_beta = row_at(plane, beta), beta
        go_to(plane, (alpha, beta), row)
        yield measure(plane.model, batches, with_norms, stop)
