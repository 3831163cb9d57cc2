"""Arms of a sweep file that are any training command: their keys, the sums of their inputs, and their configs."""

import glob
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from stableft.config.command_config import CommandConfig, CommandData, fill_placeholders, split_placeholders
from stableft.config.decide_rule import DecideRule
from stableft.config.local_files import file_digest
from stableft.config.run_config import Seeds
from stableft.config.sweep_keys import SweepKeys
from stableft.config.yaml_file import YamlValue
from stableft.errors import UserError, clip, echo

RECIPE_KEYS = ("recipe", "model", "set", "grid", "stop_hopeless", "probes")
COMMAND_KEYS = ("command", "baseline", "timeout", "inputs")
MAX_INPUT_FILES = 100_000  # of one entry of `inputs`; more are probably a slip such as "/", and take minutes to hash


def is_command_arm(file: SweepKeys, arm: SweepKeys, name: str | None, where: str) -> bool:
    """Return whether an arm is a command: its own recipe or command decides, or else that at the top of the file.

    Raises:
        UserError: both are given, or a key that does not go with the one given.
    """
    own = [key for key in ("recipe", "command") if getattr(arm, key) is not None]
    both = own or [key for key in ("recipe", "command") if getattr(file, key) is not None]
    if len(both) == 2:
        raise UserError(f"{where}: command: an arm has a recipe or a command, not both")
    is_command = both == ["command"]
    wrong = RECIPE_KEYS if is_command else COMMAND_KEYS
    keys = next((key for key in wrong if key in arm.model_fields_set and getattr(arm, key) is not None), None)
    name = name or Path(arm.recipe or file.recipe or "command").stem
    if keys:
        kind = "a command, which says itself what it trains" if is_command else "no command"
        raise UserError(f"{where}: {keys}: arm {name!r} has {kind}, so it takes no {keys}")
    if not is_command and arm.score is not None and (arm.score.file is not None or arm.score.pattern is not None):
        raise UserError(f"{where}: score: arm {name!r} has no command, whose score would be read from there")
    if not is_command and arm.score is not None:
        raise UserError(
            f"{where}: score: {echo(arm.score.model_dump(exclude_unset=True))} has no effect, because arm {name!r} has "
            "no command; what scores mean to a claim is said in decide.score"
        )
    return is_command


def check_margin_scale(name: str, keys: SweepKeys, written: Mapping[str, YamlValue], rule: DecideRule | None) -> None:
    """Raise UserError if a rule has a margin for means, in points, and a command of its claims states no scale."""
    if not (rule and rule.margin and rule.margin.mean and keys.score and name in (rule.between or [name])):
        return
    if "scale" not in keys.score.model_fields_set:
        raise UserError(
            f"{written['score'].where}: score.scale is missing, and decide.margin.mean is in points, its hundredths: "
            f"write whether the scores of arm {name!r} are fractions (scale: 1) or percent (scale: 100)"
        )


def make_command_configs(
    keys: SweepKeys, written: Mapping[str, YamlValue], where: str, folder: Path
) -> list[CommandConfig]:
    """Return the configs of an arm's runs, one for each seed. `folder` is that of the sweep file, as an absolute path.

    Raises:
        UserError: a key is missing or does not fit the others, or an input is not there.
    """
    for key in ("score", "seeds"):
        if getattr(keys, key) is None:
            raise UserError(f"{written[key].where}: key {key!r} is missing")
    assert keys.command is not None
    assert keys.seeds is not None
    task = _task_name(written["task"])
    named = dict.fromkeys((*(keys.inputs or ()), *_named_files(keys.command, folder)))
    inputs = sum_inputs(folder, named, written["inputs"].where if keys.inputs else where)
    of_seeds = [sum_inputs(folder, _named_files(keys.command, folder, seed), where) for seed, _ in keys.seeds.pairs]
    values = {key: getattr(keys, key) for key in ("command", "score", "baseline", "timeout")}
    try:
        return [
            CommandConfig(
                data=CommandData(task=task, inputs=inputs, seed_inputs=of_seed), seeds=Seeds(init=i, data=d), **values
            )
            for (i, d), of_seed in zip(keys.seeds.pairs, of_seeds, strict=True)
        ]
    except ValidationError as error:
        sentence = str(error.errors()[0].get("ctx", {}).get("error") or error.errors()[0]["msg"])
        key = sentence.split()[0].rstrip(":")
        raise UserError(f"{written[key].where if key in written else where}: {sentence}") from None


def _task_name(written: YamlValue) -> str:
    """Return the name of a command's task, which is that of the user's own data too."""
    value = written.value[0] if isinstance(written.value, list) and len(written.value) == 1 else written.value
    value = value.get("name") if isinstance(value, dict) else value
    if value is None:
        raise UserError(f"{written.where}: key 'task' is missing; a command's is the name of a column of tables")
    if not isinstance(value, str):
        raise UserError(f"{written.where}: task: {echo(value)} must be one name, because a command has one task")
    return value


def _named_files(command: Iterable[str], folder: Path, seed: int | None = None) -> Iterator[str]:
    """Yield the files that arguments name, as a whole or after an equals sign: by {seed} if one is given, or without.

    The program is one of them, unless it is an interpreter.
    """
    for i, argument in enumerate(command):
        for text in _texts_of(argument, seed):
            try:
                if (folder / text).is_file() and not (i == 0 and _is_interpreter(Path(text), folder)):
                    yield text
            except (OSError, ValueError):  # too long for a path, or an interpreter that nobody may read
                continue


def _texts_of(argument: str, seed: int | None) -> list[str]:
    """Return what may be a path in an argument whose only placeholder is {seed}, or that has none if `seed` is None.

    The number alone is none.
    """
    names = {name for _, name in split_placeholders(argument) if name is not None}
    if names != ({"seed"} if seed is not None else set()):
        return []
    whole = fill_placeholders(argument, {"seed": seed})
    return [text for text in (whole, whole.partition("=")[2]) if text not in ("", str(seed))]


def _is_interpreter(program: Path, folder: Path) -> bool:
    """Return whether a program with a full path is a binary from elsewhere: neither a script nor the sweep's own."""
    if not program.is_absolute() or program.resolve().is_relative_to(folder):
        return False
    with open(program, "rb") as file:
        return file.read(2) != b"#!"


def named_folders(config: CommandConfig, folder: Path) -> Iterator[str]:
    """Yield the folders that arguments name and `inputs` does not, of which no file is hashed."""
    for argument in config.command[1:]:
        for text in (*_texts_of(argument, None), *_texts_of(argument, config.seeds.init)):
            try:
                if text not in config.data.inputs and (folder / text).is_dir():
                    yield text
            except (OSError, ValueError):
                continue


def sum_inputs(folder: Path, names: Iterable[str], where: str) -> dict[str, str]:
    """Return name -> SHA-256 of files; of a folder or pattern, that over the sums and names of its files.

    Raises:
        UserError: there is no such file, it cannot be read, or there are too many.
    """
    return {name: _sum_input(folder, name, where) for name in names}


def _sum_input(folder: Path, name: str, where: str) -> str:
    path = folder / name
    try:
        if path.is_file():
            return file_digest(str(path))
        base, pattern = (path, "**") if path.is_dir() else (folder, name)
        found = (base / file for file in glob.iglob(pattern, root_dir=base, recursive=True, include_hidden=True))
        files = list(itertools.islice((file for file in found if file.is_file()), MAX_INPUT_FILES + 1))
        lines = sorted(f"{file_digest(str(file))}  {os.path.relpath(file, base)}\n" for file in files)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: inputs: {echo(name)} cannot be read: {clip(error)}") from None
    if not files or len(files) > MAX_INPUT_FILES:
        number = f"more than {MAX_INPUT_FILES:,} files" if files else "no file"
        raise UserError(f"{where}: inputs: {echo(name)} names {number} in {folder}")
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def check_no_input_written(config: CommandConfig, folder: Path) -> None:
    """Raise UserError if a command that has ended wrote a file that it names, which then is in the ids of its runs."""
    known = {**config.data.inputs, **config.data.seed_inputs}
    of_seed = dict.fromkeys(_named_files(config.command, folder, config.seeds.init))
    written = [name for name in _named_files(config.command, folder) if name not in known]
    now = sum_inputs(folder, of_seed, str(folder))
    written += [name for name in of_seed if known.get(name) != now[name]]
    if written:
        raise UserError(
            f"{folder / written[0]}: the command wrote this file, which one of its arguments names, so it would be an "
            "input now and its runs would have other ids: remove it, and let the command write below {out}; the run "
            "itself is recorded"
        )


def check_inputs_unchanged(config: CommandConfig, folder: Path) -> None:
    """Raise UserError if an input is not what the run's id says."""
    planned = {**config.data.inputs, **config.data.seed_inputs}
    now = sum_inputs(folder, planned, str(folder))
    changed = [name for name, digest in planned.items() if now[name] != digest]
    if changed:
        raise UserError(
            f"{folder / changed[0]} has changed since the sweep began, and its runs are of the file as it was: start "
            "the sweep again, whose runs then have other ids"
        )
