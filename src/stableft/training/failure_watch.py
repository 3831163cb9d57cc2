"""The failure watch: a run whose gradients vanish in its lower blocks while it has learnt nothing (M sec. 5.1).

It looks whenever gradient norms are recorded, and knows nothing of how the run will end.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stableft.records.probe_record import Parts
from stableft.records.run_record import Vanished, WatchRecord

LOWER = 1 / 3  # of the blocks, from the bottom, at least one
# Chosen on runs of the demo (devlin, seeds 101-125; the other arms, 101-105) that no report shows: see the README.
RATIO = 0.02  # of the norm below to that of pooler and head, and to this ratio at the start: under it it has vanished
LOOKS = 3  # whose ratios are averaged (geometric mean): single ones jump
LEARNT = 0.97  # of the loss of a model that has learnt nothing, above which it has not learnt
WINDOW = 10  # steps over which the training loss is averaged
SMALLEST = 1e-30  # stands for a ratio of 0, which has no logarithm


@dataclass(frozen=True)
class Ends:
    """Which norms of a list belong to the lower blocks, and which to what is above the blocks: pooler and head."""

    lower: tuple[int, ...]
    top: tuple[int, ...]


def ends_of(parts: Parts, names: Sequence[str]) -> Ends | None:
    """Returns the places of both ends among the parameters of these names, None where blocks are not known."""
    count = max(1, round(LOWER * len(parts.blocks)))
    lower = _places(names, parts.blocks[:count])
    top = _places(names, (*parts.pooler, *parts.head))
    return Ends(lower, top) if lower and top else None


def _places(names: Sequence[str], modules: Iterable[str]) -> tuple[int, ...]:
    wanted = tuple(f"{module}." for module in modules)
    return tuple(i for i, name in enumerate(names) if name.startswith(wanted))


def ratio_of(ends: Ends, norms: Sequence[float]) -> float:
    """Returns the gradient norm of the lower blocks over that of the top; NaN where one of them is not finite."""
    lower, top = (math.hypot(*(norms[i] for i in places)) for places in (ends.lower, ends.top))
    if not (math.isfinite(lower) and math.isfinite(top)):
        return math.nan
    return lower / top if top else math.inf


def likely_failed(seen: Vanished, nothing_learnt: float, total: int) -> str:
    """Returns the diagnosis of a run of `total` steps, with its numbers."""
    return (
        f"likely failed: vanishing gradients (at step {seen.step} of {total} the norm of the lower blocks is "
        f"{seen.ratio:.1g} of the top's, the loss {seen.loss:.3f}; having learnt nothing gives {nothing_learnt:.3f})"
    )


def watch(looks: Sequence[Sequence[float]], nothing_learnt: float) -> WatchRecord:
    """Returns what came of all looks of a run so far, each of them (step, ratio, training loss).

    `nothing_learnt` is the loss of a model that ignores its input. Looks at which the ratio is not finite, as at a
    step that the gradient scaler skipped, are passed over.
    """
    found = [vanished(looks[:end], nothing_learnt) for end in range(1, len(looks) + 1)]
    there = [seen for seen in found if seen]
    return WatchRecord(
        nothing_learnt=nothing_learnt,
        looks=len(looks),
        first=there[0] if there else None,
        last=there[-1] if there else None,
        at_end=bool(found) and found[-1] is not None,
    )


def vanished(looks: Sequence[Sequence[float]], nothing_learnt: float) -> Vanished | None:
    """Returns what the latest of a run's looks saw, if gradients had vanished there and nothing was learnt."""
    latest = [look for look in looks[-2 * LOOKS :] if math.isfinite(look[1])][-LOOKS:]
    if len(latest) < LOOKS:
        return None
    step, _, loss = latest[-1]
    start = next(ratio for _, ratio, _ in looks if math.isfinite(ratio))  # small in some models, such as fresh ones
    ratio = math.exp(math.fsum(math.log(max(ratio, SMALLEST)) for _, ratio, _ in latest) / LOOKS)
    is_so = ratio < RATIO * min(start, 1.0) and loss >= LEARNT * nothing_learnt
    return Vanished(step=int(step), ratio=ratio, loss=loss) if is_so else None
