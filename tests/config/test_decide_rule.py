"""The key `decide`: what it takes, and one sentence for each mistake."""

import pytest

from stableft.config.decide_rule import DecideRule, describe_rule, read_rule
from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError

ARMS = """
task: rte
seeds: 1-10
arms:
  - {recipe: devlin}
  - {recipe: mosbach}
  - {name: third, recipe: devlin, seeds: 1-4, set: {optimizer.lr: 1.0e-5}}
"""
GOOD = "{between: [devlin, mosbach], about: failures, looks: [4, 8, 10], margin: {failures: 10}}"


def load(tmp_path, rule: str, arms: str = ARMS, **options):
    file = tmp_path / "sweep.yaml"
    file.write_text(f"decide: {rule}{arms}")
    return load_sweep(file, LocalPaths(), **options)


def test_a_rule_is_part_of_every_run_and_of_no_id(tmp_path):
    sweep = load(tmp_path, GOOD)
    assert sweep.decide is not None
    assert sweep.decide.about == ["failures"]
    assert all(run.decide == sweep.decide for run in sweep.runs)
    plain = tmp_path / "plain.yaml"
    plain.write_text(ARMS)
    without = load_sweep(plain, LocalPaths())
    assert [run.run_id for run in without.runs] == [run.run_id for run in sweep.runs]
    assert without.decide is None
    assert load(tmp_path, GOOD, arms=ARMS, seeds=None).decide == sweep.decide
    file = tmp_path / "sweep.yaml"
    assert load_sweep(file, LocalPaths(), arms=["devlin"]).decide is None  # one arm is no claim
    assert DecideRule.model_validate_json(sweep.decide.model_dump_json()) == sweep.decide


def test_some_of_the_arms_keep_the_rule_if_all_of_its_own_are_among_them(tmp_path):
    def load_some(rule, arms):
        load(tmp_path, rule)
        return load_sweep(tmp_path / "sweep.yaml", LocalPaths(), arms=arms)

    whole = load(tmp_path, GOOD)
    kept = load_some(GOOD, ["mosbach", "devlin"])
    assert (kept.decide, kept.arms_left_out) == (whole.decide, ())
    assert all(run.decide == whole.decide for run in kept.runs)
    for arms, rule, left_out in (
        (["devlin", "third"], GOOD, ("mosbach",)),
        (["third"], GOOD, ("devlin", "mosbach")),
        (["devlin"], "{about: failures, looks: [4], alpha: 0.2}", ("mosbach", "third")),  # of all arms
    ):
        part = load_some(rule, arms)
        assert (part.decide, part.arms_left_out) == (None, left_out)
        assert not any(run.decide for run in part.runs)
    assert load_some("{about: failures, looks: [4], alpha: 0.2}", ["devlin", "mosbach", "third"]).decide


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{about: failures, looks: [4, 4]}", "decide.looks: 4 must be more than the look before it, 4"),
        ("{about: failures, looks: [10, 5]}", "decide.looks: 5 must be more than the look before it, 10"),
        ("{about: failures, looks: [1, 5]}", "decide.looks: 1 must be at least 2"),
        ("{about: failures, looks: [5, 300]}", "decide.looks: 300 must be at most 200"),
        ("{about: failures, looks: [2.5]}", "decide.looks: 2.5 must be a whole number of runs"),
        ("{about: failures, looks: []}", "decide: looks: the list is empty"),
        ("{about: failures, looks: often}", "decide.looks"),
        ("{about: failures}", "key 'decide.looks' is missing"),
        ("{looks: any}", "key 'decide.about' is missing"),
        ("{about: luck, looks: any}", "decide.about"),
        ("{about: [mean, mean], looks: any}", "decide: about: 'mean' is listed twice"),
        ("{about: spread, looks: any}", "decide: looks: any has no rule for spread"),
        ("{about: failures, looks: any, alpha: 0}", "decide.alpha: 0 must be a number above 0 and below 0.5"),
        ("{about: failures, looks: any, alpha: 1.5}", "decide.alpha: 1.5 must be a number above 0 and below 0.5"),
        ("{about: failures, looks: any, margin: {mean: 1}}", "decide: margin: mean is given, but the claim is about"),
        (
            "{about: failures, looks: any, margin: {failures: 0}}",
            "decide.margin.failures: 0 must be a number of points",
        ),
        ("{about: mean, looks: any, score: {range: [1, 0]}}", "decide.score: range [1, 0] must rise"),
        ("{about: mean, looks: any, score: {scale: 10, range: [0, 1]}}", "decide.score.scale: 10 must be 1 or 100"),
        ("{about: failures, looks: any, between: [devlin, mosbch]}", "decide.between: there is no arm 'mosbch'"),
        ("{about: failures, looks: any, between: [devlin]}", "decide.between"),
        ("{about: failures, looks: [5, 20]}", "decide.looks: the last look is at 20 runs of each arm, but 'devlin'"),
        (
            "{about: failures, looks: [4, 8]}",
            "decide.looks: the last look is at 8 runs of each arm, but 'third' on rte",
        ),
        (
            "{about: spread, looks: [2, 4]}",
            "decide.looks: no look at 4 runs of each arm or fewer can find a difference in the spread at level 0.025, "
            "the share of each of 2 claims: the first that could is at 10 runs of each arm",
        ),
        (
            "{about: mean, looks: [3, 4], between: [devlin, third]}",
            "decide.looks: no look at 4 runs of each arm or fewer can find a difference in the mean at level 0.05: the "
            "first that could is at 6 runs of each arm",
        ),
        (
            "{about: [failures, mean], looks: any}",
            "decide.looks: no look at 4 runs of each arm or fewer can find a difference in the failure rate at level "
            "0.013, the share of each of 4 claims: the first that could is at 6 runs of each arm",
        ),
        ("{about: failures, looks: often}", "decide.looks: 'often' must be a list of numbers of runs of each arm, or"),
        (
            "{about: failure, looks: any}",
            "decide.about: 'failure' must be failures, mean or spread, or a list of these",
        ),
        ("{about: {mean: 1}, looks: any}", "decide.about: {'mean': 1} must be failures"),
        ("{about: failures, look: any}", "key 'decide.look' is not known"),
        ("often", "decide: 'often' must be a mapping such as {between"),
    ],
)
def test_mistakes(tmp_path, rule, words):
    with pytest.raises(UserError) as error:
        load(tmp_path, rule)
    assert f"sweep.yaml:1: {words}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rule_needs_whole_arms(tmp_path):
    with pytest.raises(UserError, match="stop_hopeless: the better half of arm 'devlin' is no sample to decide by"):
        load(tmp_path, GOOD, ARMS + "stop_hopeless: {after: 0.3, lowest: 0.5}\n")
    single = "\ntask: rte\nseeds: 1-10\nrecipe: devlin\n"
    with pytest.raises(UserError, match="a claim needs two arms, here is devlin"):
        load(tmp_path, "{about: failures, looks: any}", single)
    with pytest.raises(UserError, match="--set decide: a sweep's decide cannot be set here"):
        load(tmp_path, GOOD, sets=["decide=null"])


COMMANDS = """
task: rte
seeds: 1-8
score: {pattern: 'a (.+)', metric: accuracy}
baseline: 0.5
arms:
  - {name: mine, command: "run --s {seed}"}
  - {name: theirs, command: "run -x --s {seed}", MORE}
"""


@pytest.mark.parametrize(
    ("rule", "more", "where", "words"),
    [
        ("failures, looks: [4, 8]", "baseline: null", 8, "baseline: is missing, without which it is not known which"),
        ("mean, looks: [8]", "score: {pattern: 'l (.+)', metric: loss, better: lower}", 1, "the scores of arms 'mine'"),
        ("failures, looks: [8]", "score: {pattern: 'l (.+)', metric: f1}", 1, "decide.between: the scores of arms"),
        ("mean, looks: any", "score: {pattern: 'a (.+)', metric: accuracy, range: [-1, 1]}", 1, "decide.between: the"),
        ("mean, looks: [8], score: {better: lower}", "", 1, "higher scores of arm 'mine' are better, but decide.score"),
    ],
)
def test_mistakes_about_commands(tmp_path, rule, more, where, words):
    arms = COMMANDS.replace(", MORE", f", {more}" if more else "")
    with pytest.raises(UserError) as error:
        load(tmp_path, f"{{about: {rule}}}", arms)
    assert f"sweep.yaml:{where}: " in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert load(tmp_path, f"{{about: {rule.partition(', score')[0]}}}", COMMANDS.replace(", MORE", "")).decide


def test_arms_that_report_other_checkpoints_are_not_compared(tmp_path):
    arms = """
task: rte
seeds: 1-8
arms:
  - recipe: zhang-reinit
  - {recipe: zhang, set: {evaluation.report: last}}
"""
    with pytest.raises(UserError, match="different checkpoints or splits, best on test and last on t") as error:
        load(tmp_path, "{about: failures, looks: [8]}", arms)
    assert str(error.value).endswith("; give both the same evaluation.report and data.split")
    same = arms.replace("last", "best")
    assert load(tmp_path, "{about: failures, looks: [8]}", same).decide


def test_rules_of_the_command_line(tmp_path):
    rule = read_rule(["about=[failures, mean]", "looks=[5, 10]", "alpha=0.1", "margin={mean: 1.0}"])
    assert rule == DecideRule(about=["failures", "mean"], looks=[5, 10], alpha=0.1, margin={"mean": 1.0})
    assert read_rule([]) is None
    load(tmp_path, GOOD)
    assert read_rule([str(tmp_path / "sweep.yaml")]) == DecideRule.model_validate(
        {"between": ["devlin", "mosbach"], "about": "failures", "looks": [4, 8, 10], "margin": {"failures": 10}}
    )
    for texts, words in (
        (["about"], "--rule about: must be KEY=VALUE"),
        (["about=mean", "about=spread"], "--rule about: it is given twice"),
        (["about=mean", "looks=[3, 2]"], "--rule: looks: 2 must be more than the look before it, 3"),
    ):
        with pytest.raises(UserError) as error:
            read_rule(texts)
        assert words in str(error.value)
    (tmp_path / "plain.yaml").write_text("task: rte\n")
    with pytest.raises(UserError, match="this file has no key 'decide'"):
        read_rule([str(tmp_path / "plain.yaml")])


def test_a_rule_in_words():
    rule = read_rule(["about=[failures, mean]", "looks=[5, 10]", "margin={mean: 1.0}", "share=graph"])
    assert rule is not None
    assert describe_rule(rule, ["a", "b", "c"]) == (
        "b and c against a: the failure rate and the mean, alpha 0.05, looked at 5, 10 runs of each, error spent as "
        "Pocock; equivalent within 1 point in mean; a decided claim passes its share of alpha on"
    )
