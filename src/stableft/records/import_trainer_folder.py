"""What the Hugging Face Trainer leaves in the folder of a run.

all_results.json or eval_results.json (.txt in older versions) hold the scores at the end, trainer_state.json the losses
and evaluations on the way. training_args.bin is a pickle, which runs code when it is read, so it is never opened: the
seed is in a JSON file of arguments, in the model card (README.md), or in the folder's name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from stableft.catalog.tasks import METRICS
from stableft.config.run_config import Split
from stableft.errors import UserError
from stableft.records.import_evaluations import best_index
from stableft.records.import_json import describe_json, flatten_object, parse_json
from stableft.records.import_runs import find_known_task, metric_in_name
from stableft.records.import_values import (
    Place,
    PrintedNumber,
    cut_seed,
    find_seed,
    parse_number,
    parse_whole_number,
    to_float,
)

STATE_FILE = "trainer_state.json"
CHECKPOINT_FOLDER = re.compile(r"checkpoint-(\d+)", re.ASCII)
RESULT_FILES = ("all_results.json", "*eval_results*.json", "*predict_results*.json", "*test_results*.json")
TEXT_RESULT_FILES = ("eval_results*.txt", "test_results*.txt")
ARGUMENT_FILES = ("args.json", "training_args.json", "*_args.json", "arguments.json", "hparams.json", "run_config.json")
MODEL_CARD = "README.md"
CARD_SETTING = re.compile(r"^- (\w+): (.+)$", re.MULTILINE)  # of the list of hyper-parameters
CARD_TASK = re.compile(r"^ +args: (\w+)$", re.MULTILINE)  # of the data set
TEXT_RESULT = re.compile(r"^(\w+) = (.+)$", re.MULTILINE)
# How a seed ends a folder's name, if no file says it: seed_1, bert-seed1, run-3, or nothing but a number.
SEED_IN_NAME = re.compile(r"(?:^|(?<=[\W_]))(?:seed|run|s)[\s_\-=]*(\d+)$|^(\d+)$", re.ASCII | re.IGNORECASE)
PREFIXES: dict[Split, tuple[str, ...]] = {"val": ("eval_", ""), "test": ("test_", "predict_")}  # "": older versions
OTHER_SPLITS = ("train_", "test_", "predict_")
SPEED_KEYS = re.compile(r"runtime|per_second|samples|epoch|loss|step|flos|memory|mem_|time$|^seed$")


class PrintedSetting(NamedTuple):
    """An argument of a run, and the name of the file that says so."""

    text: str
    file: str


class TrainerEval(NamedTuple):
    """An evaluation on the way. `scores` are by key, without the prefix eval_."""

    step: int
    train_loss: float | None
    val_loss: float | None
    scores: dict[str, PrintedNumber]


@dataclass(frozen=True)
class TrainerRun:
    """What the files of one run say. `final` holds the scores at the end by split and key, `settings` all arguments."""

    folder: Path
    seed: int
    seed_from: str
    task: str | None
    arm: str
    evals: tuple[TrainerEval, ...]
    steps: int | None
    final: dict[Split, dict[str, PrintedNumber]]
    rows: dict[Split, int]
    best_step: int | None = None  # whose weights the Trainer calls the best, by its own metric
    settings: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)  # by file name

    def score_keys(self, split: Split = "val") -> list[str]:
        """Return the keys of the scores at the end, or of those on the way if there are none at the end."""
        logged = dict.fromkeys(key for point in self.evals for key in point.scores) if split == "val" else {}
        return list(self.final[split] or logged)

    def points(self, key: str) -> list[TrainerEval]:
        """Return the evaluations that have a score with this key."""
        return [point for point in self.evals if key in point.scores]

    def best_point(self, key: str) -> TrainerEval:
        """Return the evaluation that the Trainer calls the best, or else the one with the highest score."""
        points = self.points(key)
        chosen = [point for point in points if point.step == self.best_step]
        return chosen[0] if chosen else points[best_index([to_float(point.scores[key].value) for point in points])]

    def cells(self, key: str) -> list[PrintedNumber]:
        """Return all scores with this key."""
        final = [scores[key] for scores in self.final.values() if key in scores]
        return [*final, *(point.scores[key] for point in self.points(key))]


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder holds results or the state of the Trainer, rather than folders of runs."""
    if CHECKPOINT_FOLDER.fullmatch(folder.name):
        return False
    patterns = (STATE_FILE, f"checkpoint-*/{STATE_FILE}", *RESULT_FILES, *TEXT_RESULT_FILES)
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def read_trainer_run(folder: Path, pattern: re.Pattern[str] | None) -> TrainerRun:
    """Return what the files in a run's folder say. `pattern` finds the seed in the folder's name.

    Raises:
        UserError: a file cannot be read, the run is not finished, or there is no score or no seed.
    """
    contents: dict[str, bytes] = {}
    results = _read_results(folder, contents)
    state_file, state = _read_state(folder, contents, unfinished=not results)
    settings = _read_settings(folder, contents)
    evals, steps = _read_evals(state_file, state)
    best = CHECKPOINT_FOLDER.fullmatch(Path(str(state.get("best_model_checkpoint"))).name)
    final: dict[Split, dict[str, PrintedNumber]] = {
        split: _select_scores(results, prefixes) for split, prefixes in PREFIXES.items()
    }
    if not evals and not any(final.values()):
        raise UserError(f"{folder}: there is no score in it: neither in a file of results nor in {STATE_FILE}")
    seed, seed_from = _find_seed(folder, settings, results, pattern)
    task, arm = _find_task_and_arm(folder, settings, pattern)
    rows: dict[Split, int] = {
        split: parse_whole_number(cell.place, f"{prefix}samples", cell.text)
        for split, prefixes in PREFIXES.items()
        for prefix in prefixes
        if (cell := results.get(f"{prefix}samples")) and cell.value
    }
    texts = {key: setting.text for key, setting in settings.items()}
    best_step = int(best[1]) if best else None
    return TrainerRun(folder, seed, seed_from, task, arm, evals, steps, final, rows, best_step, texts, contents)


def _read_results(folder: Path, contents: dict[str, bytes]) -> dict[str, PrintedNumber]:
    """Return all numbers in the files of results by key."""
    found: dict[str, PrintedNumber] = {}
    for path in _find_files(folder, RESULT_FILES):
        row = flatten_object(Place(path), parse_json(Place(path), _read_text(path, contents)))
        found |= {key: cell for key, text in row.items() if (cell := _number(path, key, text)) and key not in found}
    for path in _find_files(folder, TEXT_RESULT_FILES):
        for key, text in TEXT_RESULT.findall(_read_text(path, contents)):
            if (cell := _number(path, key, text)) and key not in found:
                found[key] = cell
    return found


def _number(path: Path, key: str, text: str) -> PrintedNumber | None:
    try:
        return parse_number(Place(path), key, text)
    except UserError:  # such as a name
        return None


def _read_state(folder: Path, contents: dict[str, bytes], unfinished: bool) -> tuple[Path, dict[str, Any]]:
    """Return the state at the end: of the folder, or of its last checkpoint if that is at the end.

    Raises:
        UserError: the file is not such a state, or the run is `unfinished` and has only an earlier one.
    """
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := CHECKPOINT_FOLDER.fullmatch(path.name))]
    candidates = [folder / STATE_FILE, *(path / STATE_FILE for _, path in sorted(numbered, reverse=True))]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return folder / STATE_FILE, {}
    state = parse_json(Place(path), _read_text(path, contents, path.relative_to(folder).as_posix()))
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise UserError(f"{path}: there must be a log_history, as the Trainer writes it")
    done, planned = state.get("global_step"), state.get("max_steps")
    if path.parent != folder and str(done) != str(planned):
        if unfinished:
            raise UserError(f"{folder}: the run is not finished: {path} is at step {done} of {planned}")
        return path, {}  # the best checkpoint may be the only one that was kept
    return path, state


def _read_evals(path: Path, state: dict[str, Any]) -> tuple[tuple[TrainerEval, ...], int | None]:
    """Return the evaluations of a state's history, the first at each step, and the number of steps."""
    place, evals = Place(path), []
    losses: list[tuple[float, int]] = []  # mean since the previous entry, and the steps it is over
    logged = 0
    for entry in state.get("log_history", ()):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: log_history has {describe_json(entry)}, where an entry must be an object")
        step = parse_whole_number(place, "step", str(entry.get("step")))
        if (text := entry.get("loss")) is not None:
            losses.append((to_float(parse_number(place, "loss", str(text)).value), step - logged))
            logged = step
        cells = {key: cell for key, text in entry.items() if (cell := _number(path, key, str(text)))}
        scores = _select_scores(cells, ("eval_",))
        if not scores or (evals and evals[-1].step >= step):  # evaluated again when training had ended
            continue
        over = sum(n for _, n in losses)
        val_loss = to_float(cells["eval_loss"].value) if "eval_loss" in cells else None
        evals.append(TrainerEval(step, sum(loss * n for loss, n in losses) / over if over else None, val_loss, scores))
        losses = []
    done = state.get("global_step")
    return tuple(evals), None if done is None else parse_whole_number(place, "global_step", str(done))


def _select_scores(cells: dict[str, PrintedNumber], prefixes: Sequence[str]) -> dict[str, PrintedNumber]:
    """Return the cells of scores by key without prefix, of the first prefix that has any."""
    for prefix in prefixes:
        found = {
            key.removeprefix(prefix): cell
            for key, cell in cells.items()
            if key.startswith(prefix) and not SPEED_KEYS.search(key) and (prefix or _is_bare_metric(key))
        }
        if found:
            return found
    return {}


def _is_bare_metric(key: str) -> bool:
    return metric_in_name(key) in METRICS and not key.startswith(OTHER_SPLITS)


def _read_settings(folder: Path, contents: dict[str, bytes]) -> dict[str, PrintedSetting]:
    """Return the arguments in JSON files and in the model card by name."""
    settings: dict[str, PrintedSetting] = {}
    for path in _find_files(folder, ARGUMENT_FILES):
        row = flatten_object(Place(path), parse_json(Place(path), _read_text(path, contents)))
        settings = {key: PrintedSetting(text, path.name) for key, text in row.items()} | settings
    if (folder / MODEL_CARD).is_file():
        text = _read_text(folder / MODEL_CARD, contents)
        _, _, listed = text.partition("hyperparameters")
        found = CARD_SETTING.findall(listed.partition("\n#")[0])
        found += [("task_name", match[1])] if (match := CARD_TASK.search(text)) else []
        settings = {key: PrintedSetting(text, MODEL_CARD) for key, text in found} | settings
    return settings


def _find_seed(
    folder: Path,
    settings: dict[str, PrintedSetting],
    results: dict[str, PrintedNumber],
    pattern: re.Pattern[str] | None,
) -> tuple[int, str]:
    """Return the seed, and where it was found."""
    if pattern is None:
        if (cell := results.get("seed")) and (seed := find_seed(cell.text)) is not None:
            return seed, cell.place.file.name
        for key in sorted(settings, key=lambda key: (settings[key].file == MODEL_CARD, len(key))):  # outermost first
            if key.rpartition(".")[2] == "seed" and (seed := find_seed(settings[key].text)) is not None:
                return seed, settings[key].file
    match = (pattern or SEED_IN_NAME).search(folder.name)
    seed = find_seed(next(filter(None, match.groups()), "")) if match else None
    if seed is None:
        rule = f"--seed-pattern {pattern.pattern} does not match" if pattern else "there is none in"
        raise UserError(
            f"{folder}: the seed is not known: {rule} the folder's name"
            + ("" if pattern else ", in a file of arguments or in the model card; --seed-pattern says where it is")
        )
    return seed, "the folder's name"


def _find_task_and_arm(
    folder: Path, settings: dict[str, PrintedSetting], pattern: re.Pattern[str] | None
) -> tuple[str | None, str]:
    """Return the task, if it is known, and the arm: the folder's name without the seed, or that of a folder above."""
    names = [path.name for path in folder.parents if path.name]
    task_above = next((known for name in names[:2] if (known := find_known_task(name))), None)
    named = (find_known_task(settings["task_name"].text) if "task_name" in settings else None) or task_above
    own = cut_seed(folder.name, pattern or SEED_IN_NAME)
    above = [name for name in names if not find_known_task(name)]
    arm = own if own and own != folder.name and not find_known_task(own) else (above[0] if above else folder.name)
    return named.name if named else None, arm


def _find_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return list(dict.fromkeys(path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()))


def _read_text(path: Path, contents: dict[str, bytes], name: str | None = None) -> str:
    """Return the text of a file, whose content is added to `contents`."""
    try:
        content = path.read_bytes()
        contents[name or path.name] = content
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: the file is not text in UTF-8") from None
