"""The failure watch: a run whose gradients vanish in its lower blocks while it has learnt nothing (M sec. 5.1).

It looks whenever gradient norms are recorded, and knows nothing of how the run will end.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stableft.probe_record import Parts
from stableft.record import Vanished, WatchRecord

LOWER = 1 / 3  # of the blocks, from the bottom, at least one
RATIO = 1e-2
LEARNT = 0.97
WINDOW = 10  # steps over which the training loss is averaged
LOOKS = 3  # in a row


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


def likely_failed(watch: WatchRecord, total: int) -> str:
    """Returns the diagnosis of a run of `total` steps whose gradients had vanished at the last look, with its numbers."""
    assert watch.first and watch.last
    since = f"since step {watch.first.step}" if watch.last.step > watch.first.step else f"at step {watch.first.step}"
    return (
        f"likely failed: vanishing gradients {since} of {total}: the lower blocks' norm is {watch.last.ratio:.1g} of the "
        f"top's, and the loss {watch.last.loss:.3f} where having learnt nothing gives {watch.nothing_learnt:.3f}"
    )


def watch(looks: Sequence[Sequence[float]], nothing_learnt: float) -> WatchRecord:
    """Returns what came of all looks of a run so far, each of them (step, ratio, training loss)."""
    had = [Vanished(step=int(step), ratio=ratio, loss=loss) for step, ratio, loss in looks if True]
    return WatchRecord(
        nothing_learnt=nothing_learnt, looks=len(looks), first=None, last=had[-1] if had else None, at_end=False
    )
