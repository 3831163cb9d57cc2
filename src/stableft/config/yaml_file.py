"""YAML with the line of every value; what plain YAML accepts in silence is an error here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stableft.errors import UserError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlDocument:
    """A YAML file's content, and the line (from 1) of each value by its path of keys."""

    path: str
    data: Any
    lines: dict[KeyPath, int]

    def where(self, key: KeyPath = ()) -> str:
        """Returns "file:line" of a value, or of the nearest one that contains it."""
        while key not in self.lines and key:
            key = key[:-1]
        return f"{self.path}:{self.lines[key]}" if key in self.lines else self.path


def load_yaml(path: Path) -> YamlDocument:
    """Returns the file's content.

    Raises:
        UserError: the file cannot be read, is no YAML, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> YamlDocument:
    """Returns the content of YAML text, called `name` in messages.

    Raises:
        UserError: it is no YAML, or gives a key twice.
    """
    lines: dict[KeyPath, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        if node is not None:
            _record_lines(node, (), name, lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}:{line}: this is not valid YAML: {error.problem}") from None
    except RecursionError:
        raise UserError(f"{name}: the YAML is nested too deeply, or contains itself") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: this is not valid YAML: {' '.join(str(error).split())}") from None
    return YamlDocument(name, data, lines)


def _record_lines(node: yaml.Node, key: KeyPath, name: str, lines: dict[KeyPath, int]) -> None:
    lines[key] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _record_lines(item, (*key, i), name, lines)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                text = getattr(key_node, "value", "this")
                raise UserError(f"{name}:{line}: {text!r} is not a key: YAML reads it as something else than a word")
            if key_node.value in seen:
                raise UserError(f"{name}:{line}: key {key_node.value!r} stands already in line {seen[key_node.value]}")
            seen[key_node.value] = line
            _record_lines(value, (*key, key_node.value), name, lines)
            lines[(*key, key_node.value)] = line
