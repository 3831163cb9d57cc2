"""YAML with the line of every value; repeated keys and keys that are not text are errors."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from stableft.errors import UserError

KeyPath = tuple[str | int, ...]
# libyaml accepts some text with these that PyYAML's own parser refuses or reads in another way, such as a stray tab.
READ_DIFFERENTLY = frozenset("\t?!|>\ufeff")

if yaml.__with_libyaml__:
    from yaml._yaml import CParser

    class YamlLoader(Composer, CParser, SafeConstructor, Resolver):
        """PyYAML's safe loader with the parser of libyaml, which is several times as fast.

        The composer is PyYAML's, because that of libyaml overflows the stack where the nesting is deep.
        """

        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)
else:
    YamlLoader = yaml.SafeLoader  # type: ignore[misc, assignment]


class YamlValue(NamedTuple):
    """A value and its origin, such as "configs/rte.yaml:7" or "--set".

    `inner` has the origins of nested values on other lines, by path.
    """

    value: Any
    where: str
    inner: Mapping[KeyPath, str] = MappingProxyType({})

    def locate(self, path: KeyPath) -> str:
        """Return the origin of a nested value, or of the nearest one that contains it."""
        while path and path not in self.inner:
            path = path[:-1]
        return self.inner[path] if path else self.where

    def item(self, *path: str | int) -> "YamlValue":
        """Return a nested value with its origin."""
        n = len(path)
        inner = {key[n:]: where for key, where in self.inner.items() if len(key) > n and key[:n] == path}
        return YamlValue(look_up(self.value, path), self.locate(path), inner)


def look_up(values: Any, path: str | KeyPath) -> Any:
    """Return the value at a dotted key or a path in nested mappings and lists, or None if it does not exist."""
    for part in path.split(".") if isinstance(path, str) else path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def load_yaml(path: Path) -> YamlValue:
    """Return the content of a file.

    Raises:
        UserError: the file cannot be read, is not YAML, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> YamlValue:
    """Return the content of YAML text; messages call it `name`.

    Raises:
        UserError: the text is not YAML, or has a key twice.
    """
    lines: dict[KeyPath, str] = {}
    try:
        try:
            node, data = _compose_and_load(text, yaml.SafeLoader if READ_DIFFERENTLY & set(text) else YamlLoader)
        except yaml.YAMLError:  # once more with PyYAML's own parser, whose messages say more than those of libyaml
            node, data = _compose_and_load(text, yaml.SafeLoader)
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
    where = lines.get((), name)
    return YamlValue(data, where, {path: line for path, line in lines.items() if line != where})


def write_inline(value: Any) -> str:
    """Return a value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False)
    return text.strip().removesuffix("...").strip()


def _compose_and_load(text: str, loader: Any) -> tuple[yaml.Node | None, Any]:
    # Each from the text, because loading takes merge keys out of the nodes.
    return yaml.compose(text, Loader=loader), yaml.load(text, Loader=loader)


def _record_lines(node: yaml.Node, path: KeyPath, name: str, lines: dict[KeyPath, str]) -> None:
    lines[path] = f"{name}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _record_lines(item, (*path, i), name, lines)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                text = getattr(key_node, "value", "this")
                if text == "<<":
                    raise UserError(f"{name}:{line}: merge keys (<<) are not supported; write the keys out")
                raise UserError(
                    f"{name}:{line}: {text!r} is not a key: YAML does not read it as text; quotes make it so"
                )
            if key_node.value in seen:
                raise UserError(f"{name}:{line}: key {key_node.value!r} is already set in line {seen[key_node.value]}")
            seen[key_node.value] = line
            _record_lines(value, (*path, key_node.value), name, lines)
            lines[(*path, key_node.value)] = f"{name}:{line}"
