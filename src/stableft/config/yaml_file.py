"""YAML with the line of every value, and one rule for what its plain words mean.

Numbers are those of JSON and `.5`; true, false and null are what they say; an empty value is null. Everything else is
text, except what YAML 1.1 or a reader could take for another number or a date, which is refused like tags, repeated
keys and keys that are not text.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from stableft.errors import UserError, clip, echo

KeyPath = tuple[str | int, ...]
# The largest shipped file has 10 kB. A thousand arms with ten lines each fit, and are read in seconds.
MAX_BYTES = 300_000
MAX_DEPTH = 50  # the deepest key of a sweep file is at level 8
MAX_ALIASED_VALUES = 10_000  # what aliases repeat, because ten lines of aliases of aliases can mean 10^9 values
# libyaml accepts some text with these that PyYAML's own parser refuses or reads in another way, such as a stray tab.
READ_DIFFERENTLY = frozenset("\t?!|>\ufeff")

NUMBER = r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
AMBIGUOUS = {  # what YAML 1.1, YAML 1.2 or a reader may take for another number, a date or null
    "base": r"[-+]?0(?:[xX][0-9a-fA-F][0-9a-fA-F_]*|[oO][0-7][0-7_]*|[bB][01][01_]*)",
    "decimal": r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?",
    "time": r"[-+]?[0-9][0-9_]*(?::[0-9_]+)+(?:\.[0-9_]*)?",
    "date": r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?",
    "infinite": r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "tilde": "~",
}
TAGS = {"null": "null|", "bool": "true|false", "int": "-?(?:0|[1-9][0-9]*)", "float": NUMBER, **AMBIGUOUS}
PLAIN_WORDS = {None: [(tag, re.compile(rf"(?:{pattern})\Z")) for tag, pattern in TAGS.items()]}  # None: any first sign


class _TagError(yaml.MarkedYAMLError):
    """An explicit tag such as !!timestamp."""


class _StrictComposer(Composer, BaseResolver):
    """PyYAML's composer, which refuses tags and gives plain words the names of `TAGS`.

    That of libyaml overflows the stack where the nesting is deep.
    """

    yaml_implicit_resolvers = PLAIN_WORDS

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # pyright: ignore[reportAttributeAccessIssue] - the parser's
        if tag := getattr(event, "tag", None):
            raise _TagError(problem=tag, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class PythonLoader(Reader, Scanner, Parser, _StrictComposer):
    """With PyYAML's own parser, whose messages say more."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)


if yaml.__with_libyaml__:
    from yaml._yaml import CParser

    class YamlLoader(_StrictComposer, CParser):
        """With the parser of libyaml, which is several times as fast."""

        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            BaseResolver.__init__(self)
else:
    YamlLoader = PythonLoader  # type: ignore[misc, assignment]


class YamlDumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes the text that the loaders would not read as text, such as 1e5."""

    yaml_implicit_resolvers = yaml.SafeDumper.yaml_implicit_resolvers | PLAIN_WORDS


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

    def items(self) -> dict[str | int, "YamlValue"]:
        """Return the values in a mapping by key, or those in a list by index, each with its origin."""
        inner: dict[str | int, dict[KeyPath, str]] = {}
        for (key, *path), where in self.inner.items():
            inner.setdefault(key, {})[tuple(path)] = where
        keyed = self.value.items() if isinstance(self.value, dict) else enumerate(self.value)
        below = {key: inner.get(key, {}) for key, _ in keyed}
        return {key: YamlValue(self.value[key], below[key].pop((), self.where), below[key]) for key in below}

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
        UserError: the file cannot be read, is too large, or `parse_yaml` refuses it.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path}: cannot be read: it is not a file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path}: {size:,} bytes are too many for a config; {MAX_BYTES:,} are allowed")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> YamlValue:
    """Return the content of YAML text; messages call it `name`.

    Raises:
        UserError: the text is not YAML, has a key twice, repeats too much, or has an ambiguous value.
    """
    reader = _NodeReader(name)
    try:
        try:
            node = _compose(text, PythonLoader if READ_DIFFERENTLY & set(text) else YamlLoader)
        except yaml.YAMLError:  # once more with PyYAML's own parser, whose messages say more than those of libyaml
            node = _compose(text, PythonLoader)
        value = None if node is None else reader.read(node, ())
    except _TagError as error:
        tag = clip(str(error.problem).replace("tag:yaml.org,2002:", "!!"))
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}:{line}: {tag} is a tag, which configs do not have; write the value alone") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}:{line}: this is not valid YAML: {clip(error.problem)}") from None
    except RecursionError:
        raise UserError(f"{name}: the YAML is nested too deeply, or contains itself") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: this is not valid YAML: {clip(' '.join(str(error).split()))}") from None
    where = reader.lines.get((), name)
    return YamlValue(value, where, {path: line for path, line in reader.lines.items() if line != where})


def _compose(text: str, loader: Any) -> yaml.Node | None:
    return yaml.compose(text, Loader=loader)


def write_setting(key: str, value: Any) -> str:
    """Return a setting as KEY=VALUE, the value as one line of YAML.

    Raises:
        UserError: it is neither text, a number, true, false or None, nor a list or mapping of these.
    """
    try:
        text = yaml.dump(value, Dumper=YamlDumper, default_flow_style=True, width=math.inf, sort_keys=False)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a number of thousands of digits
        raise UserError(f"{key}: this {type(value).__name__} cannot be written as YAML") from None
    return f"{key}={text.strip().removesuffix('...').strip()}"


class _NodeReader:
    """Turns nodes into values and notes their lines, by path."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[KeyPath, str] = {}
        self.seen: set[int] = set()
        self.repeated = 0

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return the value of a node.

        Raises:
            RecursionError: the nodes are nested too deeply.
            UserError: see `parse_yaml`.
        """
        if len(path) > MAX_DEPTH:
            raise RecursionError
        place = self.lines[path] = f"{self.name}:{node.start_mark.line + 1}"
        self.repeated += id(node) in self.seen
        if self.repeated > MAX_ALIASED_VALUES:
            raise UserError(f"{self.name}: its aliases repeat more than {MAX_ALIASED_VALUES:,} values")
        self.seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        key = clip(".".join(map(str, path)))
        return _read_word(node.value, node.tag, f"{place}: {key}" if key else place)

    def _read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag in TAGS:
                what = echo(key) if isinstance(key_node, yaml.ScalarNode) else "this"
                raise UserError(f"{self.name}:{line}: {what} is not a key: it is not text; quotes make it so")
            if key == "<<":
                raise UserError(f"{self.name}:{line}: merge keys (<<) are not supported; write the keys out")
            if key in seen:
                raise UserError(f"{self.name}:{line}: key {echo(key)} is already set in line {seen[key]}")
            seen[key] = line
            values[key] = self.read(value, (*path, key))
            self.lines[(*path, key)] = f"{self.name}:{line}"
        return values


def _read_word(text: str, tag: str, where: str) -> str | int | float | bool | None:
    """Return the value of text with one of `TAGS`, or of other text.

    Raises:
        UserError: a number is too large, or the text is ambiguous.
    """
    if tag in AMBIGUOUS:
        raise UserError(f"{where}: {clip(text)} is ambiguous: {clip(_likely_meaning(text, tag))}{echo(text)} for text")
    if tag in ("int", "float"):
        try:
            if math.isfinite(number := int(text) if tag == "int" else float(text)):
                return number
        except (ValueError, OverflowError):  # Python neither reads nor compares whole numbers of thousands of digits
            pass
        raise UserError(f"{where}: {clip(text)} is too large for a number; write {echo(text)} for text")
    return {"null": None, "bool": text == "true"}.get(tag, text)


def _likely_meaning(text: str, tag: str) -> str:
    """Return "write 10 for a number, or " for 010, and so on."""
    if tag == "tilde":
        return "write null for no value, or "
    if tag in ("date", "infinite"):
        return "write "
    if tag == "time":
        return f"write {text.replace(':', '-')} for a range, or " if text.count(":") == 1 else "write "
    digits = text.replace("_", "").removeprefix("+")
    if tag == "base":
        number = str(int(digits, 0))
    else:
        [(sign, whole, point, fraction, rest)] = re.findall(r"^(-?)0*([0-9]*)(\.?)([0-9]*)(.*)", digits)
        number = f"{sign}{whole or 0}{point and f'.{fraction or 0}'}{rest}"
    return f"write {number} for a number, or "
