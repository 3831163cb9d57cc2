"""Settings with an origin: nested or dotted, and sentences that name the place of a mistake."""

import re

import pytest

from stableft.config.recipe import shipped_recipes
from stableft.config.settings import (
    RUN_CONFIG_LEAVES,
    build_run_config,
    check_setting_key,
    collect_settings,
    find_reported_checkpoint,
)
from stableft.config.yaml_file import YamlValue, load_yaml, parse_yaml
from stableft.errors import UserError

IDENTITY = {"data.task": "rte", "seeds.init": 1, "seeds.data": 1}


def complete() -> dict[str, YamlValue]:
    recipe = collect_settings(load_yaml(shipped_recipes()["mosbach"]))
    return recipe | {key: YamlValue(value, "sweep.yaml:1") for key, value in IDENTITY.items()}


def resolve(settings: dict[str, YamlValue]) -> None:
    build_run_config(settings, "sweep.yaml:2")
    find_reported_checkpoint(settings, "sweep.yaml:2")


def sentence_about(**dotted) -> str:
    settings = complete() | {key: YamlValue(value, "sweep.yaml:7") for key, value in dotted.items()}
    with pytest.raises(UserError) as caught:
        resolve(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_keys_may_be_nested_dotted_or_both():
    nested = collect_settings(parse_yaml("optimizer:\n  lr: 1.0\n  eps: 2.0\n", "x"))
    assert nested == {"optimizer.lr": YamlValue(1.0, "x:2"), "optimizer.eps": YamlValue(2.0, "x:3")}
    assert collect_settings(parse_yaml("optimizer.lr: 1.0\noptimizer: {eps: 2.0}", "x")).keys() == nested.keys()


def test_settings_below_a_key_of_the_document():
    document = parse_yaml("arms:\n  - set:\n      optimizer.lr: 1.0\n", "x")
    assert collect_settings(document.item("arms", 0, "set")) == {"optimizer.lr": YamlValue(1.0, "x:3")}


def test_what_is_assigned_as_a_whole_is_one_setting():
    assert collect_settings(parse_yaml("schedule: {length: {epochs: 3}}", "x")) == {
        "schedule.length": YamlValue({"epochs": 3}, "x:1")
    }
    assert {"schedule.length", "evaluation.every", "data.own", "reinit.blocks", "precision"} <= RUN_CONFIG_LEAVES.keys()
    assert "schedule.length.epochs" not in RUN_CONFIG_LEAVES


@pytest.mark.parametrize("written", ["schedule.length.epochs: 2", "schedule.length: {epochs: 2}"])
def test_a_section_of_one_key_may_be_set_by_that_key(written):
    assert collect_settings(parse_yaml(written, "x"))["schedule.length"].value == {"epochs": 2}
    assert collect_settings(YamlValue(2, "--set"), "evaluation.every.times") == {
        "evaluation.every": YamlValue({"times": 2}, "--set")
    }


def test_an_unknown_key_of_such_a_section_names_the_option_to_type():
    with pytest.raises(UserError, match=r"--set 'schedule\.length={epochs: 3}'$"):
        collect_settings(YamlValue(2, "--set"), "schedule.length.epoch")


def test_one_key_with_one_origin():
    found = collect_settings(YamlValue({"pooler": True, "blocks": 2}, "--set"), "reinit")
    assert found == {"reinit.pooler": YamlValue(True, "--set"), "reinit.blocks": YamlValue(2, "--set")}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("a: 1", "x:1: key 'a' .*not known"),
        ("\noptimizer: {lrr: 1}", r"x:2: key 'optimizer\.lrr' .*not known.*'optimizer\.lr'"),
        ("optimiser: {lr: 1}", "x:1: key 'optimiser' .*not known.*'optimizer'"),
        ("optimizer: {lr: 1.0}\noptimizer.lr: 2.0", r"x:2: optimizer\.lr .*set .*second time"),
        ("optimizer: 3", "x:1: optimizer .*section .*keys, not 3$"),
        ("- 3", r"x:1: settings .*keys .*values, not \[3\]"),
    ],
)
def test_keys_that_are_none_of_a_runs(text, facts):
    with pytest.raises(UserError) as caught:
        collect_settings(parse_yaml(text, "x"))
    assert re.match(facts, str(caught.value))


@pytest.mark.parametrize(
    ("key", "end"),
    [
        ("lr", r"'optimizer\.lr'\?"),
        ("warmup", r"'schedule\.warmup'\?"),
        ("optimizer.bias_corection", r"'optimizer\.bias_correction'\?"),
        (
            "start_from.run",
            r"start_from .*set .*whole.*--set 'start_from={recipe: zhang, task: mnli, seed: 0}'",
        ),
    ],
)
def test_the_nearest_key(key, end):
    with pytest.raises(UserError) as caught:
        check_setting_key(key, "--set")
    assert re.match(f"--set: .*{end}$", str(caught.value))


@pytest.mark.parametrize(
    ("key", "value", "facts"),
    [
        ("optimizer.lr", "2e-5", r"optimizer\.lr: '2e-5' .*text; without the quotes .*number$"),
        ("optimizer.lr", "1E5", r"optimizer\.lr: '1E5' .*text; without the quotes .*number$"),
        ("optimizer.lr", "1.5e-7", r"optimizer\.lr: '1\.5e-7' .*text; without the quotes .*number$"),
        ("optimizer.betas", [0.9, "1e-3"], r"optimizer\.betas\.1: '1e-3' .*text; without the quotes .*number$"),
        ("schedule.batch_size", "16", r"schedule\.batch_size: '16' .*text; without the quotes .*number$"),
        ("optimizer.lr", -1.0, r"optimizer\.lr: -1\.0 .*greater .* 0$"),
        ("optimizer.lr", float("nan"), r"optimizer\.lr: nan .*finite number"),
        ("optimizer.lr", float("inf"), r"optimizer\.lr: inf .*finite number"),
        ("optimizer.lr", "fast", r"optimizer\.lr: 'fast' .*number"),
        ("optimizer.lr", None, r"optimizer\.lr: None .*number"),
        ("optimizer.lr", True, r"optimizer\.lr: True .*number"),
        ("schedule.batch_size", 1.5, r"schedule\.batch_size: 1\.5 .*whole number"),
        ("schedule.batch_size", 0, r"schedule\.batch_size: 0 .*greater .*equal .* 1$"),
        ("schedule.warmup", 2, r"schedule\.warmup: 2 .*less .*equal .* 1$"),
        ("data.pad_to_max", "yes", r"data\.pad_to_max: 'yes' .*true .*false"),
        ("precision", "fp61", "precision: 'fp61' .*'fp32', 'fp16' .*'bf16'.*'fp16'"),
        ("evaluation.report", "lst", r"evaluation\.report: 'lst' .*'last' .*'best'.*'last'"),
        ("optimizer.betas", 0.9, r"optimizer\.betas: 0\.9 .*list"),
        ("optimizer.betas", [0.9], r"optimizer\.betas: \[0\.9\] .*too few items"),
        ("optimizer.betas", [0.9, 0.99, 0.999], r"optimizer\.betas: has 3 items, .*2 .*most"),
        ("optimizer.no_decay", ["bias", 3], r"optimizer\.no_decay\.1: 3 .*text; quotes"),
        ("evaluation.select_by", [], r"evaluation\.select_by: \[\] .*too few items"),
        ("schedule.length", 3, r"schedule\.length: 3 .*mapping .*{epochs: 3} .*{steps: 800}"),
        ("schedule.length", {}, r"schedule\.length: .*exactly one .*epochs .*steps"),
        ("schedule.length", {"epoch": 3}, r"key 'schedule\.length\.epoch' .*not known.*'epochs'"),
        ("schedule.length", {"epochs": -3}, r"schedule\.length\.epochs: -3 .*greater .*equal .* 1$"),
        ("evaluation.every", {"times": 1, "per_epoch": 1}, r"evaluation\.every: .*exactly one .*times .*per_epoch"),
        (
            "optimizer.eps_placement",
            None,
            r"optimizer\.eps_placement .*set .*optimizer\.bias_correction .*true",
        ),
    ],
)
def test_a_value_that_breaks_a_rule_is_named_with_its_line(key, value, facts):
    assert re.match(f"sweep.yaml:7: {facts}", sentence_about(**{key: value}))


def test_a_missing_key_is_blamed_on_the_recipe_line():
    settings = complete()
    del settings["optimizer.lr"]
    with pytest.raises(UserError, match=r"^sweep\.yaml:2: key 'optimizer\.lr' .*missing$"):
        build_run_config(settings, "sweep.yaml:2")


def test_the_config_comes_back_normalized():
    config = build_run_config(complete() | {"optimizer.bias_correction": YamlValue(False, "x")}, "x")
    assert config.optimizer.eps_placement is None
    assert config.reinit is None
