"""No sentence claims more than the tests: made-up arms of all kinds, with every p-value computed anew."""

import math
import re
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.reports import NAN, NARROW, WIDE, make_report, make_runs

from stableft.report.artifact import make_sweep_artifact
from stableft.report.conclusion import describe_pair, describe_task

BASELINE = 0.5  # of the made-up records: a run fails at or below it
MANY_FAIL = [0.5] * 8 + [0.72, 0.74]
SAMPLES = [NARROW, WIDE, MANY_FAIL, [x - 0.12 for x in NARROW], [0.5] * 10, [*NARROW[:6], NAN], NARROW[:2], [0.7]]
SCORES = st.one_of(
    st.sampled_from(SAMPLES),
    st.lists(st.sampled_from([0.45, 0.5, 0.6, 0.61, 0.7, 0.72, 0.9, NAN]), min_size=1, max_size=9),
)
CLAIMS = {"fails": "boschloo", "fail": "boschloo", "scores": "welch", "score": "welch"}
CLAIMS |= {"spreads": "levene_median", "spread": "levene_median"}


def table_of(arms):
    runs = [make_runs(name, scores) for name, scores in arms.items()]
    return make_report(*runs, artifact=make_sweep_artifact("mine", "mine.yaml"), published={})


def p_values(x, y):
    """The p-values of an arm's tests against the reference, None where there is no test."""
    failed = [sum(not score > BASELINE for score in scores) for scores in (x, y)]
    table = [failed, [len(x) - failed[0], len(y) - failed[1]]]
    finite = [[score for score in scores if math.isfinite(score)] for scores in (x, y)]
    varies = any(len(set(scores)) > 1 for scores in finite)
    welch = varies and min(map(len, finite)) >= 2
    moments = [f(scores) for scores in finite for f in (np.mean, lambda x: np.std(x, ddof=1), len)] if welch else []
    distances = [np.round(np.abs(np.array(scores) - np.median(scores)), 12) for scores in finite if scores]
    levene = min(map(len, finite)) >= 3 and any(len(set(d)) > 1 for d in distances)
    return {
        "boschloo": stats.boschloo_exact(table).pvalue if 0 < sum(failed) < len(x) + len(y) else None,
        "welch": stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue if welch else None,
        "levene_median": stats.levene(*finite, center="median").pvalue if levene else None,
    }


def holm(ps):
    known = sorted((min(p, 1.0), key) for key, p in ps.items() if p is not None)
    steps = [min(1.0, (len(known) - rank) * p) for rank, (p, _) in enumerate(known)]
    return {key: step for (_, key), step in zip(known, np.maximum.accumulate(steps), strict=True)} if known else {}


def claims_in(text):
    """The (arm, test, direction) that a description of a task claims."""
    for clause in re.split(r"; |\.$", text):
        if found := re.fullmatch(r"(.+?) ((?:fails?|scores?|spreads?) .*) than ref", clause):
            names, claims = found.groups()
            for arm in ["a", "b"] if names == "both" else re.split(r", | and ", names):
                for verb, how in re.findall(r"(fails?|scores?|spreads?) (\w+)", claims):
                    yield arm, CLAIMS[verb], how


@settings(max_examples=30, deadline=None)
@given(ref=SCORES, a=SCORES, b=SCORES)
def test_a_difference_is_claimed_only_below_holms_p(ref, a, b):
    arms = {"ref": ref, "a": a, "b": b}
    table = table_of(arms)
    adjusted = holm({(arm, test): p for arm in "ab" for test, p in p_values(arms[arm], ref).items()})
    said = describe_task(table.cells, table.pairs)
    claimed = {(arm, test): how for arm, test, how in claims_in(said)}
    shown = {key for key, p in adjusted.items() if p < 0.05 - 1e-6}
    assert set(claimed) <= {key for key, p in adjusted.items() if p < 0.05 + 1e-6}, said
    assert {key for key in shown if key[1] != "levene_median"} <= set(claimed), said
    for (arm, test), how in claimed.items():
        finite = {name: [x for x in arms[name] if math.isfinite(x)] for name in (arm, "ref")}
        if test == "boschloo":
            shares = [np.mean([not x > BASELINE for x in arms[name]]) for name in (arm, "ref")]
            assert (how == "more") == (shares[0] > shares[1])
        if test == "welch":
            assert (how == "higher") == (np.mean(finite[arm]) > np.mean(finite["ref"]))
        if test == "levene_median":
            assert (how == "more") == (np.std(finite[arm]) > np.std(finite["ref"]))
    for arm in "ab":
        unshown = not any(key[0] == arm for key in claimed)
        words = rf"(; |^)[^;]*\b{arm}\b[^;]* not shown to differ|no test compares [^;]*\b{arm}\b"
        assert unshown == bool(re.search(words, said)), said


@settings(max_examples=30, deadline=None)
@given(ref=SCORES, arm=SCORES)
def test_a_comparison_claims_a_difference_only_below_holms_p(ref, arm):
    (pair,) = table_of({"ref": ref, "arm": arm}).pairs
    adjusted = holm(p_values(arm, ref))
    said = describe_pair(pair, None)
    shown = {
        "boschloo": re.search(r"arm fails (less|more) often than ref", said),
        "welch": re.search(r"the mean of arm is (higher|lower)", said),
        "levene_median": re.search(r"scores of arm spread (less|more)|spread of their scores differs", said),
    }
    for test, claim in shown.items():
        p = adjusted.get(test, 1.0)
        if abs(p - 0.05) > 1e-6:
            assert bool(claim) == (p < 0.05), (test, said)
    assert "equal" not in said


@pytest.mark.parametrize("n_failed", [6, 9, 10])
def test_mostly_failed_arms_are_said_to_be_no_stability(n_failed):
    lost = [0.5, 0.49] * 5
    lost[n_failed:] = [0.52] * (10 - n_failed)
    table = table_of({"ref": WIDE, "lost": lost})
    words = f"{n_failed} of 10 runs of lost failed, so a small spread is no stability (Mosbach et al. 2021, footnote 5)"
    assert words in describe_task(table.cells, table.pairs)
    assert words in describe_pair(table.pairs[0], None)


def test_arms_that_fail_alike_are_named_in_one_list():
    lost = [0.5, 0.49] * 5
    table = table_of({"ref": WIDE, "a": lost, "b": lost, "c": lost})
    said = describe_task(table.cells, table.pairs)
    assert "10 of 10 runs of a, of b and of c, " in said or "10 of 10 runs of a, of b and of c fail" in said
    assert "10 of 10 runs of a, 10 of 10 of b and 10 of 10 of c failed, so a small spread is no stability" in said
    assert said.count("no stability") == 1


def test_what_fails_is_counted_for_every_arm():
    table = table_of({"ref": MANY_FAIL, "a": NARROW, "b": [x + 0.001 for x in NARROW]})
    said = describe_task(table.cells, table.pairs)
    assert said.startswith("8 of 10 runs of ref fail, none of a or b; both fail less often")
    assert "and spread less" not in said or all(pair.is_shown("levene_median") for pair in table.pairs)
    assert [key for key, _ in groupby(claims_in(said), key=lambda claim: claim[0])] == ["a", "b"]


def test_an_arm_of_nan_alone_has_no_spread_to_warn_of():
    (pair,) = table_of({"ref": NARROW, "b": [NAN] * 5}).pairs
    assert "stability" not in describe_pair(pair, None)
    table = table_of({"ref": NARROW, "b": [NAN] * 5})
    assert describe_task(table.cells, table.pairs).endswith("; b fails more often than ref.")
