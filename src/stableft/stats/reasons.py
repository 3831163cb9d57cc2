"""Why there is no answer, in words; None where nothing stands in the way."""

import numpy as np

from stableft.stats.results import MIN_VALUES


def few_reason(*groups: np.ndarray, least: int = MIN_VALUES) -> str | None:
    """Says that a group has fewer than `least` values."""
    counts = [len(group) for group in groups]
    if min(counts) >= least:
        return None
    who = "each group needs" if len(groups) > 1 else "this needs"
    be = "are" if len(counts) > 1 or counts[0] != 1 else "is"
    return f"{who} at least {least} values, here {be} {' and '.join(map(str, counts))}"


def nan_reason(*groups: np.ndarray, looks: str = "better than it is") -> str | None:
    """Says how many values are not finite, and what leaving them out would do."""
    nan = [int((~np.isfinite(group)).sum()) for group in groups]
    if not any(nan):
        return None
    counts = " and ".join(f"{k} of {len(group)}" for k, group in zip(nan, groups, strict=True))
    return f"{counts} values are NaN: leaving out the runs that diverged would make their group look {looks}"


def unusable(*groups: np.ndarray, looks: str = "better than it is") -> str | None:
    """Says why groups cannot be described or compared: too few values, or some that are not finite."""
    return few_reason(*groups) or nan_reason(*groups, looks=looks)
