"""What a surface is asked for: between which two runs, where, on which examples; and whether that makes sense."""

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stableft.config import canonical_json
from stableft.errors import UserError
from stableft.inherit import WEIGHTS
from stableft.locate import file_digest
from stableft.probes.saved import Checkpoint, find_run, weights_folder
from stableft.record import RunRecord

FORMAT = 1  # counted up when an equal request would give other numbers


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
class Pair:
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


def find_pair(request: SurfaceRequest, results: Path) -> Pair:
    """Returns the two runs that are asked for.

    Raises:
        UserError: the request contradicts itself, a run or its weights are not there, one did not end as it is said
            to have, or they are not of one model and task.
    """
    if not (math.isfinite(request.low) and math.isfinite(request.high) and request.low < request.high):
        raise UserError(f"--range {request.low:g} {request.high:g}: give two numbers, the lower one first")
    failed, successful = find_run(results, request.failed), find_run(results, request.successful)
    _check_end(failed, "--failed", True)
    _check_end(successful, "--successful", False)
    _check_alike(failed, successful)
    return Pair(
        failed,
        successful,
        weights_folder(results, failed, request.checkpoint) / WEIGHTS,
        weights_folder(results, successful, request.checkpoint) / WEIGHTS,
        failed.config.seeds.init if request.head_seed is None else request.head_seed,
    )


def surface_id(request: SurfaceRequest, pair: Pair) -> str:
    """Returns 16 hex digits, equal for surfaces whose numbers are equal on one machine and with equal versions."""
    config = pair.failed.config.normalized()
    content = {
        "format": FORMAT,
        **asdict(request),
        "failed": [pair.failed.run_id, file_digest(pair.failed_weights)],
        "successful": [pair.successful.run_id, file_digest(pair.successful_weights)],
        "head_seed": pair.head_seed,
        "model": config.model.model_dump(mode="json"),
        "commit": _commit(pair.failed),
        "data": config.data.model_dump(mode="json"),
        "rows": pair.fingerprint,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def _check_end(record: RunRecord, option: str, failed: bool) -> None:
    """Raises UserError unless the run failed, or did not, as the option says."""
    if record.failed is failed:
        return
    score, metric, split = record.reported_score, record.config.task.metric, record.config.reported_split
    at_end = record.score("last", split, metric)
    baseline = record.data.baselines[split][metric] if record.data else None
    words = "did not fail" if failed else "failed"
    how = f": its last {metric} is {at_end:.4f}, the majority baseline {baseline:.4f}" if score is not None else ""
    raise UserError(f"{option} {record.run_id}: this run ({record.arm} {record.config.data.task}) {words}{how}")


def _check_alike(failed: RunRecord, successful: RunRecord) -> None:
    """Raises UserError if the two models differ in shape, or in what they were trained on, and names the difference."""
    for key, theirs in _shared(failed).items():
        other = _shared(successful)[key]
        if theirs != other:
            raise UserError(
                f"runs {failed.run_id} and {successful.run_id} differ in {key}, {_brief(theirs)} and {_brief(other)}: "
                "a surface lies between two models of one kind that were trained on the same rows"
            )


def _shared(record: RunRecord) -> dict[str, Any]:
    """Returns what must be equal besides the model, which `sources_of` looks at; padding changes no loss."""
    config = record.config.normalized()
    data = config.data.model_dump(exclude={"pad_to_max"} | ({"task"} if config.data.own else set()))
    return {
        "model.head": config.model.head,
        "model.structure": config.model.structure,
        "the commit of the hub model": _commit(record),
        **{f"data.{key}": value for key, value in data.items()},
        "the fingerprint of their rows": record.data.fingerprint if record.data else None,
    }


def _commit(record: RunRecord) -> str | None:
    return record.environment.model_commit if record.environment else None


def _brief(value: Any) -> str:
    return str(value)[:16] if isinstance(value, str) else repr(value)
