"""The table of the tests of arms against a reference arm: a row for each effect, with its interval and test."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stableft.catalog.tasks import task_title
from stableft.report.forms.document import FOR_READERS, Column, DataTable, ReportTable, Row, Value
from stableft.report.numbers_in_words import (
    interval_value,
    number_value,
    p_value,
    percent_value,
    points_interval_value,
    values_of_test,
)
from stableft.report.pair_tests import (
    BOOTSTRAP_SEED,
    FAMILY,
    Caveat,
    PairTests,
    fresh_generator,
    withhold_if_stopped_early,
)
from stableft.stats import (
    BOSCHLOO,
    LEVENE,
    RESAMPLES,
    WELCH_T_TEST,
    ImprovementProbability,
    TestResult,
    permutation_test,
    probability_of_improvement,
    t_test,
)

# Number of scores in both arms together. Above it, the permutation test is slow and agrees with Welch's test.
MAX_PERMUTED_SCORES = 200
TEST_COLUMNS = (
    Column("task"),
    Column("arm"),
    Column("against"),
    Column("question", "arm"),
    Column("value", "value", for_readers=True),
    Column("interval", "95 %", for_readers=True),
    Column("shown_test", "test", for_readers=True),
    Column("failed_difference", unit="points"),
    Column("failed_difference_newcombe", unit="points", interval=True),
    Column("mean_difference", unit="points"),
    Column("mean_difference_welch", unit="points", interval=True),
    Column("sd_ratio"),
    Column("sd_ratio_bca", interval=True),
    Column("successful_sd_ratio"),
    Column("successful_sd_ratio_bca", interval=True),
    Column("probability"),
    Column("probability_interval", interval=True),
    *(Column(key) for key in ("test", "center", "alternative", "statistic")),
    Column("p", "p"),
    Column("holm_p", "Holm p"),
    Column("sizes", "n", for_readers=True),
    *(Column(key) for key in ("n_a", "n_b", "reason", "remark")),
)
SHOWN_KEYS = tuple(column.key for column in TEST_COLUMNS if column.title)


@dataclass(frozen=True)
class FurtherTests:
    """Tests of two arms outside the family: they decide nothing, and show whether the others depend on a choice."""

    student: TestResult
    permutation: TestResult
    improvement: ImprovementProbability  # that a run of the arm scores higher than one of the reference arm


def compute_further_tests(pair: PairTests) -> FurtherTests:
    """Return the further tests. If runs of an arm were early-stopped, they have a reason in place of a p-value."""
    a, b = pair.arm, pair.reference
    better = probability_of_improvement(a.scores, b.scores, fresh_generator())
    test = withhold_if_stopped_early(better.test, a, b)
    if test != better.test:
        no_interval = withhold_if_stopped_early(better.interval, a, b)
        better = replace(better, value=None, interval=no_interval, test=test, reason=test.reason)
    return FurtherTests(
        student=withhold_if_stopped_early(t_test(a.scores, b.scores, equal_var=True), a, b),
        permutation=withhold_if_stopped_early(_test_permutation(a.scores, b.scores), a, b),
        improvement=better,
    )


def _test_permutation(x: Sequence[float], y: Sequence[float]) -> TestResult:
    if len(x) + len(y) <= MAX_PERMUTED_SCORES:
        return permutation_test(x, y, "mean", fresh_generator())
    reason = f"it takes long for more than {MAX_PERMUTED_SCORES} runs, for which it says what Welch's test says"
    name = "Permutation test of the difference of means"
    return TestResult(name, None, "two-sided", None, None, len(x), len(y), reason)


def collect_pair_tests(pairs: Sequence[PairTests], further: FurtherTests | None = None) -> DataTable:
    """Return a row for each effect of each pair. The `further` tests are those of the last pair."""
    rows = [row for pair in pairs for row in (_heading(pair), *_pair_rows(pair))]
    if further:
        rows += _further_rows(pairs[-1], further)
    return DataTable(TEST_COLUMNS, tuple(rows))


def _heading(pair: PairTests) -> Row:
    return Row(FOR_READERS, {"task": Value(data=pair.arm.task), "question": Value(pair.arm.arm)})


def _pair_rows(pair: PairTests) -> Iterator[Row]:
    ratio, successful = pair.sd_ratio, pair.successful_sd_ratio
    yield _row(
        pair,
        "failed runs, difference",
        "boschloo",
        pair.boschloo,
        failed_difference=percent_value(pair.failed_difference, sign=True),
        failed_difference_newcombe=points_interval_value(pair.failed_interval),
    )
    yield _row(
        pair,
        "mean, difference",
        "welch",
        pair.welch,
        mean_difference=percent_value(pair.mean_difference, sign=True),
        mean_difference_welch=points_interval_value(pair.mean_interval),
    )
    yield _row(
        pair,
        "spread, SD ratio",
        "levene_median",
        pair.levene_median,
        sd_ratio=number_value(ratio.value),
        sd_ratio_bca=interval_value(ratio.interval),
    )
    yield _row(pair, "spread, as in the papers", "levene_mean", pair.levene_mean)
    if pair.arm.failed or pair.reference.failed:
        yield _row(
            pair,
            "spread, failed left out",
            "levene_successful",
            pair.levene_successful,
            successful_sd_ratio=number_value(successful.value),
            successful_sd_ratio_bca=interval_value(successful.interval),
        )


def _further_rows(pair: PairTests, further: FurtherTests) -> Iterator[Row]:
    yield _row(pair, "mean, with equal SDs", "student", further.student)
    yield _row(pair, "mean, by permutation", "permutation", further.permutation)
    better = further.improvement
    yield _row(
        pair,
        "chance of a higher score",
        "improvement",
        better.test,
        probability=number_value(better.value, ".2f"),
        probability_interval=interval_value(better.interval),
    )


def _row(pair: PairTests, question: str, name: str, result: TestResult, **effect: Value) -> Row:
    """Return the row of a test. `effect` holds its value and its interval, if it has them."""
    plain = {"task": pair.arm.task, "against": pair.reference.arm, "remark": pair.remark}
    plain |= values_of_test(result, pair.holm.get(name))
    value, interval = (*effect.values(), Value(), Value())[:2]
    return Row(
        name,
        {key: Value(data=data) for key, data in plain.items()}
        | effect
        | {
            "arm": Value(pair.arm.arm, pair.arm.arm),
            "question": Value(question, question, under=True),
            "value": value,
            "interval": interval,
            "shown_test": Value(_short_name(result)),
            "p": p_value(result.p),
            "holm_p": p_value(pair.holm[name]) if name in FAMILY else Value(),
            "sizes": Value(f"{result.n_a}, {result.n_b}"),
        },
    )


def _short_name(result: TestResult) -> str:
    """Return a test's name with its centre; what all tests share stands in the explanation."""
    name = result.test.replace(f" {permutations_of(result)}", "").replace(" of the difference of means", "")
    return f"{name} ({result.center})" if result.center else name


def permutations_of(result: TestResult) -> str:
    """Return the part of a permutation test's name that counts the permutations. The table has no room for it."""
    return f"({detail}" if (detail := result.test.partition("(")[2]).endswith("permutations)") else "()"


def view_tests(
    name: str, tests: DataTable, rows: Sequence[Row], caption: str = "", notes: Sequence[str] = ()
) -> ReportTable:
    """Return the table of these tests for readers."""
    return tests.view(name, SHOWN_KEYS, caption, rows, notes)


def explain_tests(pairs: Sequence[PairTests]) -> str:
    """Return an explanation of the tests, their sides and centres, the intervals and the correction."""
    references = {pair.reference.arm for pair in pairs}
    reference = references.pop() if len(references) == 1 else "the first arm of the task"
    n_adjusted = sum(p is not None for pair in pairs for p in pair.holm.values())
    return (
        f"All tests are two-sided and unpaired, of each arm against {reference}. Failed runs: {BOSCHLOO} and "
        f"Newcombe's interval. Means: {WELCH_T_TEST} and its interval. Spread: {LEVENE} centred at the median "
        "(Brown-Forsythe), which decides; centred at the mean for parity with the papers; SD ratio: reference over "
        f"arm, with its BCa bootstrap interval ({RESAMPLES:,} resamples, seed {BOOTSTRAP_SEED}) from 10 runs an arm. "
        f"Differences: arm minus reference, in points. Holm p: adjusted over the {n_adjusted} tests of failures, means "
        "and spread (median) in this report. Runs that did not fail are chosen by their outcome: their spread decides "
        "nothing."
    )


def pair_remarks(pairs: Sequence[PairTests], in_words: bool = True) -> Iterator[str]:
    """Yield the reasons for missing numbers and the caveats of the comparisons, each once with the arms it is of.

    `in_words`: the report has the answer in words, which names arms that are falsely stable.
    """
    arms_of: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        for remark in _remarks(pair, in_words):
            arms_of.setdefault((pair.reference.arm, remark), []).append(_place(pair, pairs))
    for (reference, remark), arms in arms_of.items():
        yield f"{', '.join(arms)} against {reference}: {remark}"


def _remarks(pair: PairTests, in_words: bool) -> Iterator[str]:
    if without_score := [cell.arm for cell in (pair.arm, pair.reference) if cell.summary.n == 0]:
        yield f"no test: no run of {' or '.join(without_score)} has a score"
        return
    reasons = [
        ("test of failures", pair.boschloo.reason),
        ("test of means", pair.welch.reason),
        ("test of spread", pair.levene_median.reason),
        ("test of spread centred at the mean", pair.levene_mean.reason),
        ("SD ratio", pair.sd_ratio.reason),
        ("interval of the SD ratio", None if pair.sd_ratio.reason else pair.sd_ratio.interval.reason),
    ]
    if pair.arm.failed or pair.reference.failed:
        reasons.append(("test of the spread of runs that did not fail", pair.levene_successful.reason))
    names_of: dict[str, list[str]] = {}
    for name, reason in reasons:
        if reason:
            names_of.setdefault(reason, []).append(name)
    for reason, names in names_of.items():
        yield f"no {', '.join(names)}: {reason}"
    yield from (text for kind, text in pair.caveats if not (in_words and kind is Caveat.MOSTLY_FAILED))


def correlation_lines(pairs: Sequence[PairTests]) -> Iterator[str]:
    """Yield a line for each reference arm on how the scores of the others correlate with its over shared seeds."""
    texts_of: dict[str, list[str]] = {}
    for pair in pairs:
        correlation = pair.seed_correlation
        if correlation.value is not None:
            ends = interval_value(correlation.interval).text
            text = f"{_place(pair, pairs)} {correlation.value:.2f} [{ends}] (n = {correlation.n})"
            texts_of.setdefault(pair.reference.arm, []).append(text)
    for reference, texts in texts_of.items():
        yield f"correlation of scores over shared seeds with {reference}: {', '.join(texts)}"


def _place(pair: PairTests, pairs: Sequence[PairTests]) -> str:
    """Return the arm's name, with its task if the pairs are of several."""
    return (
        f"{pair.arm.arm} on {task_title(pair.arm.task)}"
        if len({other.arm.task for other in pairs}) > 1
        else pair.arm.arm
    )
