"""The rows of a sweep's table: which arms may share a name, and what tells models and grid points apart."""

import re
from pathlib import Path

import pytest

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_arms import parse_arms
from stableft.config.sweep_file import load_sweep
from stableft.config.yaml_file import YamlValue, parse_yaml
from stableft.errors import UserError

OWN = "{name: %s, train: %s, validation: d.csv, text: a, label: b, labels: ['0', '1'], metric: %s}"
BASE = "recipe: zhang\ntask: rte\nmodel: bert-base-uncased\nseeds: 1-2\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("a,b\nx,0\n")
    Path("e.csv").write_text("a,b\ny,1\n")


def model_folder(path: str) -> str:
    """Makes a folder that holds a model by its file names, with its own contents."""
    folder = Path(path)
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(path)
    return path


def expand(text: str, **options):
    Path("s.yaml").write_text(text)
    return load_sweep("s.yaml", LocalPaths(), **options)


def rows(text: str, **options) -> list[str]:
    """The rows of a sweep, in order."""
    return list(dict.fromkeys(run.arm for run in expand(text, **options).runs))


def refusal(text: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        expand(text, **options)
    return str(caught.value)


def names(arms: str, **overrides) -> list[str]:
    document = parse_yaml(f"recipe: mosbach\ntask: rte\nseeds: 1\narms:\n{arms}", "s.yaml")
    return [arm.name for arm in parse_arms(document, YamlValue(overrides, "--set"))]


def test_arms_share_a_name_where_their_tasks_differ():
    assert names("- {name: a}\n- {name: a, task: cola}\n- {name: a, task: [mrpc, stsb]}") == ["a", "a", "a"]
    assert names("- {task: cola}\n- {task: {name: mine}}") == ["mosbach", "mosbach"]


@pytest.mark.parametrize(
    ("arms", "overrides", "facts"),
    [
        ("- {name: a}\n- {name: a, task: [cola, rte]}", {}, "twice .*'rte'; rename"),
        (
            "- {name: a, task: {name: mine}}\n- {name: a, task: {name: mine}}",
            {},
            "twice .*'mine'; rename",
        ),
        ("- {name: a}\n- {name: a, task: cola}", {"task": "mrpc"}, "twice .*'mrpc'; rename"),
        ("- {name: a}\n- {name: a, task: cola, recipe: devlin}", {}, "twice .*different recipes; rename"),
    ],
)
def test_a_table_could_not_tell_other_arms_apart(arms, overrides, facts):
    with pytest.raises(UserError) as caught:
        names(arms, **overrides)
    assert re.match(f"s.yaml:6: arm 'a' .*{facts}", str(caught.value))


def test_models_have_the_shortest_label_that_tells_them_apart():
    def labels(*models: str) -> list[str]:
        text = BASE.replace("bert-base-uncased", f"[{', '.join(models)}]")
        return [row.removeprefix("zhang").strip(" ()") for row in rows(text)]

    one, two, three = (model_folder(f"{folder}/checkpoint-500") for folder in ("runs/a", "runs/b", "old/b"))
    other = model_folder("runs/a/checkpoint-900")
    assert labels("org/m@a", "org/m@b", "org/n") == ["org/m@a", "org/m@b", "org/n"]
    assert labels("org/m", "org/m@b") == ["org/m@main", "org/m@b"]
    assert labels("org/m", "org/n@b") == ["org/m", "org/n"]
    assert labels(one, other) == ["checkpoint-500", "checkpoint-900"]
    assert labels(one, two) == ["a/checkpoint-500", "b/checkpoint-500"]
    assert labels(one, two, three) == ["a/checkpoint-500", "runs/b/checkpoint-500", "old/b/checkpoint-500"]
    assert labels(model_folder("x/m"), "m") == ["x/m", "m@main"]
    assert labels("org/m", "org/m@main") == labels(one, f"./{one}") == [""]  # one model, so one row


def test_grid_points_that_are_one_run_are_one_row():
    assert rows(BASE + "grid: {optimizer.lr: [1, 1.0, 2.0]}\n") == ["zhang lr=1", "zhang lr=2.0"]
    mixout = BASE.replace("zhang", "mixout") + "grid: {mixout.p: [0, 0.0, 0.5]}\n"
    assert rows(mixout) == ["mixout p=0", "mixout p=0.5"]
    assert len(expand(mixout).runs) == 4
    # A value from the command line is the one in the label.
    grid = "grid: {optimizer.lr: [1.0, 2.0], data.max_length: [16, 32]}\n"
    assert rows(BASE + grid, sets=["optimizer.lr=3.0"]) == [
        "zhang lr=3.0, max_length=16",
        "zhang lr=3.0, max_length=32",
    ]


def test_settings_of_one_last_key_are_told_apart_by_their_whole_keys():
    grid = "grid: {schedule.batch_size: [16], evaluation.batch_size: [32], optimizer.lr: [1.0]}\n"
    assert rows(BASE + grid) == ["zhang schedule.batch_size=16, evaluation.batch_size=32, lr=1.0"]


ARMS = BASE + "arms:\n  - name: a\n    grid: {optimizer.lr: [1.0, 2.0]}\n  - name: %s\n%s"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            ARMS % ("a lr=1.0", "    set: {optimizer.lr: 1.0, optimizer.eps: 1.0}\n"),
            "s.yaml:8: arms 'a' and 'a lr=1.0' would both be printed as 'a lr=1.0', but differ in optimizer.eps "
            "(1e-08 and 1.0); rename one of them",
        ),
        (
            ARMS % ("a lr=1.0", "    set: {optimizer.lr: 1.0}\n    seeds: 3\n"),
            "s.yaml:8: arms 'a' and 'a lr=1.0' would both be printed as 'a lr=1.0', and are one setting; rename one of "
            "them",
        ),
        (  # a row is one arm in each of its columns
            ARMS % ("a lr=1.0", "    task: cola\n    set: {optimizer.lr: 1.0, data.max_length: 64}\n"),
            "s.yaml:8: arms 'a' and 'a lr=1.0' would both be printed as 'a lr=1.0', but differ in data.task (rte and "
            "cola), data.max_length (128 and 64), evaluation.select_by (('accuracy',) and ('mcc',)); rename one of "
            "them",
        ),
        (
            ARMS
            % ("a lr=1.0", "    set: {optimizer: {lr: 1.0, eps: 1.0, clip_norm: 3.0, llrd: 0.5, betas: [0.5, 0.5]}}\n"),
            "s.yaml:8: arms 'a' and 'a lr=1.0' would both be printed as 'a lr=1.0', but differ in "
            "optimizer.betas ((0.9, 0.999) and (0.5, 0.5)), optimizer.eps (1e-08 and 1.0), optimizer.clip_norm (1.0 "
            "and 3.0) and 1 more; rename one of them",
        ),
        (
            BASE + f"arms:\n  - name: a\n    task: {OWN % ('mine', 'd.csv', 'f1')}\n"
            f"  - name: b\n    task: {OWN % ('mine', 'e.csv', 'accuracy')}\n",
            "s.yaml:9: task 'mine' of arm 'b' differs from that of arm 'a' in train, metrics; give it another name",
        ),
        (
            "recipe: zhang\nseeds: 1\n"
            f"task:\n  - {OWN % ('mine', 'd.csv', 'f1')}\n  - {OWN % ('mine', 'e.csv', 'f1')}\n",
            "s.yaml:5: task 'mine' of arm 'zhang' differs from that of arm 'zhang' in train; give it another name",
        ),
        (
            f"recipe: zhang\nseeds: 1\ntask: [{OWN % ('mine', 'd.csv', 'f1')}, {OWN % ('mine', 'd.csv', 'f1')}]\n",
            "s.yaml:3: task: mine is listed twice",
        ),
        (
            f"recipe: zhang\nseeds: 1\ntask: {OWN % ('RTE', 'd.csv', 'f1')}\n",
            "s.yaml:3: task: name: 'RTE' is a task that stableft knows; give yours another name",
        ),
        (
            f"""recipe: zhang\nseeds: 1\ntask: {OWN % ("' '", "d.csv", "f1")}\n""",
            "s.yaml:3: task: name: ' ' must be visible text, with single blanks only between words",
        ),
        (BASE.replace("bert-base-uncased", "'@main'"), "s.yaml:3: model: '@main' must be a folder or a hub name"),
        (BASE.replace("bert-base-uncased", "' '"), "s.yaml:3: model: ' ' must be a folder or a hub name"),
        (BASE.replace("bert-base-uncased", "a b"), "s.yaml:3: model: 'a b' must be a folder or a hub name"),
        (BASE.replace("bert-base-uncased", "org/"), "s.yaml:3: model: 'org/' must be a folder or a hub name"),
        (
            BASE + "arms:\n  - name: a\n  - name: b\n    stop_hopeless: {after: 0.3, lowest: 0.5}\n",
            "s.yaml:8: arms 'a' and 'b' ask for the same run with different stop_hopeless; give both the same",
        ),
        (
            BASE + "arms:\n  - name: a\n    probes: {drift: {every: 1}}\n  - name: b\n",
            "s.yaml:7: arms 'a' and 'b' ask for the same run with different probes; give both the same",
        ),
    ],
)
def test_what_would_print_alike_is_refused_before_anything_trains(text, sentence):
    assert refusal(text) == sentence


def test_one_data_set_in_several_arms_is_one_column():
    arms = "".join(f"  - name: {name}\n    task: {OWN % ('mine', 'd.csv', 'f1')}\n" for name in "ab")
    assert rows(f"recipe: zhang\nmodel: m\nseeds: 1\narms:\n{arms}") == ["a", "b"]
