"""How often a table concludes anything from arms that do not differ: the false positives of the shipped tests.

    scripts/bench false_positives [--sweeps 10000] [--seed 0] [--out results/benchmarks/false-positives.jsonl]

All arms of a made-up sweep draw their scores from one distribution: normal (mean 70 %, SD 3 points), or with a share of
failed runs that all score the baseline (52.7 %). Every arm is tested against the first as in a report: failures by
Boschloo's test, spread by Levene's test centred at the median, means by Welch's, all two-sided, with Holm's adjustment
over all tests of the table. `family` is the share of sweeps with any adjusted p below .05, `family_95` its 95 % Wilson
interval; the shares under `single` are those of one test without adjustment.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from stableft.stats import boschloo, holm, wilson_interval
from stableft.stats.power import welch_p_values
from stableft.stats.tests import levene_statistics

ALPHA = 0.05
DESIGNS = ((4, 20), (2, 10))  # arms, seeds
FAILED_SHARES = (0.0, 0.2, 0.5)
BASELINE, MEAN, SD = 0.527, 0.7, 0.03
TESTS = ("boschloo", "levene_median", "welch")


def draw_sweeps(rng: np.random.Generator, shape: tuple[int, int, int], failed_share: float) -> tuple[np.ndarray, ...]:
    """Return scores [sweeps, arms, seeds] of arms that do not differ, and which runs failed."""
    failed = rng.random(shape) < failed_share
    return np.where(failed, BASELINE, rng.normal(MEAN, SD, shape)), failed


def test_arms(scores: np.ndarray, failed: np.ndarray) -> np.ndarray:
    """Return p-values [sweeps, arms - 1, tests] of every arm against the first, NaN where there is no test."""
    n = scores.shape[-1]
    first, others = np.broadcast_arrays(scores[:, :1], scores[:, 1:])
    statistics = levene_statistics(first, others)
    spread = np.where(np.isnan(statistics), np.nan, special.fdtrc(1, 2 * n - 2, np.nan_to_num(statistics)))
    counts = failed.sum(axis=-1)
    failures = [[_failure_p(k, row[0], n) for k in row[1:]] for row in counts.tolist()]
    return np.stack([np.array(failures), spread, welch_p_values(first, others)], axis=-1)


def _failure_p(failed_a: int, failed_b: int, n: int) -> float:
    less, more = sorted((failed_a, failed_b))  # half as many tests, since the order does not matter
    p = boschloo(less, n, more, n).p
    return np.nan if p is None else p


def simulate(arms: int, seeds: int, failed_share: float, sweeps: int, seed: int) -> dict[str, Any]:
    """Return the shares of false positives of one design."""
    rng = np.random.default_rng([seed, arms, seeds, round(100 * failed_share)])
    ps = test_arms(*draw_sweeps(rng, (sweeps, arms, seeds), failed_share))
    tables = [holm([None if np.isnan(p) else p for p in table]) for table in ps.reshape(sweeps, -1).tolist()]
    rejected = sum(any(p is not None and p < ALPHA for p in table) for table in tables)
    interval = wilson_interval(rejected, sweeps)
    return {
        "arms": arms,
        "seeds": seeds,
        "failed_share": failed_share,
        "sweeps": sweeps,
        "seed": seed,
        "family": rejected / sweeps,
        "family_95": [round(bound, 4) for bound in (interval.low, interval.high) if bound is not None],
        "single": {name: round(float((ps[..., i] < ALPHA).mean()), 4) for i, name in enumerate(TESTS)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file to write the lines to that are printed")
    options = parser.parse_args()
    lines = []
    for arms, seeds in DESIGNS:
        for share in FAILED_SHARES:
            lines.append(json.dumps(simulate(arms, seeds, share, options.sweeps, options.seed)))
            print(lines[-1], flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
