"""What the tests show, in words. No sentence says more than a test: a difference that is not shown is no equality."""

from collections.abc import Iterator, Sequence

import numpy as np

from stableft.report.arm_cells import ArmCell
from stableft.report.numbers_in_words import (
    describe_p,
    failed_value,
    format_percent,
    interval_value,
    points_interval_value,
    wilson_value,
)
from stableft.report.pair_tests import (
    ALPHA,
    FAMILY,
    PairTests,
    describe_false_stability,
    is_falsely_stable,
    scored_alike,
)
from stableft.stats import Interval
from stableft.text import join_with


def describe_task(cells: Sequence[ArmCell], pairs: Sequence[PairTests]) -> str:
    """Return how many runs of each arm of a task fail, and what the tests against the reference arm show."""
    sentences = [_count_failures(cells)]
    claims: dict[str, list[str]] = {}
    for pair in pairs:
        claims.setdefault(join_with(list(_claims(pair))), []).append(pair.arm.arm)
    reference = pairs[0].reference.arm if pairs else ""
    unshown = claims.pop("", [])
    untested = [pair.arm.arm for pair in pairs if pair.arm.arm in unshown and _is_untested(pair)]
    unlike = [pair.arm.arm for pair in pairs if not _is_untested(pair) and not scored_alike(pair.arm, pair.reference)]
    for claim, arms in claims.items():
        names = join_with(arms) if len(arms) < len(pairs) or len(arms) != 2 else "both"
        sentences.append(f"{names} {_agree(claim, plural=len(arms) > 1)} than {reference}")
    if unlike:
        sentences.append(f"{join_with(unlike)} {'are' if unlike[1:] else 'is'} not scored like {reference}")
    if tested := [arm for arm in unshown if arm not in (*untested, *unlike)]:
        sentences.append(f"{join_with(tested)} {'are' if tested[1:] else 'is'} not shown to differ from {reference}")
    if untested:
        sentences.append(f"no test compares {join_with(untested)} with {reference}")
    if any(pair.is_shown("welch") and pair.arm.lower_is_better for pair in pairs):
        sentences.append("lower scores are better")
    if false := [cell for cell in cells if is_falsely_stable(cell, cells)]:
        sentences.append(describe_false_stability(*false))
    return f"{'; '.join(sentences)}."


def _count_failures(cells: Sequence[ArmCell]) -> str:
    known = [cell for cell in cells if cell.n_known]
    if not known:
        if any(cell.summary.n for cell in cells):
            return "How many runs fail is not known"
        return f"No {'finished run has this score' if any(cell.unscored for cell in cells) else 'run has finished'}"
    counts: dict[tuple[int, int], list[str]] = {}
    for cell in known:
        counts.setdefault((cell.failed, cell.n_known if cell.failed else 0), []).append(cell.arm)
    none = counts.pop((0, 0), [])
    parts = [f"{k} of {n} runs {join_with([f'of {arm}' for arm in arms])}" for (k, n), arms in counts.items()]
    if none:
        parts.append(f"{'none' if parts else 'No run'} of {join_with(none, 'or')}")
    verb = "fails" if len(counts) == 0 or next(iter(counts))[0] == 1 else "fail"
    first, *rest = parts
    return ", ".join([f"{first} {verb}", *rest])


def _claims(pair: PairTests) -> Iterator[str]:
    """Yield what the tests show of an arm, as verbs in the third person singular."""
    if pair.is_shown("boschloo") and pair.failed_difference is not None:
        yield "fails less often" if pair.failed_difference < 0 else "fails more often"
    if pair.is_shown("welch") and pair.mean_difference is not None:
        yield "scores higher" if pair.mean_difference > 0 else "scores lower"
    if pair.is_shown("levene_median") and (direction := _spread_direction(pair)):
        yield f"spreads {direction}"


def _agree(claim: str, plural: bool) -> str:
    return claim.replace("fails", "fail").replace("scores", "score").replace("spreads", "spread") if plural else claim


def _is_untested(pair: PairTests) -> bool:
    return all(p is None for p in pair.holm.values())


def _spread_direction(pair: PairTests) -> str | None:
    """Return whether the arm spreads "less" or "more", or None if SD and mean distance from the median disagree."""
    distances = [_mean_distance_from_median(cell.scores) for cell in (pair.arm, pair.reference)]
    sds = [cell.summary.std or 0.0 for cell in (pair.arm, pair.reference)]
    if (distances[0] < distances[1]) != (sds[0] < sds[1]):
        return None
    return "less" if distances[0] < distances[1] else "more"


def _mean_distance_from_median(scores: Sequence[float]) -> float:
    """Return the mean absolute distance from the median, which is what the median-centred test compares."""
    finite = np.asarray(scores)[np.isfinite(scores)]
    return float(np.abs(finite - np.median(finite)).mean())


def describe_pair(pair: PairTests, power: str | None) -> str:
    """Return the conclusion on two arms as a sentence, with the numbers behind it.

    `power` is the command that estimates how many seeds are needed.
    """
    if reason := _why_inconclusive(pair):
        stopped = pair.arm.stopped or pair.reference.stopped
        advice = "" if stopped else "; run more seeds (the papers: 20 to 50)"
        return f"Nothing may be concluded about {pair.reference.arm} and {pair.arm.arm}: {reason}{advice}."
    cells = (pair.reference, pair.arm)
    false = [describe_false_stability(cell) for cell in cells if is_falsely_stable(cell, cells)]
    text = "; ".join([_conclude_on_failures(pair), _conclude_on_spread(pair), _conclude_on_means(pair), *false]) + "."
    if power and not any(pair.is_shown(name) for name in FAMILY):
        text += f" `{power}` tells how many seeds differences of this size need."
    return text if text.startswith((pair.arm.arm, pair.reference.arm)) else text[0].upper() + text[1:]


def _why_inconclusive(pair: PairTests) -> str | None:
    if not _is_untested(pair):
        return None
    reasons = dict.fromkeys(str(result.reason) for result in (pair.boschloo, pair.welch, pair.levene_median))
    return f"there is no test ({'; '.join(reasons)})"


def _conclude_on_failures(pair: PairTests) -> str:
    a, b, p = pair.arm, pair.reference, pair.holm["boschloo"]
    arms = f"{b.arm} and {a.arm}"
    intervals_text = f"95 % Wilson intervals {wilson_value(b).text} % and {wilson_value(a).text} %"
    if pair.failed_difference is None or a.failed_unknown or b.failed_unknown:
        return f"whether {arms} differ in how often they fail is not known"
    if p is None and not a.failed and not b.failed:
        return f"no run of {b.arm} or {a.arm} failed, which leaves the shares of failed runs open ({intervals_text})"
    if p is None:
        return f"how often {arms} fail is not tested ({pair.boschloo.reason})"
    counts = f"{failed_value(a).text} against {failed_value(b).text}"
    difference = f"{_points(pair.failed_difference, pair.failed_interval)}, {describe_p(p, 'Holm p')}"
    if p >= ALPHA:
        counts = f"{failed_value(b).text} against {failed_value(a).text}"
        return f"{arms} are not shown to differ in how often they fail ({counts}; {difference})"
    how = "less" if pair.failed_difference < 0 else "more"
    return f"{a.arm} fails {how} often than {b.arm} ({counts}; {difference})"


def _points(difference: float, interval: Interval) -> str:
    ends = "" if interval.low is None else f" [{points_interval_value(interval).text}]"
    return f"{format_percent(difference, sign=True)} points{ends}"


def _conclude_on_spread(pair: PairTests) -> str:
    a, b, p, ratio = pair.arm, pair.reference, pair.holm["levene_median"], pair.sd_ratio
    if p is None:
        return f"the spread of their scores is not tested ({pair.levene_median.reason})"
    interval = ratio.interval
    ends = "" if interval.low is None else f", ratio {ratio.value:.2g} [{interval_value(interval).text}]"
    sds = [format_percent(cell.summary.std) for cell in (a, b)]
    among = _spread_without_failures(pair)
    if p >= ALPHA:
        return (
            f"the spread of their scores is not shown to differ (SD {sds[1]} against {sds[0]}{ends}, "
            f"{describe_p(p, 'Holm p')}){among}"
        )
    details = f"(SD {sds[0]} against {sds[1]}{ends}, {describe_p(p, 'Holm p')})"
    if direction := _spread_direction(pair):
        return f"the scores of {a.arm} spread {direction} {details}{among}"
    contradiction = "though SD and mean distance from the median do not agree on which spreads more"
    return f"the spread of their scores differs, {contradiction} {details}{among}"


def _spread_without_failures(pair: PairTests) -> str:
    """Return a clause on the spread among the runs that did not fail. Empty if none failed."""
    result, ratio = pair.levene_successful, pair.successful_sd_ratio
    if not pair.arm.failed and not pair.reference.failed:
        return ""
    if result.p is None:
        return f", which is not tested among the runs that did not fail ({result.reason})"
    ends = "" if ratio.interval.low is None else f" [{interval_value(ratio.interval).text}]"
    value = f"SD ratio {ratio.value:.2g}{ends}, " if ratio.value is not None else ""
    verdict = "differs" if result.p < ALPHA else "is not shown to differ"
    details = f"({value}{describe_p(result.p)}, not adjusted)"
    return f"; among the runs that did not fail the spread {verdict} {details}"


def _conclude_on_means(pair: PairTests) -> str:
    a, b, p, difference = pair.arm, pair.reference, pair.holm["welch"], pair.mean_difference
    if p is None or difference is None:
        return f"the means are not tested ({pair.welch.reason})"
    means = [format_percent(cell.summary.mean) for cell in (a, b)]
    details = f"{_points(difference, pair.mean_interval)}, {describe_p(p, 'Holm p')}"
    if p >= ALPHA:
        return f"the means are not shown to differ ({means[1]} against {means[0]}; {details})"
    any_failed = a.failed or b.failed
    reservation = ", but whether it is apart from failed runs is not shown" if any_failed else ""
    how = "higher" if difference > 0 else "lower"
    if a.lower_is_better:
        how += ", which is worse" if difference > 0 else ", which is better"
    return f"the mean of {a.arm} is {how} ({means[0]} against {means[1]}; {details}){reservation}"
