"""The config of a run that is any training command: what it runs, on which inputs, and where its score is.

No shell runs it: it is split into arguments as a shell would do, and `{seed}`, `{out}` and `{device}` are filled in.
"""

import re
import shlex
from collections.abc import Mapping
from decimal import Decimal
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stableft.catalog.tasks import TASKS, TaskSpec
from stableft.config.run_config import (
    ConfigSection,
    Seeds,
    Sha256,
    Split,
    StartFrom,
    canonical_json,
    short_digest,
    without_none,
)
from stableft.errors import clip, did_you_mean

PLACEHOLDERS = ("seed", "out", "device")  # the seed, the run's own empty folder, and cpu or cuda:0
FILE_PLACEHOLDERS = ("seed", "out")
SHELL_WORDS = frozenset("| || & && ; > >> < << 2> 2>&1 &>".split())
SCORE_FILES = {".json": "key", ".jsonl": "key", ".csv": "column", ".tsv": "column"}  # and what names the score in it

# Digits of a fraction to which a score is compared with the baseline, which is written with as many as its user likes.
LEAST_COMPARED_DIGITS, MOST_COMPARED_DIGITS = 3, 6


def split_placeholders(text: str, known: tuple[str, ...] = PLACEHOLDERS) -> list[tuple[str, str | None]]:
    """Return the text as (literal, name of the placeholder after it) pairs; `{{` and `}}` are braces.

    Raises:
        ValueError: a brace is not closed, or a placeholder is not known.
    """
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        raise ValueError(f"{clip(repr(text))} has a single brace; write {{{{ and }}}} for braces") from None
    for _, name, spec, conversion in parts:
        if name is not None and (name not in known or spec or conversion):
            written = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
            listed = ", ".join(f"{{{one}}}" for one in known)
            raise ValueError(
                f"{clip(repr(written))} is no placeholder{did_you_mean(name, known)}; there are {listed}, and {{{{ and "
                "}} for braces"
            )
    return [(literal, name) for literal, name, *_ in parts]


def fill_placeholders(text: str, values: Mapping[str, object]) -> str:
    """Return the text with its placeholders replaced."""
    parts = split_placeholders(text)
    return "".join(literal + ("" if name is None else str(values[name])) for literal, name in parts)


def split_command(command: str) -> tuple[str, ...]:
    """Return the arguments of a command, with their placeholders.

    Raises:
        ValueError: a quote is not closed, it has no {seed}, another placeholder, or a word that only a shell obeys.
    """
    try:
        arguments = tuple(shlex.split(command))
    except ValueError as error:
        raise ValueError(f"{clip(repr(command))} cannot be split into arguments: {error}") from None
    if not arguments or not arguments[0]:
        raise ValueError(f"{clip(repr(command))} names no program")
    if "\0" in command:
        raise ValueError(f"{clip(repr(command))} has a NUL character")
    if word := next((word for word in arguments if word in SHELL_WORDS), None):
        raise ValueError(f"no shell runs it, so {word!r} would be an argument; put it into a script")
    names = {name for argument in arguments for _, name in split_placeholders(argument)}
    if "seed" not in names:
        raise ValueError(f"{clip(repr(command))} has no {{seed}}, so all its runs would be the same")
    return arguments


class ScoreMeaning(ConfigSection):
    """What the numbers of a score mean."""

    example: ClassVar[str] = "{scale: 100, range: [0, 100], better: higher}"
    scale: Literal[1, 100] = 1  # fractions, or percent
    range: Annotated[tuple[float, float], Field(strict=False)] | None = None  # on that scale; None: from 0 to it
    better: Literal["higher", "lower"] = "higher"

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible score, as fractions."""
        low, high = self.range or (0.0, float(self.scale))
        return low / self.scale, high / self.scale

    @model_validator(mode="after")
    def _range_fits_scale(self) -> Self:
        low, high = self.range or (0.0, self.scale)
        if low >= high:
            raise ValueError(f"range [{low:g}, {high:g}] must rise: it is the lowest possible score and the highest")
        if not -self.scale <= low < high <= self.scale:
            raise ValueError(
                f"range [{low:g}, {high:g}] must be within -{self.scale} and {self.scale}, because scale is "
                f"{self.scale}; divide larger scores, such as a perplexity, by a fixed number in the command"
            )
        return self


class CommandScore(ScoreMeaning):
    """Where a command leaves its score: in a file below {out}, or in the last line of its stdout with a pattern.

    The others of its keys say what the score means. For scores of recipes, `decide: score:` says that.
    """

    example: ClassVar[str] = "{file: '{out}/eval_results.json', key: eval_accuracy} or {pattern: 'accuracy: ([0-9.]+)'}"
    file: str | None = None
    key: str | None = Field(default=None, min_length=1)  # in JSON and JSON Lines, with dots between nested keys
    column: str | None = Field(default=None, min_length=1)  # in CSV and TSV, whose last row counts
    pattern: str | None = Field(default=None, min_length=1)  # a regular expression with one group: the number
    metric: str | None = Field(default=None, min_length=1)  # None: the task's, if stableft knows it, or else "score"

    @property
    def file_ending(self) -> str:
        """The ending of the file in lower case, with its dot."""
        return re.findall(r"\.\w+$|$", self.file or "")[0].lower()

    @model_validator(mode="after")
    def _source_is_clear(self) -> Self:
        if self.file is not None and self.pattern is not None:
            raise ValueError("pattern is for stdout; leave out file, or pattern")
        if self.file is not None:
            names = [name for _, name in _checked("file", split_placeholders, self.file, FILE_PLACEHOLDERS)]
            if "out" not in names:
                raise ValueError(f"file {clip(repr(self.file))} must be below {{out}}, the folder of its run alone")
            if self.file_ending not in SCORE_FILES:
                raise ValueError(f"file {clip(repr(self.file))} must end in one of {', '.join(SCORE_FILES)}")
        needed = SCORE_FILES.get(self.file_ending)
        for name in ("key", "column"):
            if (getattr(self, name) is None) == (name == needed):
                if name == needed:
                    raise ValueError(f"{name} is missing, which names the score in {clip(repr(self.file))}")
                raise ValueError(f"{name} {clip(repr(getattr(self, name)))} does not go with {_source_words(self)}")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"pattern {clip(repr(self.pattern))} is no regular expression: {error}") from None
            if groups != 1:
                raise ValueError(
                    f"pattern {clip(repr(self.pattern))} must have one group, around the number, and it has {groups}; "
                    "(?:...) is none"
                )
        return self


def _checked(key: str, function: Any, *arguments: Any) -> Any:
    """Return what the function does; the sentence of its ValueError then names the key."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{key} {error}") from None


def _source_words(score: CommandScore) -> str:
    return f"file {clip(repr(score.file))}" if score.file else "a pattern" if score.pattern else "no file"


class CommandData(ConfigSection):
    """The name of the task, which is a column of tables, and the files that the command reads."""

    task: str
    # SHA-256 by the path, pattern or folder as it is written; of several files it is over their names and sums.
    inputs: Mapping[str, Sha256] = Field(default={})
    # That of the files that an argument with {seed} names, which are part of the run's id but not of its setting's.
    seed_inputs: Mapping[str, Sha256] = Field(default={})
    own: None = None  # rows are the command's own matter


class CommandConfig(ConfigSection):
    """The complete config of a run that is a command. It has the seed of `RunConfig` twice: a command takes one."""

    data: CommandData
    command: tuple[str, ...]  # arguments, with their placeholders
    score: CommandScore
    baseline: float | None = None  # of the best constant prediction, on the score's scale; None: not known
    timeout: float | None = None  # seconds
    seeds: Seeds

    @property
    def run_id(self) -> str:
        """16 hex digits, equal for equal commands on equal inputs whose score is read alike."""
        of_seed = {"seed_inputs": self.data.seed_inputs} if self.data.seed_inputs else {}
        return short_digest(canonical_json({**self.setting(), "seed": self.seeds.init, **of_seed}))

    def setting(self) -> dict[str, Any]:
        """Return the nested values that identify the run, without its seed.

        The name of the task, what the score means to readers, the baseline and the time-out change no number.
        """
        values = self.model_dump(mode="json")
        read = {key: values["score"][key] for key in ("file", "key", "column", "pattern", "scale")}
        return without_none({"command": values["command"], "inputs": self.data.inputs, "score": read})

    def setting_id(self, ignored: tuple[str, ...] = ()) -> str:
        """Return 16 hex digits, equal for runs that differ only in their seeds; it has none of the settings ignored."""
        return short_digest(canonical_json(self.setting()))

    @property
    def task(self) -> TaskSpec:
        """The name of the task, with the metric of the score alone."""
        known = TASKS.get(self.data.task)
        metric = self.score.metric or (known.metric if known else "score")
        return TaskSpec(self.data.task, known.title if known else self.data.task, (), (), (metric,))

    @property
    def chance_score(self) -> float | None:
        """The baseline as a fraction."""
        return None if self.baseline is None else self.baseline / self.score.scale

    @property
    def compared_digits(self) -> int:
        """To how many digits a score is compared with the baseline: RTE's .52708 is the .527 that a user writes."""
        digits = -int(Decimal(repr(self.baseline)).as_tuple().exponent) + (2 if self.score.scale == 100 else 0)
        return min(max(digits, LEAST_COMPARED_DIGITS), MOST_COMPARED_DIGITS)

    @property
    def lower_is_better(self) -> bool:
        return self.score.better == "lower"

    @property
    def reported_split(self) -> Split:
        """A command is asked for one score, of whatever rows it evaluates on."""
        return "val"

    @property
    def start_from(self) -> StartFrom | None:
        """The sweep trains no weights for a command."""
        return None

    @property
    def written_command(self) -> str:
        """The command as a shell would take it."""
        return shlex.join(self.command)

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        score, used = self.score, {name for argument in self.command for _, name in split_placeholders(argument)}
        if score.file is None and score.pattern is None:
            raise ValueError(f"score: must say where the score is, such as {CommandScore.example}")
        if score.file is not None and "out" not in used:
            raise ValueError(f"command has no {{out}}, so it cannot know of score.file {clip(repr(score.file))}")
        if self.seeds.init != self.seeds.data:
            raise ValueError("seeds: a command has one {seed}, so init and data must be the same")
        low, high = (bound * score.scale for bound in score.bounds)
        if self.baseline is not None and not low <= self.baseline <= high:
            raise ValueError(
                f"baseline {self.baseline:g} must be on the score's scale, from {low:g} to {high:g}; score.scale is "
                f"{score.scale}"
            )
        return self
