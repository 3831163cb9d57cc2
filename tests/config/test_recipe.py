"""From a sweep file to its runs: what wins over what, what is looked up where, which mistakes are named how."""

import re
from pathlib import Path

import pytest

from stableft.config.planned_run import LocalPaths
from stableft.config.recipe import describe_deviations, shipped_recipes
from stableft.config.settings import describe_value
from stableft.config.sweep_file import Sweep, load_sweep, single_run_sweep
from stableft.errors import UserError

BASE = "task: rte\nmodel: bert-large-uncased\nseeds: 1-2\nrecipe: mosbach\n"
OWNED = r"s\.yaml:{}: {} .*sweep key '{}'"
TOP_KEYS = (
    "recipe, task, model, set, grid, seeds, stop_hopeless, probes, command, score, baseline, timeout, inputs, "
    "decide, arms"
)
NEAREST_LR = r".* 'optimizer\.lr'\?$"
AS_NUMBER = r".*without the quotes .*number$"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Returns a function that writes a sweep file and expands it, from an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def expand(text: str, **choices) -> Sweep:
        (tmp_path / "s.yaml").write_text(text)
        return load_sweep("s.yaml", LocalPaths(), **choices)

    return expand


def rates(sweep: Sweep) -> list[float]:
    return [run.config.optimizer.lr for run in sweep.runs]


def test_what_is_stated_later_wins(sweep):
    # recipe < top set < arm set < grid < seed < --set
    arm = "arms: [{name: a%s}]\n"
    in_arm, grid = ", set: {optimizer.lr: 2.0}", ", grid: {optimizer.lr: [3.0]}"
    top = BASE + "set: {optimizer.lr: 1.0}\n"
    assert rates(sweep(BASE, seeds="1")) == [2e-5]
    assert rates(sweep(top, seeds="1")) == [1.0]
    assert rates(sweep(top + arm % in_arm, seeds="1")) == [2.0]
    assert rates(sweep(top + arm % (in_arm + grid), seeds="1")) == [3.0]
    assert rates(sweep(top + arm % (in_arm + grid), seeds="1", sets=["optimizer.lr=4.0"])) == [4.0]
    seeds = {run.config.seeds.init for run in sweep(BASE, sets=["seeds.init=7"]).runs}
    assert seeds == {7}


def test_a_set_adds_to_another_and_to_the_recipe(sweep):
    text = BASE + "set: {optimizer.lr: 1.0}\narms: [{name: a, set: {optimizer: {eps: 2.0}}}]\n"
    optimizer = sweep(text).runs[0].config.optimizer
    assert (optimizer.lr, optimizer.eps, optimizer.weight_decay) == (1.0, 2.0, 0.01)


def test_keys_at_the_top_are_defaults_of_every_arm(sweep):
    text = BASE + "arms:\n  - {recipe: devlin}\n  - {name: other, seeds: 9, task: cola}\n"
    runs = sweep(text).runs
    assert [(run.arm, run.recipe, run.config.data.task, run.config.seeds.init) for run in runs] == [
        ("devlin", "devlin", "rte", 1),
        ("devlin", "devlin", "rte", 2),
        ("other", "mosbach", "cola", 9),
    ]


def test_a_grid_is_every_combination_with_its_values_in_the_name(sweep):
    grid = "grid:\n  optimizer.lr: [1.0e-5, 2.0e-5]\n  optimizer.bias_correction: [true, false]\n"
    runs = sweep(BASE + grid + "  schedule.length: [{epochs: 3}]\n", seeds="1").runs
    assert [run.arm for run in runs] == [
        "mosbach lr=1e-05, bias_correction=true, length=3 epochs",
        "mosbach lr=1e-05, bias_correction=false, length=3 epochs",
        "mosbach lr=2e-05, bias_correction=true, length=3 epochs",
        "mosbach lr=2e-05, bias_correction=false, length=3 epochs",
    ]
    assert len({run.run_id for run in runs}) == 4
    assert {run.recipe for run in runs} == {"mosbach"}


def test_numbers_in_a_name_are_not_words(sweep):
    runs = sweep(BASE + "grid: {optimizer.weight_decay: [0.0, 1.0], reinit.blocks: [0, 1]}\n", seeds="1").runs
    assert [run.arm.removeprefix("mosbach ") for run in runs][:2] == [
        "weight_decay=0.0, blocks=0",
        "weight_decay=0.0, blocks=1",
    ]
    assert [
        describe_value(value)
        for value in (True, False, None, 1, 0, [1, 2], {"epochs": 3, "steps": None}, {"epochs": 1})
    ] == [
        "true",
        "false",
        "none",
        "1",
        "0",
        "[1, 2]",
        "3 epochs",
        "1 epoch",
    ]


def test_a_section_in_a_grid_changes_only_the_keys_it_names(sweep):
    grid = "grid: {optimizer: [{lr: 1.0, eps: 1.0e-3}, {lr: 2.0}], reinit: [{blocks: 1}]}\n"
    runs = sweep(BASE + grid, seeds="1", sets=["optimizer.clip_norm=5.0"]).runs
    assert [(r.config.optimizer.lr, r.config.optimizer.eps) for r in runs] == [(1.0, 1e-3), (2.0, 1e-6)]
    assert {run.config.optimizer.clip_norm for run in runs} == {5.0}


def test_lists_of_tasks_and_models_are_arms(sweep):
    text = "task: [rte, cola]\nmodel: [bert-base-uncased, bert-large-uncased]\nseeds: 1\nrecipe: mosbach\n"
    found = [(run.arm, run.config.data.task, run.config.model.name) for run in sweep(text).runs]
    assert found == [
        (f"mosbach ({model})", task, model)
        for task in ("rte", "cola")
        for model in ("bert-base-uncased", "bert-large-uncased")
    ]
    chosen = sweep(text, sets=["task=mrpc", "model=bert-base-cased@v2"]).runs
    assert [(r.config.data.task, r.config.model.name, r.config.model.revision) for r in chosen] == [
        ("mrpc", "bert-base-cased", "v2")
    ]


def test_without_a_model_the_recipes_own_is_used(sweep):
    assert sweep("task: rte\nseeds: 1\nrecipe: mosbach\n").runs[0].config.model.name == "bert-large-uncased"


def test_two_sweeps_that_ask_for_the_same_run_share_its_id(sweep):
    one = sweep(BASE)
    two = sweep(BASE + "arms: [{name: another name, set: {schedule.length: {epochs: 20}}}]\n")
    assert [run.run_id for run in one.runs] == [run.run_id for run in two.runs]
    assert one.runs[0].arm != two.runs[0].arm


def test_arms_and_seeds_select(sweep):
    text = BASE + "arms: [{name: a}, {name: b, set: {optimizer.lr: 1.0}}, {name: c, set: {optimizer.lr: 2.0}}]\n"
    assert {run.arm for run in sweep(text, arms=["c", "a"]).runs} == {"a", "c"}
    assert [run.config.seeds.init for run in sweep(text, arms=["b"], seeds="8,9").runs] == [8, 9]
    with pytest.raises(UserError, match=r"^--arms: s\.yaml .*no arm 'd', it has "):
        sweep(text, arms=["d"])


def test_seeds_of_initialisation_and_data_apart(sweep):
    runs = sweep(BASE.replace("1-2", "{init: 0-1, data: 5-6, crossed: true}")).runs
    assert [(r.config.seeds.init, r.config.seeds.data) for r in runs] == [(0, 5), (0, 6), (1, 5), (1, 6)]


def test_recipes_are_looked_up_beside_the_sweep_then_here_then_in_the_package(tmp_path, sweep, monkeypatch):
    recipe = shipped_recipes()["mosbach"].read_text()

    def put(folder: Path, rate: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mosbach.yaml").write_text(recipe.replace("lr: 2.0e-5", f"lr: {rate}"))

    text = BASE.replace("1-2", "1")
    assert rates(sweep(text)) == [2e-5]
    put(tmp_path / "configs" / "recipes", "1.0")
    assert rates(sweep(text)) == [1.0]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "s.yaml").write_text(text)
    put(tmp_path / "sub" / "recipes", "2.0")
    assert rates(load_sweep("sub/s.yaml", LocalPaths())) == [2.0]
    put(tmp_path / "mine", "3.0")
    assert rates(sweep(text.replace("recipe: mosbach", "recipe: mine/mosbach.yaml"))) == [3.0]


def test_a_shipped_sweep_goes_by_name(sweep):
    names = {load_sweep(name, LocalPaths(), seeds="1").name for name in ("rte", "rte.yaml", "configs/rte.yaml")}
    assert names == {"rte"}
    assert load_sweep("mosbach/table1", LocalPaths(), seeds="1").name == "mosbach/table1"
    with pytest.raises(UserError, match=r"did you mean 'configs/rte\.yaml'\?$"):
        load_sweep("configs/rt.yaml", LocalPaths())


def test_a_local_model_and_own_data_are_in_the_sources(sweep, tmp_path, tiny_model_folder):
    (tmp_path / "d.csv").write_text("s,y\na,no\n")
    own = "{name: mine, train: d.csv, validation: d.csv, text: s, label: y, labels: ['no', 'yes'], metric: accuracy}"
    planned = sweep(f"task: {own}\nmodel: {tiny_model_folder}\nseeds: 1\nrecipe: mosbach\n")
    config = planned.runs[0].config
    assert config.model.name == tiny_model_folder.name
    assert config.model.revision is None
    assert config.model.sha256 is not None
    assert config.data.own is not None
    assert planned.sources.paths[config.model.sha256] == tiny_model_folder
    assert planned.sources.paths[config.data.own.train] == tmp_path / "d.csv"
    assert str(tmp_path) not in config.model_dump_json()


def test_a_single_run(sweep):
    planned = single_run_sweep("devlin", "cola", None, 7, LocalPaths(), ["optimizer.lr=1.0e-5"])
    assert [(r.arm, r.config.data.task, r.config.seeds.data, r.config.optimizer.lr) for r in planned.runs] == [
        ("devlin", "cola", 7, 1e-5)
    ]
    same = sweep("task: cola\nseeds: 7\nrecipe: devlin\nset: {optimizer.lr: 1.0e-5}\n")
    assert planned.runs[0].run_id == same.runs[0].run_id


def test_deviations_from_a_recipe_are_told_in_words(sweep):
    run = sweep(BASE, seeds="1").runs[0]
    assert describe_deviations(run.config, "mosbach") == []
    assert describe_deviations(run.config, "a recipe of one's own") == []
    text = BASE + "set: {optimizer.lr: 1.0e-5, schedule.length: {epochs: 3}, reinit.pooler: true}\n"
    assert describe_deviations(sweep(text, sets=["model=bert-base-uncased"]).runs[0].config, "mosbach") == [
        "model bert-base-uncased, not bert-large-uncased",
        "reinit.pooler true, not none",
        "optimizer.lr 1e-05, not 2e-05",
        "schedule.length 3 epochs, not 20 epochs",
    ]


def test_what_a_recipe_has_by_task_is_no_deviation(sweep):
    text = "task: [rte, sst2]\nseeds: 1\nrecipe: zhang-xlnet\n"
    assert [describe_deviations(run.config, "zhang-xlnet") for run in sweep(text).runs] == [[], []]
    faster = sweep(text + "set: {optimizer.lr: 2.0e-5}\n").runs  # sst2 has that in the recipe
    assert [describe_deviations(run.config, "zhang-xlnet") for run in faster] == [["optimizer.lr 2e-05, not 3e-05"], []]


def test_another_start_is_a_deviation(sweep):
    text = "task: rte\nseeds: 1\nrecipe: intermediate\n"
    planned = sweep(text)
    run = planned.runs[0].config
    assert run.start_from is not None
    assert planned.start_runs[0].run_id == run.start_from.run
    assert describe_deviations(run, "intermediate") == []
    small = sweep(text, sets=["model=bert-base-uncased"]).runs[0].config  # so is the run that it starts from
    assert describe_deviations(small, "intermediate") == ["model bert-base-uncased, not bert-large-uncased"]
    assert describe_deviations(sweep(text, sets=["start_from=null"]).runs[0].config, "intermediate") == [
        f"start_from none, not {run.start_from.run} run, best checkpoint"
    ]
    other = sweep(text + "set: {start_from: {recipe: zhang, task: qnli, seed: 0}}\n").runs[0].config
    assert len(describe_deviations(other, "intermediate")) == 1
    assert describe_deviations(run, "zhang") == [f"start_from {run.start_from.run} run, best checkpoint, not none"]


@pytest.fixture
def by_task(sweep, tmp_path):
    """Returns a function that expands a sweep of RTE and CoLA with a recipe that has this `by_task`."""
    (tmp_path / "recipes").mkdir()
    recipe = shipped_recipes()["mosbach"].read_text()

    def expand(section: str, more: str = "", **choices) -> Sweep:
        (tmp_path / "recipes" / "mine.yaml").write_text(f"{recipe}by_task:{section}\n")
        return sweep(f"task: [rte, cola]\nseeds: 1\nrecipe: mine\n{more}", **choices)

    return expand


def test_a_tasks_own_settings_win_over_the_recipes_and_lose_against_the_sweeps(by_task):
    own = " {cola: {optimizer.lr: 1.0, optimizer: {eps: 0.5}}}"
    runs = by_task(own).runs
    assert [(run.config.optimizer.lr, run.config.optimizer.eps) for run in runs] == [(2e-5, 1e-6), (1.0, 0.5)]
    assert {run.recipe for run in runs} == {"mine"}
    assert rates(by_task(own, "set: {optimizer.lr: 2.0}\n")) == [2.0, 2.0]
    assert rates(by_task(own, "arms: [{set: {optimizer.lr: 3.0}}]\n")) == [3.0, 3.0]
    assert rates(by_task(own, "grid: {optimizer.lr: [4.0]}\n")) == [4.0, 4.0]
    assert rates(by_task(own, sets=["optimizer.lr=5.0"])) == [5.0, 5.0]
    assert rates(by_task(own, sets=["task=cola"])) == [1.0]


@pytest.mark.parametrize(
    ("section", "facts"),
    [
        (" 3", "{}: by_task maps tasks .*settings; 3 .*not"),
        ("\n  colla: {optimizer.lr: 1.0}", "{}: by_task: task 'colla' .*not known.*'cola'"),
        ("\n  cola: 3", "{}: settings .*keys .*values, not 3$"),
        ("\n  cola: {optimizer.lrs: 1.0}", r"{}: key 'optimizer\.lrs' .*not known" + NEAREST_LR),
        ("\n  cola: {optimizer.lr: '1e-5'}", r"{}: optimizer\.lr: '1e-5' .*text" + AS_NUMBER),
        ("\n  cola: {model.name: x}", r"{}: model\.name cannot .*set .*sweep key 'model'"),
        ("\n  cola: {seeds: {init: 1}}", r"{}: seeds\.init cannot .*set .*sweep key 'seeds'"),
    ],
)
def test_mistakes_in_what_a_recipe_has_by_task(by_task, section, facts):
    with pytest.raises(UserError) as caught:
        by_task(section)
    line = len(shipped_recipes()["mosbach"].read_text().splitlines()) + 1 + section.count("\n")
    assert re.match(facts.format(f"recipes/mine.yaml:{line}"), str(caught.value))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", r"s\.yaml: .*mapping .*recipe .*arms.* task .*seeds"),
        ("- rte", r"s\.yaml:1: .*mapping .*recipe .*arms.* task .*seeds"),
        (BASE + "sed: 1", r"s\.yaml:5: key 'sed' .*not known.*'seeds'"),
        (BASE + "name: x", rf"s\.yaml:5: key 'name' .*known.*{TOP_KEYS}$"),
        (BASE + "task: cola", r"s\.yaml:5: key 'task' .*set .*line 1$"),
        (BASE + "arms: []", r"s\.yaml:5: arms: \[\] .*list .*least one arm"),
        (BASE + "arms: [devlin]", r"s\.yaml:5: arms\.0: 'devlin' .*mapping .*{recipe: devlin}"),
        (BASE + "arms:\n  - {nam: x}", r"s\.yaml:6: key 'nam' .*not known.*'name'"),
        (BASE + "arms: [{name: 3}]", r"s\.yaml:5: name: 3 .*text; quotes"),
        (
            BASE + "arms:\n- {name: a}\n- {name: a}",
            r"s\.yaml:7: arm 'a' .*twice .*'rte'.*rename",
        ),
        ("task: rte\nseeds: 1", r"s\.yaml:1: key 'recipe' .*missing"),
        ("task: rte\nseeds: 1\nrecipe: 3", r"s\.yaml:3: recipe: 3 .*name .*one recipe"),
        ("task: rte\nseeds: 1\nrecipe: mosbch", r"s\.yaml:3: recipe 'mosbch' .*not known.*'mosbach'"),
        ("seeds: 1\nrecipe: mosbach", r"s\.yaml:1: key 'task' .*missing"),
        ("task: rte\nrecipe: mosbach", r"s\.yaml:1: key 'seeds' .*missing"),
        (BASE.replace("rte", "[]"), r"s\.yaml:1: task: .*list .*empty"),
        (BASE.replace("rte", "[rte, rte]"), r"s\.yaml:1: task: rte .*listed twice"),
        (BASE.replace("bert-large-uncased", "./nope"), r"s\.yaml:2: model: '\./nope' .*not .*folder"),
        (BASE.replace("1-2", "2-1"), r"s\.yaml:3: seeds: '2-1' runs backwards"),
        (BASE + "set: 3", r"s\.yaml:5: set: 3 .*mapping .*settings .*values"),
        (BASE + "set: {data.task: cola}", OWNED.format(5, "data.task", "task")),
        (BASE + "set:\n  model: {name: x}", OWNED.format(6, "model.name", "model")),
        (BASE + "grid: {seeds.init: [1]}", OWNED.format(5, "seeds.init", "seeds")),
        (BASE + "grid: [1]", r"s\.yaml:5: grid: \[1\] .*mapping .*settings .*lists .*values"),
        (BASE + "grid: {optimizer.lr: 1.0}", r"s\.yaml:5: grid\.optimizer\.lr: 1\.0 .*list"),
        (BASE + "grid:\n  optimizer.lrs: [1.0]", r"s\.yaml:6: key 'optimizer\.lrs' .*not known" + NEAREST_LR),
        (BASE + "grid: {optimizer.lr: [1.0, 1.0]}", r"s\.yaml:5: grid\.optimizer\.lr: 1\.0 .*listed twice"),
        (BASE + "grid: {optimizer.lr: ['1e-5']}", r"s\.yaml:5: optimizer\.lr: '1e-5' .*text" + AS_NUMBER),
    ],
)
def test_mistakes_in_a_sweep_file(sweep, text, facts):
    with pytest.raises(UserError) as caught:
        sweep(text)
    assert re.match(facts, str(caught.value))


def test_an_unknown_task_is_named_with_the_nearest(sweep):
    with pytest.raises(UserError, match=r"^s\.yaml:1: task 'rtee' .*not known.*'rte'\?"):
        sweep(BASE.replace("rte", "rtee"))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("optimizer.lr", r"--set optimizer\.lr: .*KEY=VALUE"),
        ("lr=1.0", r"--set: key 'lr' .*not known.*'optimizer\.lr'"),
        ("optimizer.lr='2e-5'", r"--set: optimizer\.lr: '2e-5' .*text" + AS_NUMBER),
        ("optimizer.lr=", "--set optimizer.lr=: .*value is missing"),
        ("optimizer=3", "--set: optimizer .*section .*keys, not 3$"),
        ("model=", "--set model=: .*value .*missing"),
        ("model.name=x", r"--set: model\.name cannot .*set .*sweep key 'model'"),
        ("seeds=5", "--set seeds: .*sweep's seeds cannot .*set .*--seeds"),
    ],
)
def test_mistakes_on_the_command_line(sweep, text, facts):
    with pytest.raises(UserError) as caught:
        sweep(BASE, sets=[text])
    assert re.match(facts, str(caught.value))


def test_no_seeds_on_the_command_line_are_a_mistake(sweep):
    with pytest.raises(UserError, match=r"^--seeds: seeds: ''"):
        sweep(BASE, seeds="")


@pytest.mark.parametrize(
    ("end", "facts"),
    [
        (["labels: [no, true]", "metric: accuracy"], r"s\.yaml:9: task\.labels\.1: True .*text"),
        (["labels: ['no', 'yes']", "metric: acuracy"], r"s\.yaml:3: task\.metrics\.0: 'acuracy'"),
        (["metrc: accuracy"], r"s\.yaml:9: task: key 'metrc' .*not known.*'metric'"),
        (["metric: accuracy", "test: u.csv"], r"s\.yaml:10: task: test: .*no file 'u\.csv'"),
    ],
)
def test_a_mistake_inside_a_task_names_its_line(tmp_path, end, facts):
    (tmp_path / "t.csv").write_text("a,label\nx,no\ny,yes\n")
    task = ["name: mine", "train: t.csv", "validation: t.csv", "text: a", "label: label", *end]
    lines = ["recipe: devlin", "seeds: 1", "task:", *(f"  {line}" for line in task)]
    (tmp_path / "s.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=facts):
        load_sweep(tmp_path / "s.yaml", LocalPaths())
