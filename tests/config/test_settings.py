"""Settings with an origin: nested or dotted, and sentences that name the place of a mistake."""

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


def test_one_key_with_one_origin():
    found = collect_settings(YamlValue({"pooler": True, "blocks": 2}, "--set"), "reinit")
    assert found == {"reinit.pooler": YamlValue(True, "--set"), "reinit.blocks": YamlValue(2, "--set")}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1", "x:1: key 'a' is not known"),
        ("\noptimizer: {lrr: 1}", "x:2: key 'optimizer.lrr' is not known; did you mean 'optimizer.lr'?"),
        ("optimiser: {lr: 1}", "x:1: key 'optimiser' is not known; did you mean 'optimizer'?"),
        ("optimizer: {lr: 1.0}\noptimizer.lr: 2.0", "x:2: optimizer.lr is set a second time"),
        ("optimizer: 3", "x:1: optimizer is a section and needs keys, not 3"),
        ("- 3", "x:1: settings are keys with values, not [3]"),
    ],
)
def test_keys_that_are_none_of_a_runs(text, sentence):
    with pytest.raises(UserError) as caught:
        collect_settings(parse_yaml(text, "x"))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("key", "end"),
    [
        ("lr", "did you mean 'optimizer.lr'?"),
        ("warmup", "did you mean 'schedule.warmup'?"),
        ("optimizer.bias_corection", "did you mean 'optimizer.bias_correction'?"),
        (
            "schedule.length.epochs",
            "schedule.length is set as a whole, such as schedule.length: {epochs: 3} or {steps: 800}",
        ),
    ],
)
def test_the_nearest_key(key, end):
    with pytest.raises(UserError) as caught:
        check_setting_key(key, "--set")
    assert str(caught.value).startswith("--set: ")
    assert str(caught.value).endswith(end)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("optimizer.lr", "2e-5", "optimizer.lr: '2e-5' is text to YAML; as a number it is 2.0e-5"),
        ("optimizer.lr", "1E5", "optimizer.lr: '1E5' is text to YAML; as a number it is 100000.0"),
        ("optimizer.lr", "1.5e-7", "optimizer.lr: '1.5e-7' is text to YAML; as a number it is 1.5e-7"),
        ("optimizer.betas", [0.9, "1e-3"], "optimizer.betas.1: '1e-3' is text to YAML; as a number it is 0.001"),
        ("schedule.batch_size", "16", "schedule.batch_size: '16' is text to YAML; as a number it is 16"),
        ("optimizer.lr", -1.0, "optimizer.lr: -1.0 must be greater than 0"),
        ("optimizer.lr", float("nan"), "optimizer.lr: nan must be a finite number"),
        ("optimizer.lr", float("inf"), "optimizer.lr: inf must be a finite number"),
        ("optimizer.lr", "fast", "optimizer.lr: 'fast' must be a number"),
        ("optimizer.lr", None, "optimizer.lr: None must be a number"),
        ("optimizer.lr", True, "optimizer.lr: True must be a number"),
        ("schedule.batch_size", 1.5, "schedule.batch_size: 1.5 must be a whole number"),
        ("schedule.batch_size", 0, "schedule.batch_size: 0 must be greater than or equal to 1"),
        ("schedule.warmup", 2, "schedule.warmup: 2 must be less than or equal to 1"),
        ("data.pad_to_max", "yes", "data.pad_to_max: 'yes' must be true or false"),
        ("precision", "fp61", "precision: 'fp61' must be 'fp32', 'fp16' or 'bf16'; did you mean 'fp16'?"),
        ("evaluation.report", "lst", "evaluation.report: 'lst' must be 'last' or 'best'; did you mean 'last'?"),
        ("optimizer.betas", 0.9, "optimizer.betas: 0.9 must be a list"),
        ("optimizer.betas", [0.9], "optimizer.betas: [0.9] has too few items"),
        ("optimizer.betas", [0.9, 0.99, 0.999], "optimizer.betas: [0.9, 0.99, 0.999] has too many items"),
        ("optimizer.no_decay", ["bias", 3], "optimizer.no_decay.1: 3 must be text; quotes make it so"),
        ("evaluation.select_by", [], "evaluation.select_by: [] has too few items"),
        ("schedule.length", 3, "schedule.length: 3 must be a mapping such as {epochs: 3} or {steps: 800}"),
        ("schedule.length", {}, "schedule.length: give exactly one of epochs and steps"),
        ("schedule.length", {"epoch": 3}, "key 'schedule.length.epoch' is not known; did you mean 'epochs'?"),
        ("schedule.length", {"epochs": -3}, "schedule.length.epochs: -3 must be greater than or equal to 1"),
        ("evaluation.every", {"times": 1, "per_epoch": 1}, "evaluation.every: give exactly one of times and per_epoch"),
        (
            "optimizer.eps_placement",
            None,
            "optimizer.eps_placement must be set when optimizer.bias_correction is true",
        ),
    ],
)
def test_a_value_that_breaks_a_rule_is_named_with_its_line(key, value, sentence):
    assert sentence_about(**{key: value}) == f"sweep.yaml:7: {sentence}"


def test_a_missing_key_is_blamed_on_the_recipe_line():
    settings = complete()
    del settings["optimizer.lr"]
    with pytest.raises(UserError, match=r"^sweep\.yaml:2: key 'optimizer\.lr' is missing$"):
        build_run_config(settings, "sweep.yaml:2")


def test_the_config_comes_back_normalized():
    config = build_run_config(complete() | {"optimizer.bias_correction": YamlValue(False, "x")}, "x")
    assert config.optimizer.eps_placement is None
    assert config.reinit is None
