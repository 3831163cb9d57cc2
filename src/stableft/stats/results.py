"""What goes into the statistics and what comes out. What cannot be computed is None with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Values = Sequence[float] | np.ndarray
Center = Literal["median", "mean", "trimmed"]
Alternative = Literal["two-sided", "greater", "less"]

LEVENE = "Levene's test"
STUDENT = "Student's t-test"
STUDENT_FROM_SUMMARIES = "Student's t-test from summaries"
WELCH_OF_VALUES = "Welch's t-test"
WELCH = "Welch's t-test from summaries"
BOSCHLOO = "Boschloo's exact test"
FISHER = "Fisher's exact test"
MANN_WHITNEY = "Mann-Whitney U test"
PERMUTATION = "Permutation test"

MIN_VALUES = 3  # with fewer the absolute deviations of a group carry no information; SciPy's Levene answers p near 0
RESAMPLES = 9999
LARGE = 2000  # values in a group above which an interval is asymptotic: resampling takes long and says the same


@dataclass(frozen=True)
class Summary:
    """Description of `n` values, of which `n_nan` are NaN; the statistics are those of the finite rest."""

    n: int
    n_nan: int
    mean: float | None
    std: float | None  # ddof 1; None for fewer than two finite values
    median: float | None
    min: float | None
    max: float | None

    @property
    def n_finite(self) -> int:
        return self.n - self.n_nan


@dataclass(frozen=True)
class TestResult:
    """One test of two groups. `statistic` and `p` are None where there is no test, and `reason` says why."""

    __test__ = False  # pytest: not a test case

    test: str
    center: str | None
    alternative: str | None
    statistic: float | None
    p: float | None
    n_a: int
    n_b: int
    reason: str | None = None


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both bounds are None where there is none, and `reason` says why."""

    method: str
    level: float
    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Ratio:
    """The std of one group over that of another; `value` is None where there is none, and `reason` says why."""

    value: float | None
    interval: Interval
    n_a: int
    n_b: int
    reason: str | None = None


@dataclass(frozen=True)
class Estimate:
    """One number of `n` values; `value` is None where there is none, and `reason` says why."""

    value: float | None
    n: int
    reason: str | None = None


@dataclass(frozen=True)
class Improvement:
    """How likely a run of one group beats one of another; `test` asks whether that differs from one half."""

    value: float | None
    interval: Interval
    test: TestResult
    n_a: int
    n_b: int
    reason: str | None = None


def holds(result: TestResult, alpha: float) -> bool:
    """True where there is a test and its p-value is below alpha."""
    return result.p is not None and result.p < alpha
