"""YAML with lines, and everything that plain YAML lets pass in silence."""

import os
import random
import re

import pytest
from support.paths import ROOT

from stableft.config import yaml_file
from stableft.config.yaml_file import MAX_BYTES, MAX_DEPTH, load_yaml, parse_yaml, write_setting
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
        ("a: !!python/object:os.system {}", r"x\.yaml:1: !!python/object:os\.system is a tag"),
        ("a: \x00", r"x\.yaml: .*not valid YAML: unacceptable character"),
        ("1: a", r"x\.yaml:1: '1' .*not a key"),
        ("~: a", r"x\.yaml:1: '~' .*not a key"),
        ("? [a]\n: 1", r"x\.yaml:1: this .*not a key"),
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("0", 0),
            ("-7", -7),
            ("2e-5", 2e-5),
            ("2E+5", 2e5),
            ("-1.50", -1.5),
            (".5", 0.5),
            ("-.5e1", -5.0),
            ("0e1", 0.0),
        ),
        *(("true", True), ("false", False), ("null", None), ("", None)),
        *((word, word) for word in ("yes", "No", "on", "off", "True", "NULL", "None", "inf", "nan", "=", "1-30")),
        *((word, word) for word in ("0123456789abcdef", "0b1f", "0x", "1.2.3", "v1_0", "e5", "a:b", "_1")),
        *((f"'{word}'", word) for word in ("010", "1:30", "1e5", "~", "true", "2020-01-01")),
    ],
)
def test_what_plain_words_mean(text, value):
    assert repr(parse_yaml(text, "x").value) == repr(value)
    assert repr(parse_yaml(f"a: [{text}]" if text else "{a: [null]}", "x").value) == repr({"a": [value]})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("010", "write 10 for a number, or '010' for text"),
        ("-007.50", "write -7.50 for a number, or '-007.50' for text"),
        ("0x1_0", "write 16 for a number, or '0x1_0' for text"),
        ("0o17", "write 15 for a number, or '0o17' for text"),
        ("0b101", "write 5 for a number, or '0b101' for text"),
        ("1_000", "write 1000 for a number, or '1_000' for text"),
        ("+5", "write 5 for a number, or '+5' for text"),
        ("5.", "write 5.0 for a number, or '5.' for text"),
        ("1.e-5", "write 1.0e-5 for a number, or '1.e-5' for text"),
        ("1:30", "write 1-30 for a range, or '1:30' for text"),
        ("1:30:00", "write '1:30:00' for text"),
        ("2020-01-01", "write '2020-01-01' for text"),
        ("2001-12-14t21:59:43.10-05:00", "write '2001-12-14t21:59:43.10-05:00' for text"),
        ("-.inf", "write '-.inf' for text"),
        ("~", "write null for no value, or '~' for text"),
    ],
)
def test_what_may_mean_two_things_is_refused(text, meant):
    with pytest.raises(UserError) as caught:
        parse_yaml(f"a:\n  b: [1, {text}]", "x.yaml")
    assert str(caught.value) == f"x.yaml:2: a.b.1: {text} is ambiguous: {meant}"


def test_numbers_that_python_cannot_hold_are_refused():
    for number in ("1e400", "-1e400", "9" * 400, "9" * 5000):
        with pytest.raises(UserError, match=r"^x:1: [-0-9e.]{4,200} is too large for a number; write '.* for text$"):
            parse_yaml(number, "x")


def test_anchors_are_welcome_until_they_multiply():
    assert parse_yaml("a: &a {b: 1}\nc: *a", "x").value == {"a": {"b": 1}, "c": {"b": 1}}
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]  # 10^11 values
    with pytest.raises(UserError, match=r"x: .*aliases repeat more than 10,000 values"):
        parse_yaml("\n".join(lines), "x")


def test_nesting_has_a_bound():
    assert parse_yaml("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH, "x").value
    with pytest.raises(UserError, match="nested too deeply"):
        parse_yaml("[" * (MAX_DEPTH + 1) + "1" + "]" * (MAX_DEPTH + 1), "x")


WORDS = ("1e5", "010", "1:30", "~", "yes", "true", "2020-01-01", "", ".5", "12e45", "0x1g", "a b")


@pytest.mark.parametrize("value", [*WORDS, None, True, 7, 2e-5, 1e16, {"a": [1, "1e5", None], "b": {"c": "x"}}])
def test_a_value_written_on_one_line_comes_back(value):
    key, _, text = write_setting("x.y", value).partition("=")
    assert (key, "\n" in text) == ("x.y", False)
    assert repr(parse_yaml(text, "x").value) == repr(value)


def test_files_that_are_too_large_or_no_files(tmp_path):
    (tmp_path / "large.yaml").write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(UserError, match=r"large\.yaml: 300,001 bytes are too many for a config; 300,000 are allowed"):
        load_yaml(tmp_path / "large.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match=r"pipe\.yaml: cannot be read: it is not a file"):
        load_yaml(tmp_path / "pipe.yaml")


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
        assert repr(read(text, fast)) == repr(read(text, yaml_file.PythonLoader)), text
