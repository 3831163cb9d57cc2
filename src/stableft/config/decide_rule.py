"""The key `decide` of a sweep file: a claim about its arms, stated before the runs, and when it is decided."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from stableft.config.run_config import ConfigSection
from stableft.config.settings import describe_value

About = Literal["failures", "mean", "spread"]
MAX_LOOK = 200  # runs of an arm: the exact boundaries of more take long
MAX_CLAIM_ARMS = 50


class ScoreScale(ConfigSection):
    """What a score is: 1 or 100 as its best value, its range on that scale, and which end is better."""

    example: ClassVar[str] = "{scale: 100, range: [0, 100], better: higher}"
    scale: Literal[1, 100] = 1
    range: Annotated[
        list[float], Field(min_length=2, max_length=2, description="a list of two numbers, such as [0, 1]")
    ]
    better: Literal["higher", "lower"] = "higher"

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range {describe_value(self.range)} must rise")
        return self


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
    score: ScoreScale | None = None  # None: that of the metric, if it is a known one

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


def describe_rule(rule: DecideRule, between: list[str] | None = None) -> str:
    """Return the rule in one sentence, as it is printed before any result."""
    names = between or rule.between
    arms = "every arm against the first" if not names else f"{' and '.join(names[1:])} against {names[0]}"
    looks = (
        "after every run of both"
        if rule.looks == "any"
        else f"at {', '.join(map(str, rule.looks))} runs of each, error spent as {SPENDING_TITLES[rule.spending]}"
    )
    about = " and ".join(f"the {ABOUT_TITLES[about]}" for about in rule.about)
    text = f"{arms}: {about}, alpha {rule.alpha:g}, looked {looks}"
    margins = [f"{value:g} points in {ABOUT_TITLES[name]}" for name, value in rule.margin or () if value is not None]
    text += f"; equivalent within {' and '.join(margins)}" if margins else ""
    if rule.share == "graph":
        text += "; a decided claim passes its share of alpha on"
    return text + (f"; {rule.score.better} scores are better" if rule.score else "")


ABOUT_TITLES: dict[str, str] = {"failures": "failure rate", "mean": "mean", "spread": "spread"}
SPENDING_TITLES = {"pocock": "Pocock", "obrien-fleming": "O'Brien and Fleming"}
