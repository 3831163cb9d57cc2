"""`stableft decide` on the 600 real runs, its plans, its figure and its mistakes; and a sweep with a rule."""

import json

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.usefixtures("warm_workers")

RUNS = ["--records", ROOT / "results" / "records" / "zhang-replication.jsonl"]
WIDE = ["--rule", "looks=[5, 10, 15, 20, 25, 35, 50]"]
FAILURES = ["--rule", "about=failures"]


def test_replay_of_real_runs(workplace, stableft):
    code, out, err = stableft("decide", "zhang-bertadam", "zhang", *RUNS, "--task", "rte", *FAILURES, *WIDE)
    assert (code, err) == (0, "")
    lines = " ".join(out.split())
    rule = "zhang against zhang-bertadam: the failure rate, alpha 0.05, looked at"
    assert f"Rule, not stated before all of the runs: {rule}" in lines
    assert "the failure rate is better, decided after 5 runs of each (p = 0.0021 at level 0.05)" in lines
    assert "45 more runs of zhang and 45 of zhang-bertadam came after the verdict and are no part of it" in lines


def test_replay_as_json(workplace, stableft):
    rule = ["--rule", "about=[failures, mean]", "--rule", "margin={mean: 1.0, failures: 10}", *WIDE]
    code, out, err = stableft("decide", "zhang", "zhang-reinit", *RUNS, "--task", "RTE", *rule, "--format", "json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    claims = {claim["about"]: claim for claim in content["claims"]}
    assert claims["failures"]["verdict"] == "equivalent"
    assert (claims["mean"]["verdict"], claims["mean"]["level"]) == ("better", 0.025)
    low, high = claims["mean"]["interval"]
    assert 0 <= low < claims["mean"]["effect"] < high
    assert content["rule"]["margin"] == {"mean": 1.0, "failures": 10.0}


def test_plans(workplace, stableft):
    plan = ["decide", "--plan", "--draws", "200"]
    code, out, err = stableft(*plan, *FAILURES, *WIDE, "--failed", "70,0", "--out", "plan.png")
    assert (code, out, err) == (0, "", "")
    assert (workplace / "plan.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = stableft(*plan, *FAILURES, *WIDE, "--failed", "70,0", "--format", "json")
    (claim,) = json.loads(out)["claims"]
    assert claim["power"] > 0.95
    assert claim["wrong"] < 0.1
    assert claim["runs"] < 15
    code, out, err = stableft(
        *plan, "zhang", "zhang-reinit", *RUNS, "--task", "rte", "--rule", "about=mean", "--rule", "looks=[10, 20]"
    )
    assert (code, err) == (0, "")
    assert "200 draws of these runs" in out
    code, out, err = stableft(
        *plan, "--rule", "about=mean", "--rule", "looks=any", "--means", "20,80", "--sds", "5,5", "--seeds", "20"
    )
    assert (code, err) == (0, "")


def test_plans_count_every_claim_and_the_error_at_the_margin(workplace, stableft):
    plan = ["decide", "--plan", "--draws", "200", "--format", "json"]
    three = ["a", "b", "c", *FAILURES, "--rule", "looks=[5, 9]"]
    _, alone, _ = stableft(*plan, "a", "b", *three[3:], "--failed", "80,10", "--rule", "alpha=0.025")
    code, out, err = stableft(*plan, *three, "--failed", "80,10")
    assert (code, err) == (0, "")
    assert json.loads(out)["claims"] == json.loads(alone)["claims"]
    code, out, _ = stableft(*plan[:-2], *three, "--failed", "80,10")
    assert "2 claims share alpha 0.05: each is tested at 0.025." in " ".join(out.split())
    arms = ["zhang", "zhang-reinit", *RUNS, *FAILURES, "--rule", "looks=[20]", "--rule", "margin={failures: 10}"]
    code, out, err = stableft(*plan, *arms)
    assert (code, err) == (0, "")
    claims = json.loads(out)["claims"]
    assert [claim["claim"] for claim in claims] == [
        f"failure rate, {task}" for task in ("CoLA", "MRPC", "RTE", "STS-B")
    ]
    for claim in claims:
        assert claim["wrong_same"] <= 0.05
    moved = ["--rule", "about=mean", "--rule", "looks=[40]", "--rule", "margin={mean: 2}"]
    code, out, err = stableft(*plan, *moved, "--means", "70,70", "--sds", "3,3")
    (claim,) = json.loads(out)["claims"]
    assert claim["equivalent"] > 0.5
    assert 0.01 < claim["wrong_same"] < 0.12  # at the margin, as often as alpha allows
    assert claim["wrong_same_interval"][0] < 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "decide: name two arms or more, here is a; the first is the reference"),
        (["zhang", "zhng", *RUNS, *FAILURES, *WIDE], "decide: the records have no arm 'zhng'; did you mean 'zhang'?"),
        (["zhang", "zhang-reinit", *RUNS, "--task", "rte"], "decide: these records keep no common rule; give one"),
        (["zhang", "zhang-reinit", *RUNS, *FAILURES, *WIDE], "select one with --task"),
        (["a", "b", *FAILURES, "--rule", "looks=[4, 2]"], "--rule: looks: 2 must be more than the look before it, 4"),
        (["a", "b", *FAILURES, *WIDE, "--failed", "1,2"], "decide: --failed is a guess for --plan"),
        (["--plan"], "decide --plan: needs a rule"),
        (
            ["--plan", "--rule", "about=spread", "--rule", "looks=[4, 8]", "--means", "1,2", "--sds", "1,2"],
            "decide: looks: no look at 8 runs of each arm or fewer can find a difference in the spread",
        ),
        (
            ["zhang", "zhang-reinit", *RUNS, "--task", "rte", "--rule", "about=mean", "--rule", "looks=[3, 4]"],
            "in the mean at level 0.05: the first that could is at 6 runs of each arm",
        ),
        (["--plan", *FAILURES, *WIDE, "--means", "1,2"], "a claim about failures needs --failed A,B, or records"),
        (["--plan", *FAILURES, *WIDE, "--failed", "1"], "--failed 1: must be two numbers, A,B"),
        (["--plan", *FAILURES, *WIDE, "--failed", "1,200"], "--failed 1,200: both numbers must be between 0 and 100"),
        (["--plan", *RUNS, *FAILURES, *WIDE, "--failed", "1,2"], "runs are drawn from --records or from guesses"),
    ],
)
def test_mistakes(workplace, stableft, arguments, words):
    code, out, err = stableft("decide", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


SWEEP = """
task:
  name: smoke
  train: {folder}/train.jsonl
  validation: {folder}/validation.jsonl
  text: text
  label: label
  labels: [bad, good]
  metrics: [accuracy]
model: {folder}/tiny-bert
seeds: 1-8
set: {{data.max_length: 32, precision: fp32}}
decide: {{between: [still, learning], about: failures, looks: [5, 8]}}
arms:
  - name: still
    recipe: devlin
    set: {{optimizer.lr: 1.0e-9, schedule.length: {{epochs: 1}}}}
  - name: learning
    recipe: mosbach
    set: {{optimizer.lr: 1.0e-3}}
"""


@pytest.mark.nightly
def test_a_real_sweep_ends_early_and_reports_what_came_after(workplace, stableft):
    (workplace / "claim.yaml").write_text(SWEEP.format(folder=ROOT / "configs" / "smoke"))
    sweep = ["sweep", "claim.yaml", "--devices", "cpu"]
    code, out, _ = stableft(*sweep)
    assert code == 0
    assert "6 saved: no claim needs them" in out
    assert "the failure rate is better, decided after 5 runs of each" in " ".join(out.split())
    code, out, _ = stableft(*sweep)  # the state is records and rule
    assert "6 saved: no claim needs them" in out
    code, out, _ = stableft("sweep", "claim.yaml", "--devices", "cpu", "--arms", "learning")
    assert code == 0  # one arm is no claim, so all its seeds are trained
    code, out, err = stableft("report", "claim.yaml")
    assert (code, err) == (0, "")
    assert "3 more runs of learning came after the verdict and are no part of it" in " ".join(out.split())
    stableft("export", "claim.yaml", "--out", "claim.jsonl")
    code, out, err = stableft("decide", "still", "learning", "--records", "claim.jsonl")
    assert (code, err) == (0, "")
    assert "decided after 5 runs of each" in " ".join(out.split())
    code, out, err = stableft("report", "claim.jsonl")
    assert "Rule, not stated before all of the runs: learning against still" in out  # those with --arms lack it
