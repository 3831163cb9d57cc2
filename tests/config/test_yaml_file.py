"""YAML with lines, and everything that plain YAML lets pass in silence."""

import random
import re

import pytest
import yaml
from support.paths import ROOT

from stableft.config import yaml_file
from stableft.config.yaml_file import load_yaml, parse_yaml
from stableft.errors import UserError

TEXT = """\
# a comment
a: 1
b:
  c: [1, 2]
  d:
    - e: 3
"""


def test_every_value_knows_its_line():
    document = parse_yaml(TEXT, "x.yaml")
    assert document.value == {"a": 1, "b": {"c": [1, 2], "d": [{"e": 3}]}}
    places = {("a",): 2, ("b",): 3, ("b", "c"): 4, ("b", "c", 1): 4, ("b", "d", 0, "e"): 6}
    assert {key: document.locate(key) for key in places} == {key: f"x.yaml:{line}" for key, line in places.items()}


def test_what_has_no_line_has_that_of_what_contains_it():
    assert parse_yaml(TEXT, "x.yaml").locate(("b", "c", 9, "z")) == "x.yaml:4"
    assert parse_yaml("", "x.yaml").locate(("b",)) == "x.yaml"


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("a: 1\nb: 2\na: 3", r"x\.yaml:3: key 'a' .*set .*line 1"),
        ("a:\n  b: 1\n  b: 1", r"x\.yaml:3: key 'b' .*set .*line 2"),
        ("- {a: 1, a: 2}", r"x\.yaml:1: key 'a' .*set .*line 1"),
        ("a: [1", r"x\.yaml:1: .*not valid YAML: "),
        ("a: 1\nb: c: d", r"x\.yaml:2: .*not valid YAML: mapping values .*not allowed"),
        ("\ta: 1", r"x\.yaml:1: .*not valid YAML: "),
        ("a: 1\n---\nb: 2", r"x\.yaml:2: .*not valid YAML: "),
        ("a: !!python/object:os.system {}", r"x\.yaml:1: .*not valid YAML: .*not determine .*constructor"),
        ("a: 2020-13-45", r"x\.yaml: .*not valid YAML: month .* 1\.\.12"),
        ("a: \x00", r"x\.yaml: .*not valid YAML: unacceptable character"),
        ("1: a", r"x\.yaml:1: '1' .*not a key"),
        ("on: a", r"x\.yaml:1: 'on' .*not a key"),
        ("<<: {a: 1}", r"x\.yaml:1: merge keys \(<<\) .*not supported"),
        ("a: &a [*a]", r"x\.yaml: .*nested too deeply.*itself"),
        ("[" * 5000, r"x\.yaml: .*nested too deeply.*itself"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_with_a_place(text, facts):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "x.yaml")
    assert re.match(facts, str(caught.value))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"missing\.yaml: .*no such file"):
        load_yaml(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(UserError, match=r"latin\.yaml: cannot be read"):
        load_yaml(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_yaml(tmp_path / "bom.yaml").value == {"a": 1}


def test_libyaml_and_pyyaml_read_alike(monkeypatch):
    """The same values, lines and sentences, for the shipped files and for texts with slips of the pen."""

    def read(text: str, loader: type) -> object:
        monkeypatch.setattr(yaml_file, "YamlLoader", loader)
        try:
            value, where, inner = parse_yaml(text, "x.yaml")
        except UserError as error:
            return str(error)
        return value, where, dict(inner)

    texts = [path.read_text() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
    short = [text for text in texts if len(text) < 600]
    rng = random.Random(0)
    for _ in range(150):
        text = rng.choice(short)
        i = rng.randrange(len(text))
        slip = rng.choice([*"{}[]:,-?&*!|>'\"%@`# \n\t", "\n  ", "- ", ": ", ""])
        texts.append(text[:i] + slip + text[i + rng.randrange(3) :])
    fast = yaml_file.YamlLoader
    for text in texts:
        assert repr(read(text, fast)) == repr(read(text, yaml.SafeLoader)), text
