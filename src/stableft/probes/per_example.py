"""How much runs differ on single examples (M sec. 7.1).

Variances are over runs, with ddof 1. `values` [runs, examples] are what an accuracy or an error is the mean of: True
where a run is right, or squared errors. `answers` [runs, examples] are class ids, or NO_ANSWER.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stableft.probes.per_example_data import NO_PREDICTION, PredictionGroup
from stableft.report.numbers_in_words import describe_p
from stableft.report.stability_table import BOOTSTRAP_SEED
from stableft.stats import Interval, TestResult, bootstrap_interval, summarize, wilson_interval
from stableft.stats.bootstrap import BCA, sample_std
from stableft.stats.summary import RESAMPLES, too_few_reason

COCHRAN_Q = "Cochran's Q test"
JACKKNIFE = "jackknife"
# Runs times examples on which they differ, below which the test's chi-square is a poor approximation.
MIN_COCHRAN_CELLS = 24
CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class PerExampleVariance:
    """The mean over examples of the variance over runs; `value` is None where there is none, and `reason` says why."""

    value: float | None
    over_runs: Interval  # with other runs on these examples
    over_examples: Interval  # with these runs on other examples
    reason: str | None = None


@dataclass(frozen=True)
class ScoreVariance:
    """The variance over runs of their mean over examples, and whether it comes from runs good or bad as a whole.

    It is P / m plus (m - 1) / m times `covariance`, the mean covariance of two of the m examples, where P is the mean
    over examples of the variance; so `ratio`, itself over P / m, is 1 where examples are independent and at most m.
    """

    scores: tuple[float, ...]  # of each run
    mean: float | None
    value: float | None
    sd: Interval  # of its root; other runs on these examples
    ratio: float | None
    covariance: float | None
    test: TestResult  # Cochran's, of equally good runs; n_a runs, n_b examples
    reason: str | None = None


@dataclass(frozen=True)
class Agreement:
    """Whether runs answer alike. Churn is the share of examples on which two runs differ, over all pairs of runs."""

    unanimous: float | None  # the share of examples on which all runs answer the same
    unanimous_interval: Interval  # other examples, these runs
    churn: float | None
    churn_min: float | None
    churn_max: float | None
    churn_over_runs: Interval
    kappa: float | None  # Fleiss'
    reason: str | None = None
    kappa_reason: str | None = None


def example_variances(values: np.ndarray) -> np.ndarray:
    """Returns the variance over runs of each example; of right and wrong to the last bit, so that ties are ties."""
    n = len(values)
    if n < 2:
        return np.full(values.shape[1], math.nan)
    if values.dtype == bool:
        right = values.sum(axis=0)
        return right * (n - right) / (n * (n - 1))
    return sample_std(values, axis=0) ** 2


def example_disagreements(answers: np.ndarray) -> np.ndarray:
    """Returns for each example the share of pairs of runs that answer differently."""
    n = len(answers)
    if n < 2:
        return np.full(answers.shape[1], math.nan)
    counts = count_predictions(answers, int(answers.max(initial=0)) + 1)
    return 1 - (counts * (counts - 1)).sum(axis=1) / (n * (n - 1))


def count_predictions(answers: np.ndarray, classes: int) -> np.ndarray:
    """Returns how many runs gave each answer [examples, classes + 1]; the last column is NO_ANSWER's."""
    return np.stack([(answers == answer).sum(axis=0) for answer in (*range(classes), NO_PREDICTION)], axis=1)


def rank_by_instability(unstable: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
    """Returns the examples from the most unstable on; of equal ones those with fewer runs right, then the first."""
    return np.lexsort((np.arange(len(unstable)), np.zeros(len(unstable)) if right is None else right, -unstable))


def estimate_per_example_variance(
    values: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> PerExampleVariance:
    """Returns S_per-point of M sec. 7.1, or of numbers the same: runs are jackknifed, examples resampled."""
    reason = _unusable_reason(values)
    if reason is not None:
        over_runs, over_examples = (Interval(name, CONFIDENCE_LEVEL, None, None, reason) for name in (JACKKNIFE, BCA))
        return PerExampleVariance(None, over_runs, over_examples, reason)
    each = example_variances(values)
    numbers = values.astype(float)
    halves = np.stack([np.square(numbers - run).mean(axis=1) for run in numbers]) / 2
    n = len(values)
    most = (n // 2) * (n - n // 2) / (n * (n - 1)) if values.dtype == bool else math.inf
    over_runs = jackknife_pair_mean(halves, most)
    return PerExampleVariance(
        float(each.mean()), over_runs, bootstrap_interval(each, "mean", rng, CONFIDENCE_LEVEL, resamples)
    )


def estimate_score_variance(values: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> ScoreVariance:
    """Returns S_ours of M sec. 7.1, or of squared errors the same, beside what independent examples would give."""
    m = values.shape[1]
    scores = values.mean(axis=1) if m else np.zeros(len(values))
    sd = bootstrap_interval(scores, "std", rng, CONFIDENCE_LEVEL, resamples)
    test = cochran_q(values)
    reason = _unusable_reason(values)
    mean = summarize(scores).mean if np.isfinite(scores).all() else None
    if reason is not None:
        return ScoreVariance(tuple(scores.tolist()), mean, None, sd, None, None, test, reason)
    ours, apart = float(sample_std(scores)) ** 2, float(example_variances(values).mean()) / m
    covariance = (ours - apart) * m / (m - 1) if m > 1 else None
    return ScoreVariance(tuple(scores.tolist()), mean, ours, sd, ours / apart if apart else None, covariance, test)


def cochran_q(values: np.ndarray) -> TestResult:
    """Returns Cochran's Q test (1950) that all runs are equally likely right on each example, examples independent.

    The statistic is (runs - 1) times the ratio of `Whole`, and about chi-square with runs - 1 degrees of freedom.
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


def measure_agreement(answers: np.ndarray) -> Agreement:
    """Returns how often runs answer alike; no answer is an answer of its own, which two runs can have in common."""
    n, m = answers.shape
    reason = _unusable_reason(answers)
    if reason is not None:
        nothing = [Interval(name, CONFIDENCE_LEVEL, None, None, reason) for name in ("Wilson", JACKKNIFE)]
        return Agreement(None, nothing[0], None, None, None, nothing[1], None, reason, reason)
    unanimous = int((answers == answers[0]).all(axis=0).sum())
    differ = np.stack([(answers != run).mean(axis=1) for run in answers])
    pairs = differ[np.triu_indices(n, 1)]
    kappa = fleiss_kappa(answers)
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


def fleiss_kappa(answers: np.ndarray) -> float | None:
    """Returns Fleiss' kappa (1971) with the runs as raters; None where there is one answer only."""
    shares = np.array([(answers == answer).mean() for answer in np.unique(answers)])
    if len(shares) == 1:
        return None
    chance = float(np.square(shares).sum())
    return (1 - float(example_disagreements(answers - answers.min()).mean()) - chance) / (1 - chance)


def jackknife_pair_mean(matrix: np.ndarray, most: float) -> Interval:
    """Returns the interval of the mean over pairs of runs, at most `most`; `matrix` [runs, runs] has a diagonal of 0.

    The jackknife of a U-statistic (Arvesen 1969), with Student's t on the log scale. Not the bootstrap: a run that is
    drawn twice agrees with itself, so that 95 % BCa intervals cover the truth in 4 % of simulated arms of 5 runs and
    in 71 % of those of 25. These cover it in 92 to 96 % of arms of 4 to 50 runs; where three runs of ten fail, in 76 %
    of those of 5, of which many have no failed run at all, and in 94 to 96 % from 10 on.
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
            return Interval(JACKKNIFE, CONFIDENCE_LEVEL, value / factor, min(value * factor, most))
        reason = "without one of the runs, whichever, it is the same"
    return Interval(JACKKNIFE, CONFIDENCE_LEVEL, None, None, reason.replace("values", "runs"))


def _unusable_reason(values: np.ndarray) -> str | None:
    """Says why there is no variance over these runs: fewer than two, or numbers that are not finite."""
    if len(values) < 2:
        return "at least 2 runs are needed, here is 1" if len(values) else "no run has predictions"
    bad = int((~np.isfinite(values).all(axis=1)).sum())
    return f"{bad} of {len(values)} runs {'has' if bad == 1 else 'have'} outputs that are not finite" if bad else None


ALL_RUNS, RUNS_NOT_FAILED = "all runs", "runs that did not fail"
COCHRAN_ALPHA = 0.05
MISSING_WITHOUT_LABELS = {  # by whether there are classes
    True: "variances and accuracies are missing: which runs are right is not known without --label",
    False: "MSE and S_ours are missing: what is right is not known without --label",
}


@dataclass(frozen=True)
class SubsetAnalysis:
    """Some runs of a group and their numbers. `right` [runs, examples] is None for numbers, and without labels."""

    group: PredictionGroup
    which: str
    runs: tuple[str, ...]
    names: tuple[str, ...]
    answers: np.ndarray
    right: np.ndarray | None
    per_point: PerExampleVariance | None  # None: classes without labels
    whole: ScoreVariance | None  # None: without labels
    agreement: Agreement | None  # None: numbers

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def m(self) -> int:
        return self.answers.shape[1]

    @property
    def missing(self) -> str | None:
        """Why there is nothing to say."""
        found = self.per_point or self.agreement
        assert found
        return found.reason

    @property
    def is_part(self) -> bool:
        """Whether there is another view of all runs of the group."""
        return self.which != ALL_RUNS

    @property
    def lead(self) -> str:
        """What the numbers are of, in words."""
        return f"{self.group.arm}, {self.which} (n = {self.n})"

    @property
    def unstable(self) -> np.ndarray:
        """How much the runs differ on each example: a variance, or for classes without labels `disagreements`."""
        if self.right is not None:
            return example_variances(self.right)
        return example_disagreements(self.answers) if self.group.classes else example_variances(self.answers)

    @property
    def agreed(self) -> np.ndarray:
        """The share of runs that give each example's most frequent answer."""
        return count_predictions(self.answers, len(self.group.classes)).max(axis=1) / self.n


def analyze_group(group: PredictionGroup) -> tuple[SubsetAnalysis, ...]:
    """Returns the group's runs, and if some of them failed the others alone."""
    fine = [i for i, failed in enumerate(group.failed) if failed is False]
    failed = any(failed is True for failed in group.failed)
    return (
        _analyze_subset(group, ALL_RUNS, list(range(len(group.runs)))),
        *([_analyze_subset(group, RUNS_NOT_FAILED, fine)] if failed else []),
    )


def _analyze_subset(group: PredictionGroup, which: str, chosen: list[int]) -> SubsetAnalysis:
    answers, labels = group.answers[chosen], group.examples.labels
    right = answers == labels if group.classes and labels is not None else None
    errors = right if group.classes else None if labels is None else np.square(answers - labels)
    spread = right if group.classes else answers
    return SubsetAnalysis(
        group,
        which,
        tuple(group.runs[i] for i in chosen),
        tuple(group.names[i] for i in chosen),
        answers,
        right,
        None if spread is None else estimate_per_example_variance(spread, _fresh_rng()),
        None if errors is None else estimate_score_variance(errors, _fresh_rng()),
        measure_agreement(answers) if group.classes else None,
    )


def _fresh_rng() -> np.random.Generator:
    """Returns a Generator anew, so that no number depends on which others were made before it."""
    return np.random.default_rng(BOOTSTRAP_SEED)


def describe_failures(group: PredictionGroup) -> str:
    """Returns which runs failed and what they answer, in a sentence without its end."""
    n = len(group.runs)
    if not n or None in group.failed:
        return ""
    if not any(group.failed):
        return f"{group.arm}: none of {n} runs failed" if n > 1 else f"{group.arm}: its one run did not fail"
    who = ", ".join(
        f"{name}{_describe_constant_prediction(group, answers)}"
        for name, answers, failed in zip(group.names, group.answers, group.failed, strict=True)
        if failed
    )
    return f"{group.arm}: {sum(map(bool, group.failed))} of {n} run{'s' if n > 1 else ''} failed: {who}"


def _describe_constant_prediction(group: PredictionGroup, answers: np.ndarray) -> str:
    """Returns in words the answer that a run gives nearly everywhere, if it gives one."""
    if not group.classes:
        return " with NaN" if np.isnan(answers).any() else ""
    answer, counts = np.unique(answers, return_counts=True)
    share, most = counts.max() / len(answers), int(answer[counts.argmax()])
    what = "no answer" if most == NO_PREDICTION else group.classes[most]
    return f" always {what}" if share == 1 else f" {what} in {int(1000 * share) / 10:.1f} %" if share >= 0.9 else ""


def describe_subset(view: SubsetAnalysis) -> Iterator[str]:
    """Yields what the numbers of a view mean, in plain words."""
    if view.missing:
        yield f"{view.lead}: missing: {view.missing}"
        return
    if view.whole is not None:
        yield f"{view.lead}: {_describe_score_variance(view, view.whole)}"
    if view.right is not None and (view.answers == NO_PREDICTION).any():
        who = int((view.answers == NO_PREDICTION).any(axis=1).sum())
        yield f"{view.lead}: {who} with outputs that are not finite; they count as a wrong answer that is no class"


def _describe_score_variance(view: SubsetAnalysis, whole: ScoreVariance) -> str:
    what, each = (
        ("accuracy", "S_per-point")
        if view.group.classes
        else ("mean squared error", "the mean variance of a squared error")
    )
    if whole.reason:
        return f"nothing of the {what}: {whole.reason}"
    if whole.ratio is None:
        same = "are right on the same examples" if view.group.classes else "have the same error on each example"
        return f"all runs {same}, so that S_ours and its parts are 0"
    said = f"S_ours is {whole.ratio:.3g} times {each} / {view.m:,}, what independent errors on the examples would give"
    like = f"the {what} varies as if measured on {view.m / whole.ratio:.3g} independent examples"
    if whole.test.p is None:
        tested = "" if not view.group.classes else f" ({whole.test.test}: no test, {whole.test.reason})"
        good = "as far as that is above 1, runs are good or bad as a whole" if not view.group.classes else like
        return f"{said}: {good}{tested}"
    tested = f"({whole.test.test}: Q = {whole.test.statistic:.4g}, {view.n - 1} df, {describe_p(whole.test.p)})"
    if whole.test.p < COCHRAN_ALPHA:
        return f"{said}: runs are good or bad as a whole; {like} {tested}"
    return f"{said}: no sign of runs that are good or bad as a whole; one is right here and another there {tested}"
