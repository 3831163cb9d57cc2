"""Values as people write them: seeds, percentages, missing values."""

import math
import re

import pytest
from support.imports import scores

from stableft.records.import_values import find_seed


@pytest.mark.parametrize(
    "text",
    ["7", "7.0", "Run 7", "run7", "seed_7", "SEED7", "seed-7", "seed=7", "seed: 7", "s7", "S_7", "r7", "trial 7", "#7"],
)
def test_a_seed_may_have_the_word_before_it(text):
    assert find_seed(text) == (None if text == "#7" else 7)


@pytest.mark.parametrize("text", ["", "seed", "x7", "7a", "7.5", "-7", "seed 7 of 9", "bert-7", "٧", str(2**63)])
def test_what_is_more_or_less_than_a_seed_is_none(text):
    assert find_seed(text) is None


def test_seeds_are_read_as_people_write_them(take):
    records, _ = take("seed,arm,acc\nRun 0,a,0.6\nseed_1,a,0.6\nSEED2,a,0.6\ns3,a,0.6\nseed=4,a,0.6\n5.0,a,0.6\n")
    assert [run.seed for run in records] == [0, 1, 2, 3, 4, 5]


def test_two_spellings_of_a_seed_are_one_run(refused):
    assert re.search("a rte seed 1 has two scores, on lines 2 and 3", refused("seed,arm,acc\nseed_1,a,0.6\n1,a,0.7\n"))


def test_a_pattern_finds_the_seed_at_the_end_of_a_name_and_cuts_it_off_the_arm(take):
    text = "name,acc\nbert-rte-seed1,0.6\nbert-rte-seed2,0.7\nelectra-seed1,0.8\n"
    records, _ = take(text, seed="name", arm="name", seed_pattern=r"seed(\d+)$")
    assert [(run.arm, run.seed) for run in records] == [("bert-rte", 1), ("bert-rte", 2), ("electra", 1)]
    records, _ = take(text, seed="name", arm="=x", seed_pattern=r"-(seed\d)$", where=("name!=electra-seed1",))
    assert [(run.arm, run.seed) for run in records] == [("x", 1), ("x", 2)]


@pytest.mark.parametrize(
    ("pattern", "facts"),
    [
        (r"seed\d", r"--seed-pattern seed\\d: must have one group in parentheses"),
        (r"(s)(\d)", "must have one group"),
        ("(", r"--seed-pattern \(: must be a regular expression: missing \)"),
        (r"x(\d)", r"scores\.csv:2 column 'seed': --seed-pattern x\(\\d\) does not match 's1'"),
        (r"(s)", r"scores\.csv:2 column 'seed': 's' must be a whole number from 0, alone or as in seed_1$"),
    ],
)
def test_a_pattern_without_a_seed_is_refused(refused, pattern, facts):
    assert re.search(facts, refused("seed,arm,acc\ns1,a,0.6\n", seed_pattern=pattern))


@pytest.mark.parametrize("column", ["split", "checkpoint", "model", "config"])
def test_columns_of_a_runs_fields_are_no_settings(take, column):
    text = f"arm,{column},acc\na,1,0.6\na,2,0.7\n"
    assert len(take(text, seed=column)[0]) == 2
    text = f"arm,seed,{column},acc\na,1,0.5,0.6\na,2,0.6,0.7\n"
    assert len(take(text, val=column)[0]) == 2
    assert len(take(text, score=column)[0]) == 2
    text = f"arm,seed,{column},acc\na,1,10,0.6\na,2,20,0.7\n"
    assert [run.steps for run in take(text, step=column)[0]] == [10, 20]


def test_a_percent_sign_says_the_scale(take, refused):
    mixed = "seed,arm,acc\n1,a,52.52%\n2,a,71.94\n"
    assert re.search(
        r"some scores have a percent sign \(line 2 has 52\.52%\) and some have none \(line 3 has 71\.94\); --scale",
        refused(mixed),
    )
    percent = take("seed,arm,acc\n1,a,52.52%\n2,a,71.94 %\n3,a,0.5%\n")[0]
    assert scores(percent) == [0.5252, 0.7194, 0.005]
    assert [run.failed for run in percent] == [True, False, True]
    assert scores(take(mixed, scale="percent")[0]) == [0.5252, 0.7194]


def test_a_percent_sign_is_none_of_a_fraction(refused):
    assert "a fraction has no percent sign (--scale fraction), line 2 has 52%" in refused(
        "seed,arm,acc\n1,a,52%\n", scale="fraction"
    )
    assert "a score must be a fraction or a percentage, line 2 has 152%" in refused("seed,arm,acc\n1,a,152%\n")


@pytest.mark.parametrize("word", ["None", "null", "N/A", "n/a", "NA", "<NA>"])
def test_a_missing_value_is_nan_and_noted(take, word):
    records, said = take(f"seed,arm,acc,val\n1,a,0.6,{word}\n2,a,{word},0.5\n", val="val")
    assert math.isnan(scores(records)[1])
    assert [run.failed for run in records] == [False, True]
    assert (
        f"acc has a missing value, read as NaN, which counts as failed (--where 'acc!={word}' leaves such rows out): "
        f"line 3 has {word}"
    ) in said
    assert f"val has a missing value, read as NaN: line 2 has {word}" in said
    records, said = take(f"seed,arm,acc\n1,a,0.6\n2,a,{word}\n", where=(f"acc!={word}",))
    assert [run.seed for run in records] == [1]
    assert "missing value" not in said


def test_nan_is_no_missing_value(take):
    assert "missing value" not in take("seed,arm,acc\n1,a,0.6\n2,a,nan\n")[1]


def test_a_column_of_missing_values_has_no_scores(refused):
    assert "--val val: the column is empty" in refused("seed,arm,acc,val\n1,a,0.6,None\n", val="val")
    assert "--score acc: the column is empty" in refused("seed,arm,acc\n1,a,N/A\n")
