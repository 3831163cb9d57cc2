"""The key `decide` of a sweep file: a claim about its arms, stated before the runs, and when it is decided."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from stableft.config.command_config import ScoreMeaning
from stableft.config.run_config import ConfigSection
from stableft.config.settings import describe_value
from stableft.config.validation import to_user_error
from stableft.config.yaml_file import KeyPath, YamlValue, load_yaml, parse_yaml
from stableft.errors import UserError, clip, did_you_mean

About = Literal["failures", "mean", "spread"]
MAX_LOOK = 200  # runs of an arm: the exact boundaries of more take long
MAX_CLAIM_ARMS = 50


class Margins(ConfigSection):
    """Points within which two arms are called equivalent; None: they never are."""

    example: ClassVar[str] = "{mean: 1.0, failures: 10}"
    mean: float | None = Field(default=None, gt=0, lt=100, description="a number of points above 0 and below 100")
    failures: float | None = Field(default=None, gt=0, lt=100, description="a number of points above 0 and below 100")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _check_looks(value: Any) -> Any:
    if value == "any" or not isinstance(value, list) or not value:
        return value
    for before, look in zip([1, *value], value, strict=False):
        if isinstance(look, bool) or not isinstance(look, int):
            raise ValueError(f"{describe_value(look)} must be a whole number of runs of each arm")
        if look <= before:
            rule = "be at least 2" if before == 1 and look is value[0] else f"be more than the look before it, {before}"
            raise ValueError(f"{look} must {rule}: looks rise, such as [5, 10, 15, 20, 25, 35, 50]")
        if look > MAX_LOOK:
            raise ValueError(f"{look} must be at most {MAX_LOOK} runs of each arm")
    return value


class DecideRule(ConfigSection):
    """When runs are enough for a claim, and which error it may make."""

    example: ClassVar[str] = "{between: [devlin, mosbach], about: failures, looks: [5, 10, 15, 20, 25]}"
    between: list[str] | None = Field(
        default=None, min_length=2, max_length=MAX_CLAIM_ARMS, description="a list of the names of two arms or more"
    )  # the others against the first; None: all arms
    about: Annotated[
        list[About],
        BeforeValidator(_as_list),
        Field(min_length=1, description="failures, mean or spread, or a list of these"),
    ]
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="a number above 0 and below 0.5")
    margin: Margins | None = None
    looks: Annotated[
        list[int] | Literal["any"],
        BeforeValidator(_check_looks),
        Field(description="a list of numbers of runs of each arm, such as [5, 10, 20], or any"),
    ]
    spending: Literal["pocock", "obrien-fleming"] = "pocock"
    share: Literal["bonferroni", "graph"] = "bonferroni"
    score: ScoreMeaning | None = None  # None: that of the metric, or of the command

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        for key, names in (("between", self.between or []), ("about", [*map(str, self.about)])):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice:
                raise ValueError(f"{key}: {twice!r} is listed twice")
        if self.looks == "any" and "spread" in self.about:
            raise ValueError("looks: any has no rule for spread; give numbers of runs")
        if isinstance(self.looks, list) and not self.looks:
            raise ValueError("looks: the list is empty")
        for name in ("mean", "failures"):
            if self.margin and getattr(self.margin, name) is not None and name not in self.about:
                raise ValueError(f"margin: {name} is given, but the claim is about {' and '.join(self.about)}")
        return self


def parse_rule(document: YamlValue) -> DecideRule | None:
    """Return the rule under the key `decide` of a sweep file, or None without one."""
    if not isinstance(document.value, dict) or document.value.get("decide") is None:
        return None
    return _validate_rule(document.item("decide"), ("decide",))


def read_rule(texts: Sequence[str]) -> DecideRule | None:
    """Return the rule that `--rule` gives: KEY=VALUE texts, or one sweep file with the key `decide`; None without any.

    Raises:
        UserError: A text is neither, a key is given twice, or the rule is not valid.
    """
    if len(texts) == 1 and texts[0].endswith(".yaml"):
        rule = parse_rule(load_yaml(Path(texts[0])))
        if rule is None:
            raise UserError(f"--rule {texts[0]}: this file has no key 'decide'")
        return rule
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise UserError(f"--rule {clip(text)}: must be KEY=VALUE, such as about=failures, or a sweep file")
        if key in values:
            raise UserError(f"--rule {key}: it is given twice")
        values[key] = parse_yaml(value, f"--rule {key}").value
    return _validate_rule(YamlValue(values, "--rule")) if values else None


def _validate_rule(written: YamlValue, within: KeyPath = ()) -> DecideRule:
    try:
        return DecideRule.model_validate(written.value)
    except ValidationError as error:
        raise to_user_error(error, DecideRule, written, within) from None


def describe_rule(rule: DecideRule, between: list[str] | None = None) -> str:
    """Return the rule in one sentence, as it is printed before any result."""
    names = between or rule.between
    arms = "every arm against the first" if not names else f"{' and '.join(names[1:])} against {names[0]}"
    looks = (
        "every pair of runs"
        if rule.looks == "any"
        else f"{', '.join(map(str, rule.looks))} runs of each, error spent as {SPENDING_TITLES[rule.spending]}"
    )
    about = " and ".join(f"the {ABOUT_TITLES[about]}" for about in rule.about)
    text = f"{arms}: {about}, alpha {rule.alpha:g}, looked at {looks}"
    margins = [f"{value:g} points in {ABOUT_TITLES[name]}" for name, value in rule.margin or () if value is not None]
    text += f"; equivalent within {' and '.join(margins)}" if margins else ""
    if rule.share == "graph":
        text += "; a decided claim passes its share of alpha on"
    return text + (f"; {rule.score.better} scores are better" if rule.score else "")


def check_arms(between: Sequence[str], names: Sequence[str], where: str = "decide: between") -> None:
    """Raise a UserError if an arm of a claim is not there, or there is only one."""
    for name in between:
        if name not in names:
            known = clip(", ".join(names))
            raise UserError(f"{where}: there is no arm {name!r}, there are {known}{did_you_mean(name, names)}")
    if len(between) < 2:
        raise UserError(f"{where}: a claim needs two arms, here is {', '.join(between) or 'none'}")


class ClaimArm(NamedTuple):
    """An arm of a sweep on one task. `stops_at` is where its early stopping is written, if it has any."""

    name: str
    task: str
    seeds: int
    stops_at: str | None


def check_rule(rule: DecideRule, document: YamlValue, arms: Sequence[ClaimArm]) -> None:
    """Raise a UserError if the arms of a rule are not there, stop early, or have fewer seeds than its looks need."""
    names = list(dict.fromkeys(arm.name for arm in arms))
    check_arms(rule.between or names, names, f"{document.locate(('decide', 'between'))}: decide.between")
    for arm in arms:
        if arm.name not in (rule.between or names):
            continue
        if arm.stops_at:
            raise UserError(
                f"{arm.stops_at}: stop_hopeless: the better half of arm {arm.name!r} is no sample to decide by"
            )
        if isinstance(rule.looks, list) and arm.seeds < rule.looks[-1]:
            raise UserError(
                f"{document.locate(('decide', 'looks'))}: decide.looks: the last look is at {rule.looks[-1]} runs of "
                f"each arm, but {arm.name!r} on {arm.task} has {arm.seeds} seeds"
            )


ABOUT_TITLES: dict[str, str] = {"failures": "failure rate", "mean": "mean", "spread": "spread"}
SPENDING_TITLES = {"pocock": "Pocock", "obrien-fleming": "O'Brien and Fleming"}
