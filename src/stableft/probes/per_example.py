"""How much runs differ on single examples (M sec. 7.1).

Variances are over runs, with ddof 1. `values` [runs, examples] are the terms of an accuracy or a mean error: True where
a run is right, or squared errors. `predictions` [runs, examples] are class ids, or NO_PREDICTION.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from stableft.probes.per_example_data import NO_PREDICTION, PredictionGroup
from stableft.report.numbers_in_words import describe_p
from stableft.report.pair_tests import BOOTSTRAP_SEED
from stableft.stats import Interval, TestResult, bootstrap_interval, summarize, wilson_interval
from stableft.stats.bootstrap import BCA, sample_std
from stableft.stats.summary import RESAMPLES, too_few_reason

COCHRAN_Q = "Cochran's Q test"
JACKKNIFE = "jackknife"
# Runs times examples on which they differ, below which the test's chi-square is a poor approximation.
MIN_COCHRAN_CELLS = 24
CONFIDENCE_LEVEL = 0.95
NO_VARIANCE_RATIO = 1e-12  # equal scores may differ by rounding


@dataclass(frozen=True)
class PerExampleVariance:
    """The mean over examples of the variance over runs. If `value` is None, `reason` says why."""

    value: float | None
    over_runs: Interval  # for other runs on these examples
    over_examples: Interval  # for these runs on other examples
    reason: str | None = None


@dataclass(frozen=True)
class ScoreVariance:
    """The variance over runs of their mean over examples, and whether some runs are better than others as a whole.

    It is P / m plus (m - 1) / m times `covariance`, the mean covariance of two of the m examples, where P is the mean
    over examples of the variance; so `ratio`, itself over P / m, is 1 where examples are independent and at most m.
    """

    scores: tuple[float, ...]  # of each run
    mean: float | None
    value: float | None
    sd: Interval  # of its square root, for other runs on these examples
    ratio: float | None
    covariance: float | None
    test: TestResult  # Cochran's Q test that all runs are equally good; n_a runs, n_b examples
    reason: str | None = None


@dataclass(frozen=True)
class Agreement:
    """How often runs agree. Churn is the share of examples on which two runs differ, over all pairs of runs."""

    unanimous: float | None  # share of examples on which all runs agree
    unanimous_interval: Interval  # for other examples and these runs
    churn: float | None
    churn_min: float | None
    churn_max: float | None
    churn_over_runs: Interval
    kappa: float | None  # Fleiss'
    reason: str | None = None
    kappa_reason: str | None = None


def example_variances(values: np.ndarray) -> np.ndarray:
    """Return the variance over runs of each example; exact for right and wrong, so that ties are ties."""
    n = len(values)
    if n < 2:
        return np.full(values.shape[1], math.nan)
    if values.dtype == bool:
        right = np.arange(n + 1)
        counts = values.sum(axis=0, dtype=np.min_scalar_type(n))  # of up to millions of examples
        return (right * (n - right) / (n * (n - 1)))[counts]
    return sample_std(values, axis=0) ** 2


def example_disagreements(predictions: np.ndarray) -> np.ndarray:
    """Return, for each example, the share of pairs of runs that predict differently."""
    n = len(predictions)
    if n < 2:
        return np.full(predictions.shape[1], math.nan)
    same = np.zeros(predictions.shape[1], dtype=np.int32)  # ordered pairs of runs that agree
    for label in (*range(int(predictions.max(initial=0)) + 1), NO_PREDICTION):
        counts = (predictions == label).sum(axis=0, dtype=np.int32)
        same += counts * (counts - 1)
    share = same / (n * (n - 1))
    return np.subtract(1, share, out=share)


def count_predictions(predictions: np.ndarray, classes: int) -> np.ndarray:
    """Return how many runs predict each class [examples, classes + 1]; the last column counts NO_PREDICTION."""
    return np.stack([(predictions == label).sum(axis=0) for label in (*range(classes), NO_PREDICTION)], axis=1)


def rank_by_instability(instability: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
    """Return the examples, most unstable first; among equals, those that fewer runs have right, then the earlier."""
    return np.lexsort((-instability,) if right is None else (right, -instability))  # which keeps the order of equals


def estimate_per_example_variance(
    values: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> PerExampleVariance:
    """Return S_per-point (M sec. 7.1), with a jackknife over runs and a bootstrap over examples."""
    reason = _unusable_reason(values)
    if reason is not None:
        over_runs, over_examples = (Interval(name, CONFIDENCE_LEVEL, None, None, reason) for name in (JACKKNIFE, BCA))
        return PerExampleVariance(None, over_runs, over_examples, reason)
    each = example_variances(values)
    halves = np.array([[_mean_square(one, other) for one in values] for other in values]) / 2
    n = len(values)
    upper_bound = (n // 2) * (n - n // 2) / (n * (n - 1)) if values.dtype == bool else math.inf
    over_runs = jackknife_pair_mean(halves, upper_bound)
    return PerExampleVariance(
        float(each.mean()), over_runs, bootstrap_interval(each, "mean", rng, CONFIDENCE_LEVEL, resamples)
    )


def _mean_square(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean squared difference of two runs; of right and wrong, the share of examples that differ."""
    return float((one != other).mean() if one.dtype == bool else np.square(one - other).mean())


def estimate_score_variance(values: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> ScoreVariance:
    """Return S_ours (M sec. 7.1), or the same of squared errors, and its ratio to that of independent examples."""
    m = values.shape[1]
    scores = values.mean(axis=1) if m else np.zeros(len(values))
    sd = bootstrap_interval(scores, "std", rng, CONFIDENCE_LEVEL, resamples)
    test = cochran_q(values)
    reason = _unusable_reason(values)
    mean = summarize(scores).mean if np.isfinite(scores).all() else None
    if reason is not None:
        return ScoreVariance(tuple(scores.tolist()), mean, None, sd, None, None, test, reason)
    ours, independent = float(sample_std(scores)) ** 2, float(example_variances(values).mean()) / m
    covariance = (ours - independent) * m / (m - 1) if m > 1 else None
    return ScoreVariance(
        tuple(scores.tolist()), mean, ours, sd, ours / independent if independent else None, covariance, test
    )


def cochran_q(values: np.ndarray) -> TestResult:
    """Return Cochran's Q test (1950) that all runs are equally likely to be right, with independent examples.

    The statistic is (runs - 1) times `ScoreVariance.ratio`, and about chi-square with runs - 1 degrees of freedom.
    """
    n, m = values.shape
    reason = _unusable_reason(values)
    if reason is None and values.dtype != bool:
        reason = "the test is for right and wrong"
    mixed = int((values != values[:1]).any(axis=0).sum())
    if reason is None and mixed * n < MIN_COCHRAN_CELLS:
        reason = f"the runs differ on {mixed} examples, too few for its chi-square"
    if reason is not None:
        return TestResult(COCHRAN_Q, None, None, None, None, n, m, reason)
    from scipy import special  # takes a while to import

    statistic = (n - 1) * float(np.var(values.mean(axis=1), ddof=1)) * m / float(example_variances(values).mean())
    return TestResult(COCHRAN_Q, None, None, statistic, float(special.chdtrc(n - 1, statistic)), n, m)


def measure_agreement(predictions: np.ndarray) -> Agreement:
    """Return how often runs agree. NO_PREDICTION counts as a class of its own, on which two runs can agree."""
    n, m = predictions.shape
    reason = _unusable_reason(predictions)
    if reason is not None:
        wilson, jackknife = (Interval(name, CONFIDENCE_LEVEL, None, None, reason) for name in ("Wilson", JACKKNIFE))
        return Agreement(None, wilson, None, None, None, jackknife, None, reason, reason)
    unanimous = int((predictions == predictions[0]).all(axis=0).sum())
    differ = np.stack([(predictions != run).mean(axis=1) for run in predictions])
    pairs = differ[np.triu_indices(n, 1)]
    kappa = fleiss_kappa(predictions)
    return Agreement(
        unanimous / m,
        wilson_interval(unanimous, m, CONFIDENCE_LEVEL),
        float(pairs.mean()),
        float(pairs.min()),
        float(pairs.max()),
        jackknife_pair_mean(differ, 1.0),
        kappa,
        kappa_reason="every run gives one and the same answer everywhere" if kappa is None else None,
    )


def fleiss_kappa(predictions: np.ndarray) -> float | None:
    """Return Fleiss' kappa (1971) with the runs as raters, or None if all predictions are equal."""
    shares = np.array([(predictions == label).mean() for label in np.unique(predictions)])
    if len(shares) == 1:
        return None
    chance = float(np.square(shares).sum())
    return (1 - float(example_disagreements(predictions - predictions.min()).mean()) - chance) / (1 - chance)


def jackknife_pair_mean(matrix: np.ndarray, upper_bound: float) -> Interval:
    """Return the interval of the mean over pairs of runs, below `upper_bound`; `matrix` [runs, runs] has a 0 diagonal.

    This is the jackknife of a U-statistic (Arvesen 1969), with Student's t on the log scale. It is not the bootstrap,
    which draws runs twice that then agree with themselves: its 95 % BCa intervals cover the truth in 4 % of simulated
    arms of 5 runs and in 71 % of those of 25. The jackknife covers it in 92 to 96 % of arms of 4 to 50 runs. If three
    runs in ten fail, it covers it in 76 % of arms of 5 runs, many of which have no failed run, and in 94 to 96 % of
    arms of 10 or more.
    """
    n = len(matrix)
    reason = too_few_reason(matrix)
    whole = float(matrix.sum())
    if reason is None and whole == 0:
        reason = "the runs do not differ"
    if reason is None:
        from scipy import special  # takes a while to import

        value = whole / (n * (n - 1))
        without = (whole - 2 * matrix.sum(axis=1)) / ((n - 1) * (n - 2)) / value
        error = math.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
        if error > 1e-12:
            factor = math.exp(min(special.stdtrit(n - 1, (1 + CONFIDENCE_LEVEL) / 2) * error, 700))
            return Interval(JACKKNIFE, CONFIDENCE_LEVEL, value / factor, min(value * factor, upper_bound))
        reason = "without one of the runs, whichever, it is the same"
    return Interval(JACKKNIFE, CONFIDENCE_LEVEL, None, None, reason.replace("values", "runs"))


def _unusable_reason(values: np.ndarray) -> str | None:
    """Return why there is no variance over these runs, or None: fewer than two runs, or numbers that are not finite."""
    if len(values) < 2:
        return "at least 2 runs are needed, here is 1" if len(values) else "no run has predictions"
    bad = int((~np.isfinite(values).all(axis=1)).sum())
    return f"{bad} of {len(values)} runs {'has' if bad == 1 else 'have'} outputs that are not finite" if bad else None


class RunSubset(StrEnum):
    """Which runs of a group are analyzed, as the report words it."""

    ALL = "all runs"
    NOT_FAILED = "runs that did not fail"


COCHRAN_ALPHA = 0.05
MISSING_WITHOUT_LABELS = {  # by whether there are classes
    True: "variances and accuracies are missing: which runs are right is not known without --label",
    False: "MSE and S_ours are missing: what is right is not known without --label",
}


@dataclass(frozen=True)
class SubsetAnalysis:
    """The results for some runs of a group. `right` [runs, examples] is None for regression and without labels."""

    group: PredictionGroup
    subset: RunSubset
    runs: tuple[str, ...]
    run_names: tuple[str, ...]
    predictions: np.ndarray
    right: np.ndarray | None
    per_example_variance: PerExampleVariance | None  # None: classes without labels
    score_variance: ScoreVariance | None  # None: without labels
    agreement: Agreement | None  # None: regression

    @property
    def n_runs(self) -> int:
        return len(self.runs)

    @property
    def n_examples(self) -> int:
        return self.predictions.shape[1]

    @property
    def reason_missing(self) -> str | None:
        """Why there are no results, or None."""
        if self.is_part and all(self.group.failed):
            return "every run failed"
        results = self.per_example_variance or self.agreement
        assert results
        return results.reason

    @property
    def is_part(self) -> bool:
        """Whether only some runs of the group are included."""
        return self.subset is not RunSubset.ALL

    @property
    def title(self) -> str:
        """The arm and the runs, in words."""
        return f"{self.group.arm}, {self.subset} (n = {self.n_runs})"

    @property
    def instability(self) -> np.ndarray:
        """How much the runs differ on each example: a variance, or for classes without labels a disagreement."""
        if self.right is not None:
            return example_variances(self.right)
        return example_disagreements(self.predictions) if self.group.classes else example_variances(self.predictions)

    @property
    def majority_share(self) -> np.ndarray:
        """The share of runs that predict each example's most frequent class."""
        return count_predictions(self.predictions, len(self.group.classes)).max(axis=1) / self.n_runs


def analyze_group(group: PredictionGroup) -> tuple[SubsetAnalysis, ...]:
    """Return the analysis of all runs of a group and, if some failed, of the others alone."""
    not_failed = [i for i, failed in enumerate(group.failed) if failed is False]
    analyses = [_analyze_subset(group, RunSubset.ALL, list(range(len(group.runs))))]
    if any(group.failed):
        analyses.append(_analyze_subset(group, RunSubset.NOT_FAILED, not_failed))
    return tuple(analyses)


def _analyze_subset(group: PredictionGroup, subset: RunSubset, indices: list[int]) -> SubsetAnalysis:
    all_runs = len(indices) == len(group.runs)  # indexing would copy them
    predictions, labels = group.predictions if all_runs else group.predictions[indices], group.examples.labels
    right = predictions == labels if group.classes and labels is not None else None
    errors = right if group.classes else None if labels is None else np.square(predictions - labels)
    spread = right if group.classes else predictions
    return SubsetAnalysis(
        group,
        subset,
        tuple(group.runs[i] for i in indices),
        tuple(group.run_names[i] for i in indices),
        predictions,
        right,
        None if spread is None else estimate_per_example_variance(spread, _fresh_rng()),
        None if errors is None else estimate_score_variance(errors, _fresh_rng()),
        measure_agreement(predictions) if group.classes else None,
    )


def _fresh_rng() -> np.random.Generator:
    """Return a new Generator with the same seed, so that no number depends on those computed before it."""
    return np.random.default_rng(BOOTSTRAP_SEED)


def describe_failures(group: PredictionGroup) -> str:
    """Return which runs failed and what they predict, as a sentence without a full stop."""
    n = len(group.runs)
    if not n or None in group.failed:
        return ""
    if not any(group.failed):
        return f"{group.arm}: none of {n} runs failed" if n > 1 else f"{group.arm}: its one run did not fail"
    failed_runs = ", ".join(
        f"{name}{_describe_constant_prediction(group, predictions)}"
        for name, predictions, failed in zip(group.run_names, group.predictions, group.failed, strict=True)
        if failed
    )
    return f"{group.arm}: {sum(map(bool, group.failed))} of {n} run{'s' if n > 1 else ''} failed: {failed_runs}"


def _describe_constant_prediction(group: PredictionGroup, predictions: np.ndarray) -> str:
    """Return in words the class that a run predicts (nearly) everywhere, or "" if there is no such class."""
    if not group.classes:
        return " with NaN" if np.isnan(predictions).any() else ""
    labels, counts = np.unique(predictions, return_counts=True)
    share, most_frequent = counts.max() / len(predictions), int(labels[counts.argmax()])
    name = "no answer" if most_frequent == NO_PREDICTION else group.classes[most_frequent]
    return f" always {name}" if share == 1 else f" {name} in {int(1000 * share) / 10:.1f} %" if share >= 0.9 else ""


def describe_subset(analysis: SubsetAnalysis) -> Iterator[str]:
    """Yield sentences that interpret the results of an analysis."""
    if analysis.reason_missing:
        yield f"{analysis.title}: missing: {analysis.reason_missing}"
        return
    if analysis.score_variance is not None:
        yield f"{analysis.title}: {_describe_score_variance(analysis, analysis.score_variance)}"
    if analysis.right is not None and (analysis.predictions == NO_PREDICTION).any():
        n = int((analysis.predictions == NO_PREDICTION).any(axis=1).sum())
        yield f"{analysis.title}: {n} with outputs that are not finite; they count as a wrong answer that is no class"


def _describe_score_variance(analysis: SubsetAnalysis, variance: ScoreVariance) -> str:
    classes, test, m = bool(analysis.group.classes), variance.test, analysis.n_examples
    score, term = (
        ("accuracy", "S_per-point") if classes else ("mean squared error", "the mean variance of a squared error")
    )
    if variance.reason:
        return f"nothing of the {score}: {variance.reason}"
    if variance.ratio is None:
        same = "are right on the same examples" if classes else "have the same error on each example"
        return f"all runs {same}, so that S_ours and its parts are 0"
    if variance.ratio < NO_VARIANCE_RATIO:
        return f"all runs have the same {score}, so that S_ours is 0: they differ on single examples"
    independent = f"{term} / {m:,}, what independent errors on the examples would give"
    start = f"S_ours is {variance.ratio:.3g} times {independent}"
    like = f"the {score} varies as if measured on {m / variance.ratio:.3g} independent examples"
    if not classes:
        return f"{start}: as far as that is above 1, runs are good or bad as a whole"
    if test.p is None:
        return f"{start}: {like} ({test.test}: no test, {test.reason})"
    tested = f"({test.test}: Q = {test.statistic:.4g}, {analysis.n_runs - 1} df, {describe_p(test.p)})"
    if test.p < COCHRAN_ALPHA:
        return f"{start}: runs are good or bad as a whole; {like} {tested}"
    return f"{start}: no sign of runs that are good or bad as a whole; one is right here and another there {tested}"
