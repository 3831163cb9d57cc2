"""The key `decide` of a sweep file: a claim about its arms, stated before the runs, and when it is decided."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from stableft.catalog.tasks import CORRELATIONS, METRICS
from stableft.config.command_config import CommandConfig, ScoreMeaning
from stableft.config.run_config import ConfigSection, RunConfig
from stableft.config.validation import to_user_error
from stableft.config.yaml_file import KeyPath, YamlValue, load_yaml, parse_yaml
from stableft.errors import UserError, clip, did_you_mean, echo

About = Literal["failures", "mean", "spread"]
MAX_LOOK = 200  # runs of an arm: the exact boundaries of more take long
MAX_CLAIM_ARMS = 50


class Margins(ConfigSection):
    """Points within which two arms are called equivalent; None: they never are."""

    example: ClassVar[str] = "{mean: 1.0, failures: 10}"
    mean: float | None = Field(default=None, gt=0, lt=100, description="a number of points above 0 and below 100")
    failures: float | None = Field(default=None, gt=0, lt=100, description="a number of points above 0 and below 100")


def _as_list(value: Any) -> Any:
    names = get_args(About)
    if not isinstance(value, list) and value not in names:
        close = did_you_mean(value, names) if isinstance(value, str) else ""
        raise ValueError(f"{echo(value)} must be failures, mean or spread, or a list of these{close}")
    return value if isinstance(value, list) else [value]


def _check_looks(value: Any) -> Any:
    if value == "any":
        return value
    if not isinstance(value, list):
        raise ValueError(f"{echo(value)} must be a list of numbers of runs of each arm, or any")
    for before, look in zip([1, *value], value, strict=False):
        if isinstance(look, bool) or not isinstance(look, int):
            raise ValueError(f"{echo(look)} must be a whole number of runs of each arm")
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
    looks: Annotated[list[int] | Literal["any"], BeforeValidator(_check_looks)]
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
    margins = [f"{describe_points(n)} in {ABOUT_TITLES[name]}" for name, n in rule.margin or () if n is not None]
    text += f"; equivalent within {' and '.join(margins)}" if margins else ""
    if rule.share == "graph":
        text += "; a decided claim passes its share of alpha on"
    return text + (f"; {rule.score.better} scores are better" if rule.score else "")


def describe_points(number: float) -> str:
    return f"{number:g} point{'s' * (number != 1)}"


def check_arms(between: Sequence[str], names: Sequence[str], where: str = "decide: between") -> None:
    """Raise a UserError if an arm of a claim is not there, or there is only one."""
    for name in between:
        if name not in names:
            known = clip(", ".join(names))
            raise UserError(f"{where}: there is no arm {name!r}, there are {known}{did_you_mean(name, names)}")
    if len(between) < 2:
        raise UserError(f"{where}: a claim needs two arms, here is {', '.join(between) or 'none'}")


class ClaimScore(NamedTuple):
    """The score of an arm: its metric, and what a command's score means. The metric says it of all others."""

    arm: str
    metric: str
    meaning: ScoreMeaning | None = None

    @property
    def own_meaning(self) -> ScoreMeaning | None:
        """What the scores mean, None: not known."""
        if self.meaning or self.metric not in METRICS:
            return self.meaning
        return ScoreMeaning(range=(-1.0, 1.0) if self.metric in CORRELATIONS else (0.0, 1.0))

    def describe(self) -> str:
        """Return what must be the same in all arms of a claim. Scores in percent are compared as fractions."""
        if (meaning := self.own_meaning) is None:
            return self.metric
        low, high = meaning.bounds
        return f"{self.metric} (from {low:g} to {high:g}, {meaning.better} is better)"


def check_scores(rule: DecideRule, scores: Sequence[ClaimScore], where: str = "decide: between") -> None:
    """Raise a UserError if the scores of arms cannot be compared, or a command's are not what the rule says."""
    for one in scores:
        if one.describe() != scores[0].describe():
            raise UserError(
                f"{where}: the scores of arms {scores[0].arm!r} and {one.arm!r} cannot be compared: they are "
                f"{scores[0].describe()} and {one.describe()}"
            )
        if rule.score and one.meaning and rule.score.better != one.meaning.better:
            raise UserError(
                f"{where}: {one.meaning.better} scores of arm {one.arm!r} are better, but decide.score.better is "
                f"{rule.score.better}"
            )


def find_meaning(rule: DecideRule, scores: Sequence[ClaimScore]) -> ScoreMeaning | None:
    """Return what the scores of a claim's arms mean: as the rule says, or they do themselves. None: not known.

    A rule that leaves out the range keeps theirs.
    """
    own = scores[0].own_meaning if scores else None
    if rule.score is None or rule.score.range is not None or own is None:
        return rule.score or own
    return ScoreMeaning(range=own.bounds, better=rule.score.better)


def _first_look(rule: DecideRule, about: About, looks: Sequence[int], level: float) -> int | None:
    """Return the runs of each arm at the first of these looks that can find a difference at a level, or None."""
    from stableft.stats.anytime import first_run_that_can_stop
    from stableft.stats.sequential import LookPlan, first_look_that_can_stop

    if rule.looks == "any":
        return first_run_that_can_stop(about == "failures", level, looks[-1])
    return first_look_that_can_stop(about, LookPlan(tuple(looks), looks[-1], level, rule.spending))


def check_can_stop(rule: DecideRule, claims: int, looks: Sequence[int], where: str = "decide: looks") -> None:
    """Raise a UserError if there is a quantity in which no look can find a difference at its share of alpha."""
    level = rule.alpha / claims
    first: dict[About, int | None] = {about: _first_look(rule, about, looks, level) for about in rule.about}
    passed_on = rule.share == "graph" and any(n and not getattr(rule.margin, about, None) for about, n in first.items())
    for about, n in first.items():
        if n or (passed_on and _first_look(rule, about, looks, rule.alpha)):
            continue
        longer = (_first_look(rule, about, [most], level) for most in range(2, MAX_LOOK + 1))
        possible = next((n for n in longer if n), None)
        could = f"the first that could is at {possible} runs of each arm" if possible else "no other could"
        shared = f", the share of each of {claims} claims" if claims > 1 else ""
        raise UserError(
            f"{where}: no look at {looks[-1]} runs of each arm or fewer can find a difference in the "
            f"{ABOUT_TITLES[about]} at level {level:.2g}{shared}: {could}"
        )


class ClaimArm(NamedTuple):
    """An arm of a sweep on one task: its config, the checkpoint it reports, and where it and its keys are written."""

    name: str
    config: RunConfig | CommandConfig
    report: str
    seeds: int
    stops_early: bool
    where: str
    written: Mapping[str, YamlValue]

    @property
    def task(self) -> str:
        return self.config.data.task

    @property
    def score(self) -> ClaimScore:
        meaning = self.config.score if isinstance(self.config, CommandConfig) else None
        return ClaimScore(self.name, self.config.task.metric, meaning)


def check_rule(rule: DecideRule, document: YamlValue, arms: Sequence[ClaimArm]) -> None:
    """Raise a UserError if a claim of the rule cannot be decided by these arms, or makes no sense of their scores."""
    names = list(dict.fromkeys(arm.name for arm in arms))
    between = rule.between or names
    at = {key: f"{document.locate(('decide', key))}: decide.{key}" for key in ("between", "looks")}
    check_arms(between, names, at["between"])
    for arm in arms:
        if arm.name not in between:
            continue
        if arm.stops_early:
            raise UserError(
                f"{arm.written['stop_hopeless'].where}: stop_hopeless: the better half of arm {arm.name!r} is no "
                "sample to decide by"
            )
        if isinstance(rule.looks, list) and arm.seeds < rule.looks[-1]:
            raise UserError(
                f"{at['looks']}: the last look is at {rule.looks[-1]} runs of each arm, but {arm.name!r} on {arm.task} "
                f"has {arm.seeds} seeds"
            )
        if "failures" in rule.about and isinstance(arm.config, CommandConfig) and arm.config.baseline is None:
            raise UserError(
                f"{arm.where}: baseline: is missing, without which it is not known which runs of arm {arm.name!r} "
                "failed, and decide.about is failures; give the score of the best constant prediction"
            )
    places = {(arm.name, arm.task): arm for arm in arms}
    pairs = [
        (places[between[0], task], places[other, task])
        for task, other in product(dict.fromkeys(arm.task for arm in arms), between[1:])
        if (between[0], task) in places and (other, task) in places
    ]
    if not pairs:
        raise UserError(f"{at['between']}: {' and '.join(between)} have no task in common")
    for pair in pairs:
        check_scores(rule, [arm.score for arm in pair], at["between"])
        shown = [f"{arm.report} on {arm.config.reported_split}" for arm in pair if isinstance(arm.config, RunConfig)]
        if len(set(shown)) > 1:
            raise UserError(
                f"{at['between']}: arms {pair[0].name!r} and {pair[1].name!r} report scores of different checkpoints "
                f"or splits, {' and '.join(shown)}; give both the same evaluation.report and data.split"
            )
    most = min(arm.seeds for pair in pairs for arm in pair)
    check_can_stop(rule, len(pairs) * len(rule.about), [most] if rule.looks == "any" else rule.looks, at["looks"])


ABOUT_TITLES: dict[str, str] = {"failures": "failure rate", "mean": "mean", "spread": "spread"}
SPENDING_TITLES = {"pocock": "Pocock", "obrien-fleming": "O'Brien and Fleming"}
