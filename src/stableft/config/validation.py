"""Say in one sentence what pydantic found wrong: file and line, key, value, rule, and the closest valid name."""

import math
import re
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stableft.config.run_config import ConfigSection
from stableft.config.yaml_file import TAGS, KeyPath, YamlValue, look_up
from stableft.errors import UserError, did_you_mean, echo

_RULES = {  # replace pydantic's wording where it makes no sense to someone writing YAML
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "has too few items",
    "too_long": "has too many items",
    "string_pattern_mismatch": "must be a hash in hexadecimal digits, 16 of a run or 64 of a file",
    "string_type": "must be text; quotes make it so",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
}

YES_OR_NO = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def check_printed_name(name: str, where: str) -> None:
    """Raise UserError if a table could not tell the name from another one or from none."""
    if not name.isprintable() or name != " ".join(name.split()) or not name:
        raise UserError(f"{where}: {name!r} must be visible text, with single blanks only between words")


def find_section(annotation: Any) -> type[ConfigSection] | None:
    """Return the config section in a field's type: optional, or as the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, ConfigSection):
        return annotation
    return next((found for part in get_args(annotation) if (found := find_section(part))), None)


def describe_example(key: str, section: type[ConfigSection], where: str) -> str:
    """Return an example of a section set as a whole: as YAML, or as the option to type for one given by --set."""
    return f"--set '{key}={section.example.split(' or ')[0]}'" if where == "--set" else f"{key}: {section.example}"


def to_user_error(
    error: ValidationError, kind: type[ConfigSection], written: YamlValue, within: KeyPath = ()
) -> UserError:
    """Return the first error as a sentence; an unknown key comes first, because it may be the missing one misspelt.

    `kind` is the class that rejected what is `written`, and `within` are the keys that contain it.
    """
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path, sentence = first["loc"], _describe(first, kind, written, within)
    if not path:  # a rule about several keys: its sentence starts with the offending one
        path = tuple(sentence.split()[0].rstrip(":").split("."))
    return UserError(f"{written.locate(path)}: {sentence}")


def _describe(error: ErrorDetails, kind: type[ConfigSection], written: YamlValue, within: KeyPath) -> str:
    path, rule, context, data = error["loc"], error["type"], error.get("ctx", {}), written.value
    value = look_up(data, path)  # as written: 2, where pydantic may have 2.0
    key, parent, field, section = _find_place(kind, path, within)
    if rule == "missing" and isinstance(container := look_up(data, path[:-1]), list):
        return f"{_find_place(kind, path[:-1], within)[0]}: {echo(container)} has too few items"
    if rule == "missing":
        return f"key {key!r} is missing" + (f"; an example is {parent.example}" if parent and parent.example else "")
    if rule == "extra_forbidden":
        names = list(parent.model_fields) if parent else []
        close = did_you_mean(str(path[-1]), names) or f"; known keys: {', '.join(names)}"
        return f"key {key!r} is not known{close}"
    if rule == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    if rule == "too_long" and context["actual_length"]:
        return f"{key}: has {context['actual_length']:,} items, and {context['max_length']:,} are the most"
    number = TAGS.get(rule.removesuffix("_type"))
    if isinstance(value, str) and number and re.fullmatch(number, value):
        return f"{key}: {echo(value)} is text; without the quotes it is a number"
    if section and section.example and rule == "model_type":
        by_option = written.locate(path) == "--set"
        example = describe_example(key, section, "--set") if by_option else section.example
        must = f"must be a mapping such as {example}"
    elif field and field.description:
        must = f"must be {field.description}"
    else:
        must = _RULES.get(rule) or error["msg"].removeprefix("Input ").replace("should be", "must be")
    if isinstance(value, str) and rule == "literal_error":
        choices = context["expected"].replace(" or ", ",").split(",")
        must += did_you_mean(value, [choice.strip("' ") for choice in choices])
    if rule == "bool_type" and str(value).lower() in YES_OR_NO:
        must += f"; write {YES_OR_NO[str(value).lower()]}"
    return f"{key}: {echo(value)} {must}"


def _find_place(
    kind: type[ConfigSection], path: KeyPath, within: KeyPath
) -> tuple[str, type[ConfigSection] | None, FieldInfo | None, type[ConfigSection] | None]:
    """Return the dotted key of a path, the section that contains it, its field, and the section that it holds."""
    keys: list[str | int] = [*within]
    parent, field, section = None, None, kind
    for i, part in enumerate(path):
        if isinstance(part, int):
            field = None
        else:
            if section and i and isinstance(path[i - 1], int):
                keys = []  # a section in a list, such as an arm, is told by its line alone
            parent, field = section, section.model_fields.get(part) if section else None
            section = find_section(field.annotation) if field else None
        keys = [section.written_as] if section and section.written_as else [*keys, part]
    return ".".join(map(str, keys)), parent, field, section


def check_price(price: float | None, name: str = "price=") -> float | None:
    """Return the price of an hour.

    Raises:
        UserError: It is negative or not finite.
    """
    if price is not None and not (isinstance(price, int | float) and 0 <= price < math.inf):
        raise UserError(f"{name}{price}: must be a number from 0")
    return price
