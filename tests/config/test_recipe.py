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
OWNED = "s.yaml:{}: {} cannot be set here; use the sweep key '{}'"
TOP_KEYS = "recipe, task, model, set, grid, seeds, stop_hopeless, probes, arms"
RENAME = "; rename one of them"
NEAREST_LR = "; did you mean 'optimizer.lr'?"
AS_NUMBER = "; as a number it is 1.0e-5"


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
    assert rates(sweep(top, seeds="1", sets=["optimizer.lr=4.0", "optimizer.lr=5.0"])) == [5.0]
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
    assert [describe_value(value) for value in (True, False, None, 1, 0, [1, 2], {"epochs": 3, "steps": None})] == [
        "true",
        "false",
        "none",
        "1",
        "0",
        "[1, 2]",
        "3 epochs",
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
    with pytest.raises(UserError, match=r"^--arms: s\.yaml has no arm 'd'"):
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
    ("section", "sentence"),
    [
        (" 3", "{}: by_task maps tasks to settings; 3 does not"),
        ("\n  colla: {optimizer.lr: 1.0}", "{}: by_task: task 'colla' is not known; did you mean 'cola'?"),
        ("\n  cola: 3", "{}: settings are keys with values, not 3"),
        ("\n  cola: {optimizer.lrs: 1.0}", "{}: key 'optimizer.lrs' is not known" + NEAREST_LR),
        ("\n  cola: {optimizer.lr: 1e-5}", "{}: optimizer.lr: '1e-5' is text to YAML" + AS_NUMBER),
        ("\n  cola: {model.name: x}", "{}: model.name cannot be set here; use the sweep key 'model'"),
        ("\n  cola: {seeds: {init: 1}}", "{}: seeds.init cannot be set here; use the sweep key 'seeds'"),
    ],
)
def test_mistakes_in_what_a_recipe_has_by_task(by_task, section, sentence):
    with pytest.raises(UserError) as caught:
        by_task(section)
    line = len(shipped_recipes()["mosbach"].read_text().splitlines()) + 1 + section.count("\n")
    assert str(caught.value) == sentence.format(f"recipes/mine.yaml:{line}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "s.yaml: a sweep file is a mapping with a recipe or arms, a task and seeds"),
        ("- rte", "s.yaml:1: a sweep file is a mapping with a recipe or arms, a task and seeds"),
        (BASE + "sed: 1", "s.yaml:5: key 'sed' is not known; did you mean 'seeds'?"),
        (BASE + "name: x", f"s.yaml:5: key 'name' is not known; known keys: {TOP_KEYS}"),
        (BASE + "task: cola", "s.yaml:5: key 'task' is already set in line 1"),
        (BASE + "arms: []", "s.yaml:5: arms: [] must be a list of at least one arm"),
        (BASE + "arms: [devlin]", "s.yaml:5: arms.0: 'devlin' must be a mapping such as {recipe: devlin}"),
        (BASE + "arms:\n  - {nam: x}", "s.yaml:6: key 'nam' is not known; did you mean 'name'?"),
        (BASE + "arms: [{name: 3}]", "s.yaml:5: name: 3 must be text; quotes make it so"),
        (
            BASE + "arms:\n- {name: a}\n- {name: a}",
            "s.yaml:7: arm 'a' is listed twice for task 'rte'" + RENAME,
        ),
        ("task: rte\nseeds: 1", "s.yaml:1: key 'recipe' is missing"),
        ("task: rte\nseeds: 1\nrecipe: 3", "s.yaml:3: recipe: 3 must be the name of one recipe"),
        ("task: rte\nseeds: 1\nrecipe: mosbch", "s.yaml:3: recipe 'mosbch' is not known; did you mean 'mosbach'?"),
        ("seeds: 1\nrecipe: mosbach", "s.yaml:1: key 'task' is missing"),
        ("task: rte\nrecipe: mosbach", "s.yaml:1: key 'seeds' is missing"),
        (BASE.replace("rte", "[]"), "s.yaml:1: task: the list is empty"),
        (BASE.replace("rte", "[rte, rte]"), "s.yaml:1: task: rte is listed twice"),
        (BASE.replace("bert-large-uncased", "./nope"), "s.yaml:2: model: './nope' is not a folder"),
        (BASE.replace("1-2", "2-1"), "s.yaml:3: seeds: '2-1' runs backwards"),
        (BASE + "set: 3", "s.yaml:5: set: 3 must be a mapping of settings to values"),
        (BASE + "set: {data.task: cola}", OWNED.format(5, "data.task", "task")),
        (BASE + "set:\n  model: {name: x}", OWNED.format(6, "model.name", "model")),
        (BASE + "grid: {seeds.init: [1]}", OWNED.format(5, "seeds.init", "seeds")),
        (BASE + "grid: [1]", "s.yaml:5: grid: [1] must be a mapping of settings to lists of values"),
        (BASE + "grid: {optimizer.lr: 1.0}", "s.yaml:5: grid.optimizer.lr: 1.0 must be a list"),
        (BASE + "grid:\n  optimizer.lrs: [1.0]", "s.yaml:6: key 'optimizer.lrs' is not known" + NEAREST_LR),
        (BASE + "grid: {optimizer.lr: [1.0, 1.0]}", "s.yaml:5: grid.optimizer.lr: 1.0 is listed twice"),
        (BASE + "grid: {optimizer.lr: [1e-5]}", "s.yaml:5: optimizer.lr: '1e-5' is text to YAML" + AS_NUMBER),
    ],
)
def test_mistakes_in_a_sweep_file(sweep, text, sentence):
    with pytest.raises(UserError) as caught:
        sweep(text)
    assert str(caught.value) == sentence


def test_an_unknown_task_is_named_with_the_nearest(sweep):
    with pytest.raises(UserError, match=r"^s\.yaml:1: task 'rtee' is not known; did you mean 'rte'\?"):
        sweep(BASE.replace("rte", "rtee"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optimizer.lr", "--set optimizer.lr: must be KEY=VALUE"),
        ("lr=1.0", "--set: key 'lr' is not known; did you mean 'optimizer.lr'?"),
        ("optimizer.lr=2e-5", "--set: optimizer.lr: '2e-5' is text to YAML; as a number it is 2.0e-5"),
        ("optimizer.lr=", "--set: optimizer.lr: None must be a number"),
        ("optimizer=3", "--set: optimizer is a section and needs keys, not 3"),
        ("model=", "--set model=: a value is missing"),
        ("model.name=x", "--set: model.name cannot be set here; use the sweep key 'model'"),
        ("seeds=5", "--set seeds: a sweep's seeds cannot be set here; use --seeds"),
    ],
)
def test_mistakes_on_the_command_line(sweep, text, sentence):
    with pytest.raises(UserError) as caught:
        sweep(BASE, sets=[text])
    assert str(caught.value) == sentence


def test_no_seeds_on_the_command_line_are_a_mistake(sweep):
    with pytest.raises(UserError, match=r"^--seeds: seeds: '' must be like"):
        sweep(BASE, seeds="")


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (["labels: [no, yes]", "metric: accuracy"], "s.yaml:9: task.labels.0: False must be text"),
        (["labels: ['no', 'yes']", "metric: acuracy"], "s.yaml:3: task.metrics.0: 'acuracy' must be"),
        (["metrc: accuracy"], "s.yaml:9: task: key 'metrc' is not known; did you mean 'metric'"),
        (["metric: accuracy", "test: u.csv"], "s.yaml:10: task: test: there is no file 'u.csv'"),
    ],
)
def test_a_mistake_inside_a_task_names_its_line(tmp_path, end, sentence):
    (tmp_path / "t.csv").write_text("a,label\nx,no\ny,yes\n")
    task = ["name: mine", "train: t.csv", "validation: t.csv", "text: a", "label: label", *end]
    lines = ["recipe: devlin", "seeds: 1", "task:", *(f"  {line}" for line in task)]
    (tmp_path / "s.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_sweep(tmp_path / "s.yaml", LocalPaths())
