"""The rows of a sweep's table: which arms may share a name."""

import re

import pytest

from stableft.config.sweep_file import parse_arms
from stableft.config.yaml_file import YamlValue, parse_yaml
from stableft.errors import UserError


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
