"""The failure watch: warn if the gradients of the lower blocks vanish before the run has learned anything (M sec. 5.1).

It looks whenever gradient norms are recorded, and uses only what is known at that step.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stableft.records.probe_record import ModelParts
from stableft.records.run_record import FailureWatchRecord, VanishingGradients

LOWER_BLOCK_SHARE = 1 / 3  # of the blocks count as lower, at least one
# The thresholds below were chosen on runs of the demo (devlin, seeds 101-125; the other arms, 101-105) that no report
# shows; see results/README.md.
# Gradients have vanished if the ratio lower blocks / (pooler and head) is below this, and below this share of the
# ratio at the first step.
VANISHED_RATIO = 0.02
NOT_LEARNT_LOSS_SHARE = 0.97  # above this share of the loss of a constant predictor, nothing has been learned
LOOKS_AVERAGED = 3  # number of looks whose ratios are averaged (geometric mean), because single ratios are noisy
LOSS_WINDOW = 10  # steps over which the training loss is averaged
SMALLEST_RATIO = 1e-30  # replaces a ratio of 0, which has no logarithm


@dataclass(frozen=True)
class GradientRegions:
    """Indices of parameters in the lower blocks, and above the blocks (pooler and head)."""

    lower: tuple[int, ...]
    top: tuple[int, ...]


def find_gradient_regions(parts: ModelParts, names: Sequence[str]) -> GradientRegions | None:
    """Return the indices of both regions among the parameter names, or None if the model's blocks are unknown."""
    count = max(1, round(LOWER_BLOCK_SHARE * len(parts.blocks)))
    lower = _parameter_indices(names, parts.blocks[:count])
    top = _parameter_indices(names, (*parts.pooler, *parts.head))
    return GradientRegions(lower, top) if lower and top else None


def _parameter_indices(names: Sequence[str], modules: Iterable[str]) -> tuple[int, ...]:
    prefixes = tuple(f"{module}." for module in modules)
    return tuple(i for i, name in enumerate(names) if name.startswith(prefixes))


def lower_to_top_ratio(regions: GradientRegions, norms: Sequence[float]) -> float:
    """Return the gradient norm of the lower blocks divided by that of the top. NaN if either is not finite."""
    lower, top = (math.hypot(*(norms[i] for i in indices)) for indices in (regions.lower, regions.top))
    if not (math.isfinite(lower) and math.isfinite(top)):
        return math.nan
    return lower / top if top else math.inf


def describe_likely_failure(vanishing: VanishingGradients, nothing_learnt: float, total: int) -> str:
    """Return the warning about a run of `total` steps, with its numbers. `nothing_learnt` is a loss."""
    return (
        f"likely failed: vanishing gradients (at step {vanishing.step} of {total} the gradient norm of the lower "
        f"blocks is {vanishing.ratio:.1g} times that of the top, and the loss is {vanishing.loss:.3f}; a constant "
        f"predictor has {nothing_learnt:.3f})"
    )


def summarize_failure_watch(looks: Sequence[Sequence[float]], nothing_learnt: float) -> FailureWatchRecord:
    """Return the findings of a run's looks so far, each (step, ratio, training loss).

    `nothing_learnt` is the training loss of the best constant predictor.
    """
    after_each = [detect_vanishing(looks[:end], nothing_learnt) for end in range(1, len(looks) + 1)]
    detections = [vanishing for vanishing in after_each if vanishing]
    return FailureWatchRecord(
        nothing_learnt=nothing_learnt,
        looks=len(looks),
        first=detections[0] if detections else None,
        last=detections[-1] if detections else None,
        at_end=bool(after_each) and after_each[-1] is not None,
    )


def detect_vanishing(looks: Sequence[Sequence[float]], nothing_learnt: float) -> VanishingGradients | None:
    """Return the latest look's numbers if gradients have vanished there and nothing has been learned, else None.

    Looks with a non-finite ratio are ignored, such as at steps that the gradient scaler skipped.
    """
    latest = [look for look in looks[-2 * LOOKS_AVERAGED :] if math.isfinite(look[1])][-LOOKS_AVERAGED:]
    if len(latest) < LOOKS_AVERAGED:
        return None
    step, _, loss = latest[-1]
    # In some models, such as randomly initialized ones, the ratio is small from the start and says nothing.
    start = next(ratio for _, ratio, _ in looks if math.isfinite(ratio))
    ratio = math.exp(math.fsum(math.log(max(ratio, SMALLEST_RATIO)) for _, ratio, _ in latest) / LOOKS_AVERAGED)
    has_vanished = ratio < VANISHED_RATIO * min(start, 1.0) and loss >= NOT_LEARNT_LOSS_SHARE * nothing_learnt
    return VanishingGradients(step=int(step), ratio=ratio, loss=loss) if has_vanished else None
