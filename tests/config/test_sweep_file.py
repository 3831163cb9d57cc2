"""What a sweep trains besides its runs, and which of them may end early."""

from pathlib import Path

import pytest

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_arms import START_ARM
from stableft.config.sweep_file import load_sweep, single_run_sweep
from stableft.config.sweep_keys import EarlyStoppingRule
from stableft.errors import UserError

BASE = "task: rte\nmodel: bert-base-uncased\nseeds: 1-3\nrecipe: zhang\n"
FIRST = "{recipe: mosbach, task: mnli, seed: 7}"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def expand(text: str, **choices):
        Path("s.yaml").write_text(text)
        return load_sweep("s.yaml", LocalPaths(), **choices)

    return expand


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        (BASE + f"set: {{start_from: {FIRST}}}\n", []),
        (BASE + f"arms: [{{name: a, set: {{start_from: {FIRST}}}}}]\n", []),
        (BASE + f"grid: {{start_from: [{FIRST}]}}\n", []),
        (BASE, [f"start_from={FIRST}"]),
    ],
)
def test_a_run_to_start_from_is_planned_once(sweep, text, sets):
    expanded = sweep(text, sets=[*sets, "optimizer.lr=1.0"])
    (parent,) = expanded.start_runs
    # It is what `stableft train` would do, and takes nothing of the sweep but the model.
    (alone,) = single_run_sweep("mosbach", "mnli", "bert-base-uncased", 7, LocalPaths()).runs
    assert parent.config == alone.config
    assert (parent.arm, parent.recipe) == (START_ARM, "mosbach")
    assert len(expanded.runs) == 3
    for run in expanded.runs:
        assert run.config.optimizer.lr == 1.0
        assert run.config.start_from.model_dump() == {"run": parent.run_id, "checkpoint": "last"}
    plain = sweep(BASE, sets=["optimizer.lr=1.0"])
    assert not {run.run_id for run in plain.runs} & {run.run_id for run in expanded.runs}
    assert plain.start_runs == ()


def test_a_seed_from_the_command_line_is_that_of_every_run(sweep):
    seeds = [(run.config.seeds.init, run.config.seeds.data) for run in sweep(BASE, sets=["seeds.init=7"]).runs]
    assert seeds == [(7, 1), (7, 2), (7, 3)]


def test_its_own_settings_and_the_model_of_each_run(sweep):
    start = "{recipe: zhang, task: mnli, seed: 0, set: {optimizer.lr: 3.0e-5, optimizer: {eps: 1.0}}}"
    text = BASE.replace("bert-base-uncased", "[bert-base-uncased, bert-large-uncased]")
    expanded = sweep(text + f"set: {{start_from: {start}, optimizer.lr: 9.0}}\n")
    assert [(p.config.model.name, p.config.optimizer.lr, p.config.optimizer.eps) for p in expanded.start_runs] == [
        ("bert-base-uncased", 3e-5, 1.0),
        ("bert-large-uncased", 3e-5, 1.0),
    ]
    assert {p.report for p in expanded.start_runs} == {run.config.start_from.checkpoint for run in expanded.runs}


def test_which_checkpoint_is_reported_goes_with_the_arm_and_changes_no_run(sweep):
    arms = "arms: [{name: a}, {name: b, set: {evaluation: {report: last}}}]\n"
    runs = sweep(BASE + arms).runs
    first, second = runs[:3], runs[3:]
    assert {run.report for run in first} == {"best"}  # zhang's
    assert {run.report for run in second} == {"last"}
    assert [run.config for run in first] == [run.config for run in second]
    assert [run.run_id for run in sweep(BASE).runs] == [run.run_id for run in second]
    assert {run.report for run in sweep(BASE + arms, sets=["evaluation.report=last"]).runs} == {"last"}


@pytest.mark.parametrize(
    "grid", ["evaluation.report: [last, best]", "evaluation: [{report: last}, {batch_size: 8, report: best}]"]
)
def test_a_grid_over_the_reported_checkpoint_is_refused(sweep, grid):
    with pytest.raises(UserError) as caught:
        sweep(BASE + f"grid: {{{grid}}}\n")
    assert str(caught.value) == (
        "s.yaml:5: grid: evaluation.report changes no run, so it cannot be searched; `set` gives it to an arm"
    )


def test_a_finished_run_goes_by_its_id(sweep):
    expanded = sweep(BASE + "set: {start_from: {run: 0123456789abcdef, checkpoint: last}}\n")
    assert expanded.start_runs == ()
    assert expanded.runs[0].config.start_from.run == "0123456789abcdef"


def test_train_starts_from_a_run_too():
    expanded = single_run_sweep("zhang", "rte", "bert-base-uncased", 1, LocalPaths(), [f"start_from={FIRST}"])
    assert [run.config.data.task for run in (*expanded.start_runs, *expanded.runs)] == ["mnli", "rte"]


@pytest.mark.parametrize(
    ("value", "facts"),
    [
        (
            "mnli",
            r"^s.yaml:5: start_from: 'mnli' .*mapping .*\{recipe: .*\} .*\{run: ID, checkpoint: best\}$",
        ),
        (
            "{recipe: zhang, task: mnli}",
            r"^s.yaml:5: key 'start_from.seed' .*missing.*example .*\{recipe: .*, task: .*, seed: 0\}$",
        ),
        (
            "{recipe: zhang, task: mnli, seed: 1-5}",
            "^s.yaml:5: start_from.seed: '1-5' .*one whole number .* 0$",
        ),
        (
            "{recipe: zhang, task: mnli, seed: 1, sets: {}}",
            "^s.yaml:5: key 'start_from.sets' .*not known.*'set'",
        ),
        ("{recipe: zang, task: mnli, seed: 1}", "^s.yaml:5: recipe 'zang' .*not known.*'zhang'"),
        ("{recipe: zhang, task: mnl, seed: 1}", "^s.yaml:5: .*'mnl'.* 'mnli'"),
        ("{recipe: zhang, task: mnli, seed: 1, set: {lr: 1}}", "^s.yaml:5: key 'lr' .*not known"),
        ("{recipe: zhang, task: mnli, seed: 1, set: {model.name: x}}", "model.name cannot"),
        ("{recipe: intermediate, task: rte, seed: 1}", "'intermediate' on 'rte' .*itself"),
        ("{run: abc, checkpoint: best}", "^s.yaml:5: start_from.run"),
        ("{run: 0123456789abcdef}", "start_from.checkpoint' is missing"),
    ],
)
def test_what_nobody_can_start_from(sweep, value, facts):
    with pytest.raises(UserError, match=facts):
        sweep(BASE + f"set: {{start_from: {value}}}\n")


def test_a_rule_about_hopeless_runs(sweep):
    rule = "stop_hopeless: {after: 0.3, lowest: 0.5}\n"
    plain, ruled = sweep(BASE), sweep(BASE + rule)
    assert plain.rules == {}
    assert [run.run_id for run in ruled.runs] == [run.run_id for run in plain.runs]  # no part of what a run is
    assert ruled.rules == dict.fromkeys([run.run_id for run in plain.runs], EarlyStoppingRule(after=0.3, lowest=0.5))
    assert sweep(BASE + rule, sets=["stop_hopeless=null"]).rules == {}
    other = sweep(BASE, sets=["stop_hopeless={after: 0.1, lowest: 0.2}"])
    assert other.rules == dict.fromkeys(ruled.rules, EarlyStoppingRule(after=0.1, lowest=0.2))
    arms = "arms:\n  - {name: a, stop_hopeless: null}\n  - {name: b, set: {optimizer.lr: 1.0}}\n"
    expanded = sweep(BASE + rule + arms)
    assert {run.arm: run.run_id in expanded.rules for run in expanded.runs} == {"a": False, "b": True}


def test_what_is_no_rule_and_two_rules_for_one_run(sweep):
    with pytest.raises(UserError, match=r"^s.yaml:5: stop_hopeless.lowest: 2 .*share between 0 .* 1"):
        sweep(BASE + "stop_hopeless: {after: 0.3, lowest: 2}\n")
    with pytest.raises(UserError, match=r"^--set: stop_hopeless: 0.3 .*mapping .*\{after: 0.3, lowest: 0.5\}'$"):
        sweep(BASE, sets=["stop_hopeless=0.3"])
    arms = "arms:\n  - {name: a}\n  - {name: b, stop_hopeless: {after: 0.3, lowest: 0.5}}\n"
    with pytest.raises(UserError, match=r"arms 'a' and 'b' .*different stop_hopeless"):
        sweep(BASE + arms)


def test_the_packages_own_model_is_known_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("task: toy-rte\nmodel: demo/toy-bert\nseeds: 1\nrecipe: devlin\n")
    sweep = load_sweep("own.yaml", LocalPaths())
    assert sweep.runs[0].config.model == load_sweep("demo", LocalPaths()).runs[0].config.model.model_copy(
        update={"dropout": 0.1, "attention": "sdpa"}
    )
    assert sweep.runs[0].config.model.sha256 in sweep.sources.paths
