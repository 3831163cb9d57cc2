"""Whether `decide` keeps its error and how many runs it saves, on 600 runs of BERT-large and in simulations.

    scripts/bench decide [--draws 10000] [--seed 0] [--out results/benchmarks]

The runs are those of results/records/zhang-replication.jsonl: four tasks, three arms, 50 seeds each.

- null: the labels of the runs of two arms are permuted, so that the arms differ in nothing; better or worse is wrong.
- margin: the same runs, the second arm moved by the margin of the rule: its scores by 1 point up or down, or so many
  more of its runs failed that the rates differ by 10 points (and the other way round); equivalent is wrong.
- simulated: made-up arms of equal failure rate, mean or spread, with unequal variances, ties, NaN and failed runs.
- outside: arms of equal means, of which one has some failed runs and better ones instead: no test of means but the
  betting one keeps its error there, because differences of pairs are not symmetric.
- retried: arms of equal failure rate of which some runs crash, and all are tried again that no look has passed; wrong
  are all draws with a verdict, before or after that.
- family: three claims that share alpha, all null, or with one true claim that passes its share on.
- power: runs drawn with replacement from each arm; `n` is the mean number of runs of each arm. `fixed_25` and
  `fixed_50` are the power of one look at that many runs, with the same test at alpha; `fixed_n` is the number of runs
  at which one look has the power of the rule.
- again: single cases of the above (but for those outside) whose interval does not reach alpha, with ten times the
  draws, anew: of cases whose error is exactly alpha, one in 40 is such by chance.

Of permutation tests, cases of simulations and the power of spread have a tenth of the draws.

Each share of wrong verdicts has its 95 % Wilson interval; `valid` says whether that reaches alpha or lower. Files:
decide.json with all numbers, decide.png with the runs used and saved.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stableft.python_api import load_records
from stableft.records.decision import look_at_pairs
from stableft.records.run_record import atomic_write
from stableft.stats import wilson_interval
from stableft.stats.power import seeds_needed
from stableft.stats.sequential import (
    HIGHER,
    LOWER,
    SAME,
    LookPlan,
    Looks,
    Spending,
    decide_claims,
)

RECORDS = Path("results/records/zhang-replication.jsonl")
ALPHA = 0.05
SEEDS = 50
WIDE, FINE = (5, 10, 15, 20, 25, 35, 50), tuple(range(4, SEEDS + 1, 2))
MARGINS = {"failures": 0.10, "mean": 0.01}
PERMUTATIONS = 999  # of a test; the product draws 9,999, and the error of the test is the same with any number
FEWER_DRAWS = 10  # permutation tests of made-up scores, and of spread for its power, have one draw in so many
AGAIN = 10  # times the draws of a case that is drawn again
TASKS = ("rte", "mrpc", "stsb", "cola")
ARMS = ("zhang-bertadam", "zhang", "zhang-reinit")
PAIRS = tuple(itertools.combinations(ARMS, 2))
LEAST_POWER, MOST_POWER = 0.2, 0.999  # of a claim that a fixed number of runs is found for


class Rule(NamedTuple):
    """A rule to validate. `looks` None: after every run."""

    about: str
    looks: Looks | None
    spending: Spending = "pocock"

    @property
    def name(self) -> str:
        if self.looks is None:
            return f"{self.about}, any"
        looks = f"{self.looks[0]}, {self.looks[1]}, ..., {self.looks[-1]}"
        return f"{self.about}, {self.spending}, looks at {looks}"


RULES = (
    *(Rule("failures", looks, spending) for looks in (WIDE, FINE) for spending in ("pocock", "obrien-fleming")),
    Rule("failures", None),
    *(Rule("mean", looks, spending) for looks in (WIDE, FINE) for spending in ("pocock", "obrien-fleming")),
    Rule("mean", None),
    *(Rule("spread", looks, spending) for looks in (WIDE, FINE) for spending in ("pocock", "obrien-fleming")),
)


class Arm(NamedTuple):
    scores: np.ndarray
    failed: np.ndarray
    span: float  # of the range of scores


def read_arms() -> dict[tuple[str, str], Arm]:
    """Return the runs by task and arm, NaN scores as the baseline, as `decide` counts them."""
    frame = load_records(RECORDS).sort_values("seed_init")
    arms = {}
    for (task, arm), runs in frame.groupby(["task", "arm"]):
        scores = runs["score"].to_numpy(float)
        scores = np.where(np.isnan(scores), runs["baseline"].to_numpy(float), scores)
        span = 2.0 if runs["metric"].iloc[0] in ("mcc", "spearman") else 1.0
        arms[str(task), str(arm)] = Arm(scores, runs["failed"].to_numpy(bool), span)
    return arms


def outcomes_of(
    rule: Rule, a: np.ndarray, b: np.ndarray, span: float = 1.0, alpha: float = ALPHA, margin: float | None = None
) -> np.ndarray:
    """Return the outcomes of every look [pairs, looks] at scores, or at which runs failed, [pairs, runs]."""
    looks = rule.looks or (a.shape[1],)
    plan = LookPlan(looks, looks[-1], alpha, rule.spending, margin)
    about: Any = rule.about
    return look_at_pairs(about, plan, rule.looks is None, a, b, span, PERMUTATIONS)


def ends_of(rule: Rule, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the verdict of each pair, 0 if undecided, and the runs of each arm that it took."""
    looks = np.array(rule.looks or range(1, outcomes.shape[1] + 1))
    decided = (outcomes != 0).any(axis=1)
    first = np.where(decided, (outcomes != 0).argmax(axis=1), len(looks) - 1)
    return outcomes[np.arange(len(outcomes)), first], looks[first]


def count_wrong(kind: str, case: str, rule: Rule, wrong: np.ndarray, **more: Any) -> dict[str, Any]:
    k, n = int(wrong.sum()), len(wrong)
    interval = wilson_interval(k, n)
    assert interval.low is not None
    assert interval.high is not None
    return {
        "kind": kind,
        "rule": rule.name,
        "case": case,
        **more,
        "draws": n,
        "wrong": round(k / n, 5),
        "wrong_95": [round(interval.low, 5), round(interval.high, 5)],
        "valid": interval.low <= ALPHA,
    }


def is_different(verdicts: np.ndarray) -> np.ndarray:
    return (verdicts == HIGHER) | (verdicts == LOWER)


def values_of(rule: Rule, arm: Arm) -> np.ndarray:
    return arm.failed if rule.about == "failures" else arm.scores


def takes_long(rule: Rule) -> bool:
    return rule.about != "failures" and rule.looks is not None


def permuted_pairs(pool: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shuffled = rng.permuted(np.tile(pool, (draws, 1)), axis=1)
    return shuffled[:, :SEEDS], shuffled[:, SEEDS : 2 * SEEDS]


def is_null_wrong(rule: Rule, kind: str, one: Arm, other: Arm, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return of which draws the verdict is wrong, where labels are permuted ("null") or arms differ by the "margin"."""
    margin = MARGINS.get(rule.about)
    pool = np.concatenate([values_of(rule, one), values_of(rule, other)])
    a, b = permuted_pairs(pool, draws, rng)
    if kind == "null":
        return is_different(ends_of(rule, outcomes_of(rule, a, b, one.span, ALPHA, margin))[0])
    assert margin is not None
    side = rng.choice([-1, 1], draws)[:, np.newaxis]
    if rule.about == "mean":
        b = b + side * margin
    else:
        a, b = (rng.choice(pool, (draws, SEEDS)) for _ in range(2))
        more = rng.random(b.shape) < margin / (1 - min(pool.mean(), 1 - margin))
        b = b | more
        a, b = np.where(side > 0, a, b), np.where(side > 0, b, a)
    verdicts, _ = ends_of(rule, outcomes_of(rule, a, b, one.span, ALPHA, margin))
    return (verdicts == SAME) | (verdicts == np.where(side[:, 0] > 0, LOWER, HIGHER))


def measure_nulls(arms: dict, rules: Sequence[Rule], draws: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield the share of wrong verdicts where labels are permuted, and where the second arm is moved by the margin."""
    for rule in rules:
        for task, (first, second) in itertools.product(TASKS, PAIRS):
            for kind in ("null", "margin") if rule.about in MARGINS else ("null",):
                wrong = is_null_wrong(rule, kind, arms[task, first], arms[task, second], draws, rng)
                yield count_wrong(kind, f"{task}: {first}, {second}", rule, wrong)


def measure_again(
    arms: dict, rules: Sequence[Rule], rows: Sequence[dict[str, Any]], draws: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Yield the share of wrong verdicts of each case in `rows` whose interval is above alpha, from new draws."""
    for row in rows:
        if row["kind"] not in ("null", "margin", "simulated") or row["valid"]:
            continue
        rule = next(rule for rule in rules if rule.name == row["rule"])
        if row["kind"] == "simulated":
            draw = next(draw for case, _, draw in simulated_arms(draws, rng) if case == row["case"])
            wrong = is_simulated_wrong(rule, draw(), draws)
        else:
            task, first, second = row["case"].replace(":", ",").split(", ")
            wrong = is_null_wrong(rule, row["kind"], arms[task, first], arms[task, second], draws, rng)
        yield count_wrong("again", row["case"], rule, wrong, of=row["kind"])


def simulated_arms(draws: int, rng: np.random.Generator) -> Iterator[tuple[str, tuple[str, ...], Callable]]:
    """Yield cases: their name, what is equal in both arms, and a function that draws scores and failures."""
    baseline, mean, sd = 0.527, 0.70, 0.03
    shape = (draws, SEEDS)

    def normal(ratio: float) -> tuple[np.ndarray, ...]:
        return (
            rng.normal(mean, sd, shape),
            rng.normal(mean, sd * ratio, shape),
            np.zeros(shape, bool),
            np.zeros(shape, bool),
        )

    def failing(share: float) -> tuple[np.ndarray, ...]:
        failed = [rng.random(shape) < share for _ in range(2)]
        return *(np.where(f, baseline, rng.normal(mean, sd, shape)) for f in failed), *failed

    def tied(share: float) -> tuple[np.ndarray, ...]:
        a, b, failed_a, failed_b = failing(share)
        return np.round(50 * a) / 50, np.round(50 * b) / 50, failed_a, failed_b

    def one_fails(share: float) -> tuple[np.ndarray, ...]:
        """The second arm fails, and its other runs score as much more that the means are equal."""
        failed = rng.random(shape) < share
        good = (mean - share * baseline) / (1 - share)
        return rng.normal(mean, sd, shape), np.where(failed, baseline, rng.normal(good, sd, shape)), failed, failed

    for ratio in (1, 2, 4):
        yield f"normal, SD ratio {ratio}", ("mean", *(("spread",) if ratio == 1 else ())), lambda r=ratio: normal(r)
    for share in (0.05, 0.2, 0.5, 0.8, 0.95):
        yield f"{share:.0%} failed or NaN", ("failures", "mean", "spread"), lambda s=share: failing(s)
    yield "ties (scores of 50 rows), 20% failed", ("failures", "mean", "spread"), lambda: tied(0.2)
    for share in (0.1, 0.3):
        yield f"{share:.0%} failed in one arm, equal means", ("mean",), lambda s=share: one_fails(s)


def is_simulated_wrong(rule: Rule, drawn: tuple[np.ndarray, ...], draws: int) -> np.ndarray:
    a, b = (values[:draws] for values in (drawn[2:] if rule.about == "failures" else drawn[:2]))
    return is_different(ends_of(rule, outcomes_of(rule, a, b))[0])


def measure_simulated(rules: Sequence[Rule], draws: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for case, equal, draw in simulated_arms(draws, rng):
        drawn = draw()
        for rule in rules:
            if rule.about in equal:
                kind = "outside" if "one arm" in case else "simulated"
                few = draws // FEWER_DRAWS if takes_long(rule) else draws
                yield count_wrong(kind, case, rule, is_simulated_wrong(rule, drawn, few))


def measure_retries(draws: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    rule = Rule("failures", (5, 10, 15, 20, 25))
    looks, shape = np.array(rule.looks), (draws, 25)

    def look(arms: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the outcomes, and whether there is evidence for each look, of (failed, is evidence) of both arms."""
        in_order = (np.take_along_axis(v, np.argsort(~kept, axis=1, kind="stable"), axis=1) for v, kept in arms)
        n = np.minimum(*(kept.sum(axis=1) for _, kept in arms))[:, np.newaxis]
        return np.where(n >= looks, outcomes_of(rule, *in_order), 0), n >= looks

    for rate, share, likely in itertools.product((0.1, 0.3, 0.5, 0.7), (0.05, 0.2), (False, True)):
        arms = []
        for _ in range(2):
            failed = rng.random(shape) < rate
            if likely:  # twice as likely where the run would fail
                crashed = rng.random(shape) < np.where(failed, 2 * share, max(share * (1 - 2 * rate) / (1 - rate), 0))
            else:
                crashed = rng.random(shape) < share
            arms.append((failed, ~crashed))
        before, seen = look(arms)
        _, ends = ends_of(rule, before)
        passed = np.where((before != 0).any(axis=1), ends, np.where(seen, looks, 0).max(axis=1))[:, np.newaxis]
        again = [(v, kept | (np.cumsum(kept, axis=1) >= passed)) for v, kept in arms]
        after, _ = look(again)
        case = f"{rate:.0%} fail, {share:.0%} crash" + (", twice as many where they would fail" if likely else "")
        yield count_wrong("retried", case, rule, ((before != 0) | (after != 0)).any(axis=1))


def measure_families(arms: dict, draws: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield the share of draws with any wrong claim of three: failures, mean and spread, looked at together."""
    rules = [Rule(about, WIDE) for about in ("failures", "mean", "spread")]
    one, other = arms["rte", "zhang"], arms["rte", "zhang-reinit"]
    failing = arms["rte", "zhang-bertadam"]
    for share, case in itertools.product(("bonferroni", "graph"), ("all three null", "the first true")):
        pools = [np.concatenate([values_of(rule, one), values_of(rule, other)]) for rule in rules]
        pools[0] = np.concatenate([failing.failed, failing.failed])
        pairs = [permuted_pairs(pool, draws, rng) for pool in pools]
        if case == "the first true":
            pairs[0] = (rng.choice(failing.failed, (draws, SEEDS)), rng.choice(one.failed, (draws, SEEDS)))
        levels = [ALPHA / 3, ALPHA / 2, ALPHA] if share == "graph" else [ALPHA / 3]
        tables = [
            {level: outcomes_of(rule, *pair, alpha=level) for level in levels}
            for rule, pair in zip(rules, pairs, strict=True)
        ]
        wrong = np.zeros(draws, bool)
        nulls = range(3) if case == "all three null" else (1, 2)

        for draw in range(draws):
            claims = [partial(_row_at, table, draw) for table in tables]
            verdicts, _ = decide_claims(claims, ALPHA, len(WIDE), [share == "graph"] * 3)
            wrong[draw] = any(verdicts[i] for i in nulls)
        yield count_wrong("family", f"{share}, {case}", rules[0], wrong) | {"rule": "failures, mean and spread"}


def _row_at(table: dict[float, np.ndarray], draw: int, level: float) -> Sequence[int]:
    """Return the outcomes of a draw at the nearest level, which differs by rounding."""
    return table[min(table, key=lambda one: abs(one - level))][draw]


def measure_power(arms: dict, rules: Sequence[Rule], draws: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield power and mean n of each rule on real runs, beside one look at a fixed n."""
    for task, (first, second) in itertools.product(TASKS, PAIRS):
        one, other = arms[task, first], arms[task, second]
        picks = [rng.integers(0, SEEDS, (draws, SEEDS)) for _ in range(2)]
        fixed: dict[str, Callable[[int], float]] = {}
        for rule in rules:
            few = draws // FEWER_DRAWS if takes_long(rule) and rule.about == "spread" else draws
            a, b = (values_of(rule, arm)[pick[:few]] for arm, pick in zip((one, other), picks, strict=True))
            verdicts, n = ends_of(rule, outcomes_of(rule, a, b, one.span))
            fixed_power = fixed.setdefault(rule.about, cache(partial(_fixed_power, rule.about, a, b)))
            power = float(is_different(verdicts).mean())
            needed = seeds_needed(fixed_power, min(power, MOST_POWER), SEEDS) if power >= LEAST_POWER else None
            yield {
                "kind": "power",
                "rule": rule.name,
                "case": f"{task}: {second} against {first}",
                "draws": few,
                "power": round(power, 4),
                "n": round(float(n.mean()), 2),
                "fixed_25": round(fixed_power(25), 4),
                "fixed_50": round(fixed_power(SEEDS), 4),
                "fixed_n": needed,
                "saved_at_equal_power": None if needed is None else round(1 - float(n.mean()) / needed, 3),
            }


def _fixed_power(about: str, a: np.ndarray, b: np.ndarray, size: int) -> float:
    return float((outcomes_of(Rule(about, (size,)), a[:, :size], b[:, :size]) != 0).mean())


# The claims of the figure: about, the arm and the arm that it is compared with.
SHOWN = (
    ("failures", "zhang", "zhang-bertadam"),
    ("mean", "zhang-reinit", "zhang"),
    ("spread", "zhang-reinit", "zhang"),
)
SHOWN_LEAST_POWER = 0.5
ARM_TITLES = {"zhang-bertadam": "BERTAdam", "zhang": "Standard", "zhang-reinit": "Re-init"}
TASK_TITLES = {"rte": "RTE", "mrpc": "MRPC", "stsb": "STS-B", "cola": "CoLA"}


def draw_savings(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG of the runs used and saved by each claim that can be decided, with the fixed n of equal power."""
    from matplotlib.figure import Figure

    from stableft.report.figures.style import BLUE, VERMILLION, Page, figure_to_bytes, house_style

    bars = []
    for about, arm, reference in SHOWN:
        name = Rule(about, FINE).name
        for task in TASKS:
            case = f"{task}: {arm} against {reference}"
            row = next(row for row in rows if (row["kind"], row["rule"], row["case"]) == ("power", name, case))
            if row["power"] >= SHOWN_LEAST_POWER:
                label = f"{TASK_TITLES[task]}: {about}, {ARM_TITLES[arm]} against {ARM_TITLES[reference]}"
                bars.append((label, row))
    page = Page()
    with house_style(page):
        figure = Figure(figsize=(page.width, 0.28 * len(bars) + 1.1), layout="constrained")
        axes = figure.subplots()
        for y, (_, row) in enumerate(bars):
            axes.barh(y, row["n"], color=BLUE, height=0.62, label="runs used" if y == 0 else None)
            axes.barh(
                y, SEEDS - row["n"], left=row["n"], color="#D9D9D9", height=0.62, label="runs saved" if y == 0 else None
            )
            if row["fixed_n"]:
                axes.plot([row["fixed_n"]] * 2, [y - 0.4, y + 0.4], color=VERMILLION, linewidth=2)
            axes.text(SEEDS + 0.7, y, f"{row['n']:.1f}, power {row['power']:.2f}", va="center", fontsize=page.small)
        axes.plot([], [], color=VERMILLION, linewidth=2, label="fixed number of runs with the same power")
        axes.set_yticks(range(len(bars)), [label for label, _ in bars])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        axes.set_xlim(0, SEEDS)
        axes.set_xlabel("runs of each arm (mean), looked at every second run from 4; 50 were made")
        figure.legend(loc="outside upper center", ncols=3)
        return figure_to_bytes(figure, "png")


def summarize(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield for each rule and kind of null the share of wrong verdicts over all cases, and that of the worst case."""
    for kind, rule in dict.fromkeys((row["kind"], row["rule"]) for row in rows if "wrong" in row):
        group = [row for row in rows if (row["kind"], row["rule"]) == (kind, rule)]
        draws = sum(row["draws"] for row in group)
        wrong = sum(round(row["wrong"] * row["draws"]) for row in group)
        interval, worst = wilson_interval(wrong, draws), max(group, key=lambda row: row["wrong"])
        assert interval.low is not None
        assert interval.high is not None
        yield {
            "kind": kind,
            "rule": rule,
            "cases": len(group),
            "draws": draws,
            "wrong": round(wrong / draws, 5),
            "wrong_95": [round(interval.low, 5), round(interval.high, 5)],
            "valid": interval.low <= ALPHA,
            "worst": {name: worst[name] for name in ("case", "wrong", "wrong_95")},
        }


def write_results(
    rows: Sequence[dict[str, Any]], summary: Sequence[dict[str, Any]], draws: int, seed: int, folder: Path
) -> None:
    """Write all numbers and the figure."""
    about = {"draws": draws, "seed": seed, "alpha": ALPHA, "permutations": PERMUTATIONS, "margins": MARGINS}
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    totals = ",\n".join(f"  {json.dumps(row)}" for row in summary)
    text = f'{{"about": {json.dumps(about)},\n"summary": [\n{totals}\n],\n"rows": [\n{lines}\n]}}\n'
    atomic_write(folder / "decide.json", text.encode())
    atomic_write(folder / "decide.png", draw_savings(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", choices=("null", "simulated", "family", "retried", "power"), help="one part; writes no file"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    arms, draws = read_arms(), options.draws
    parts = {
        "null": lambda rng: measure_nulls(arms, RULES, draws, rng),
        "simulated": lambda rng: measure_simulated(RULES, draws, rng),
        "family": lambda rng: measure_families(arms, draws, rng),
        "power": lambda rng: measure_power(arms, RULES, draws, rng),
        "retried": lambda rng: measure_retries(draws, rng),
        "again": lambda rng: measure_again(arms, RULES, rows, AGAIN * draws, rng),
    }
    rows: list[dict[str, Any]] = []
    started = time.process_time()
    for number, (name, measure) in enumerate(parts.items()):
        if options.only in (None, name):
            for row in measure(np.random.default_rng([options.seed, number])):
                rows.append(row)
                print(json.dumps(row), flush=True)
    print(f"{time.process_time() - started:.0f} s of one core")
    summary = list(summarize(rows))
    for row in summary:
        print(json.dumps(row))
    if options.only is None:
        write_results(rows, summary, draws, options.seed, options.out)


if __name__ == "__main__":
    main()
