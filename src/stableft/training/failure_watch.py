"""The failure watch: warn of a run whose lower gradients vanish while it has learned nothing (M sec. 5.1).

It looks whenever gradient norms are recorded, and knows nothing of how the run will end.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stableft.records.probe_record import ModelParts
from stableft.records.run_record import FailureWatchRecord, VanishingGradients

LOWER_BLOCK_SHARE = 1 / 3  # of the blocks, from the bottom, at least one
# Chosen on runs of the demo (devlin, seeds 101-125; the other arms, 101-105) that no report shows; see
# results/README.md.
# Of the norm below to that of pooler and head, and to this ratio at the start: under it it has vanished.
VANISHED_RATIO = 0.02
LOOKS_AVERAGED = 3  # whose ratios are averaged (geometric mean): single ones jump
NOT_LEARNT_LOSS_SHARE = 0.97  # of the loss of a model that has learnt nothing, above which it has not learnt
LOSS_WINDOW = 10  # steps over which the training loss is averaged
SMALLEST_RATIO = 1e-30  # stands for a ratio of 0, which has no logarithm


@dataclass(frozen=True)
class GradientRegions:
    """Which norms of a list belong to the lower blocks, and which to what is above the blocks: pooler and head."""

    lower: tuple[int, ...]
    top: tuple[int, ...]


def find_gradient_regions(parts: ModelParts, names: Sequence[str]) -> GradientRegions | None:
    """Returns the places of both ends among the parameters of these names, None where blocks are not known."""
    count = max(1, round(LOWER_BLOCK_SHARE * len(parts.blocks)))
    lower = _parameter_indices(names, parts.blocks[:count])
    top = _parameter_indices(names, (*parts.pooler, *parts.head))
    return GradientRegions(lower, top) if lower and top else None


def _parameter_indices(names: Sequence[str], modules: Iterable[str]) -> tuple[int, ...]:
    wanted = tuple(f"{module}." for module in modules)
    return tuple(i for i, name in enumerate(names) if name.startswith(wanted))


def lower_to_top_ratio(ends: GradientRegions, norms: Sequence[float]) -> float:
    """Returns the gradient norm of the lower blocks over that of the top; NaN where one of them is not finite."""
    lower, top = (math.hypot(*(norms[i] for i in places)) for places in (ends.lower, ends.top))
    if not (math.isfinite(lower) and math.isfinite(top)):
        return math.nan
    return lower / top if top else math.inf


def describe_likely_failure(seen: VanishingGradients, nothing_learnt: float, total: int) -> str:
    """Returns the diagnosis of a run of `total` steps, with its numbers."""
    return (
        f"likely failed: vanishing gradients (at step {seen.step} of {total} the norm of the lower blocks is "
        f"{seen.ratio:.1g} of the top's, the loss {seen.loss:.3f}; having learnt nothing gives {nothing_learnt:.3f})"
    )


def summarize_failure_watch(looks: Sequence[Sequence[float]], nothing_learnt: float) -> FailureWatchRecord:
    """Returns what came of all looks of a run so far, each of them (step, ratio, training loss).

    `nothing_learnt` is the loss of a model that ignores its input. Looks at which the ratio is not finite, as at a
    step that the gradient scaler skipped, are passed over.
    """
    found = [detect_vanishing(looks[:end], nothing_learnt) for end in range(1, len(looks) + 1)]
    there = [seen for seen in found if seen]
    return FailureWatchRecord(
        nothing_learnt=nothing_learnt,
        looks=len(looks),
        first=there[0] if there else None,
        last=there[-1] if there else None,
        at_end=bool(found) and found[-1] is not None,
    )


def detect_vanishing(looks: Sequence[Sequence[float]], nothing_learnt: float) -> VanishingGradients | None:
    """Returns what the latest of a run's looks saw, if gradients had vanished there and nothing was learnt."""
    latest = [look for look in looks[-2 * LOOKS_AVERAGED :] if math.isfinite(look[1])][-LOOKS_AVERAGED:]
    if len(latest) < LOOKS_AVERAGED:
        return None
    step, _, loss = latest[-1]
    start = next(ratio for _, ratio, _ in looks if math.isfinite(ratio))  # small in some models, such as fresh ones
    ratio = math.exp(math.fsum(math.log(max(ratio, SMALLEST_RATIO)) for _, ratio, _ in latest) / LOOKS_AVERAGED)
    is_so = ratio < VANISHED_RATIO * min(start, 1.0) and loss >= NOT_LEARNT_LOSS_SHARE * nothing_learnt
    return VanishingGradients(step=int(step), ratio=ratio, loss=loss) if is_so else None
