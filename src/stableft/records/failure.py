"""What counts as failed: a run whose last score is NaN or no better than chance, whatever the metric.

The papers count by accuracy alone (M sec. 3.2): `is_run_failed` with that metric gives their verdict.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from stableft.catalog.tasks import CORRELATIONS, TASKS, TaskSpec
from stableft.config.command_config import CommandConfig
from stableft.config.run_config import Checkpoint, RunConfig, Split
from stableft.records.run_record import AnyRunRecord, DataRecord, ImportedRun, RunRecord

# The 95 % quantile of the standard normal: without any association, sqrt(n) times a correlation is above it in one of
# 20 samples of n rows.
NOISE_QUANTILE = 1.645
HIGHER_IS_BETTER, LOWER_IS_BETTER = "higher is better", "lower is better"
MIN_COMPARED_DIGITS, MAX_COMPARED_DIGITS = 4, 6  # to which an imported fraction is compared with the chance level


class Chance(NamedTuple):
    """Scores that need no learning. None: not known."""

    constant: float | None  # of the best constant prediction
    level: float | None  # the highest score that counts as failed, or the lowest where lower is better


def is_failed(score: float, level: float, digits: int | None = None) -> bool:
    """Return whether a score is NaN or at most the chance level, both rounded to `digits` if given.

    A score printed as .5252 is the constant predictor's 73/139 = .52518.
    """
    if digits is not None:
        score, level = round(score, digits), round(level, digits)
    return math.isnan(score) or score <= level + 1e-12  # equal scores may differ by rounding


def chance_level(metric: str, constant: float | None, rows: int | None) -> float | None:
    """Return the highest score that counts as failed, given the best constant prediction's and the rows of the split.

    A correlation fails up to what noise gives it; all other metrics up to the best constant prediction.
    """
    if metric in CORRELATIONS:
        return NOISE_QUANTILE / math.sqrt(rows) if rows else None
    return constant


def best_constant_score(metric: str, baselines: Mapping[str, float]) -> float | None:
    """Return the score of the best constant prediction, given those of the most frequent class. None: not known.

    Always predicting the most frequent class is best by accuracy, but if that class is "no", its F1 is 0 and always
    predicting "yes" has a higher one.
    """
    if metric in CORRELATIONS:
        return 0.0
    score, accuracy = baselines.get(metric), baselines.get("accuracy")
    if score is None or metric not in ("f1", "accuracy_f1"):
        return score
    if accuracy is None:
        return score or None  # 0: the most frequent class is "no", of unknown share
    f1 = baselines.get("f1", 2 * baselines.get("accuracy_f1", 0.0) - accuracy)
    if f1 > 1e-9:  # the most frequent class is "yes"
        return score
    share = 1 - accuracy  # of "yes"
    f1 = 2 * share / (1 + share)
    return f1 if metric == "f1" else max(score, (share + f1) / 2)


def majority_baselines(counts: Sequence[int]) -> dict[str, float]:
    """Return the scores of always predicting the most frequent class by metric, given the rows of each class."""
    majority = counts.index(max(counts))
    accuracy = counts[majority] / sum(counts)
    if len(counts) != 2:
        return {"accuracy": accuracy}
    f1 = 2 * counts[1] / (2 * counts[1] + counts[0]) if majority == 1 else 0.0
    return {"accuracy": accuracy, "f1": f1, "accuracy_f1": (accuracy + f1) / 2}


def known_constant_score(task: TaskSpec | None, split: Split, metric: str) -> float | None:
    """Return the score of the best constant prediction on a split of a task of the papers. None: not known."""
    return best_constant_score(metric, _known_baselines(task, split))


def _known_baselines(task: TaskSpec | None, split: Split) -> dict[str, float]:
    counts = task.split_counts(split) if task else None
    return majority_baselines(counts) if counts else {}


def find_chance_in_data(data: DataRecord | None, split: Split, metric: str) -> Chance:
    """Return the chance scores of a run of this project, given the data it used."""
    if data is None:
        return Chance(None, None)
    constant = best_constant_score(metric, data.baselines.get(split, {}))
    return Chance(constant, chance_level(metric, constant, data.val_rows if split == "val" else data.test_rows))


def find_chance(record: AnyRunRecord, split: Split, metric: str) -> Chance:
    """Return the chance scores by a metric on the split that a run is reported on."""
    if not isinstance(record, ImportedRun):
        config = record.config
        if isinstance(config, CommandConfig):
            level = config.chance_score if metric == config.task.metric else None
            return Chance(level, level)
        return find_chance_in_data(record.data, split, metric)
    task = TASKS.get(record.task)
    older = record.digits is None  # from before `rows` was stored, with the majority's score as baseline
    rows = task.split_rows(split) if older and task else record.rows
    baselines = _known_baselines(task, split)
    usual = baselines.get(record.metric) if older else best_constant_score(record.metric, baselines)
    if metric in CORRELATIONS:
        constant = 0.0
    elif record.baseline is not None and record.baseline == usual:
        constant = best_constant_score(metric, baselines)
    elif metric != record.metric or record.baseline is None:
        constant = None  # the rows are not those of the catalog
    else:
        constant = best_constant_score(metric, {metric: record.baseline})
    return Chance(constant, chance_level(metric, constant, rows))


def find_validation_constant(record: AnyRunRecord, metric: str) -> float | None:
    """Return the score of the best constant prediction on the rows that a run was validated on. None: not known.

    An imported run that is tested on Z's half of the dev set was validated on the other half.
    """
    if not isinstance(record, ImportedRun) or record.split == "val" or metric in CORRELATIONS:
        return find_chance(record, "val", metric).constant
    task = TASKS.get(record.task)
    counts = task.validation_half_counts() if task else None
    on_test = find_chance(record, "test", record.metric).constant
    if counts is None or on_test is None or on_test != known_constant_score(task, "test", record.metric):
        return None
    return best_constant_score(metric, majority_baselines(counts))


def is_run_failed(record: AnyRunRecord, checkpoint: Checkpoint, split: Split, metric: str) -> bool | None:
    """Return whether a run failed by a metric, given the checkpoint it is reported at. None: unfinished, or not known.

    The last score decides; a reported score that is NaN fails too. An imported run may have one checkpoint only.
    """
    last, reported = (record.score(name, split, metric) for name in ("last", checkpoint))
    score = reported if last is None else last
    if record.status != "finished" or score is None:
        return None
    if reported is not None and math.isnan(reported):
        return True
    return _is_score_failed(record, score, split, metric)


def is_reported_score_failed(record: AnyRunRecord, checkpoint: Checkpoint, split: Split, metric: str) -> bool | None:
    """Return whether the reported score is no better than chance, which that of a failed run's best checkpoint may be.

    None: there is no such score, or its chance level is not known.
    """
    score = record.score(checkpoint, split, metric)
    return None if score is None else _is_score_failed(record, score, split, metric)


def _is_score_failed(record: AnyRunRecord, score: float, split: Split, metric: str) -> bool | None:
    if math.isnan(score):
        return True
    level = find_chance(record, split, metric).level
    if level is None:
        return None
    if score_direction(record) == LOWER_IS_BETTER:
        score, level = -score, -level
    return is_failed(score, level, _compared_digits(record, metric, score))


def score_direction(record: AnyRunRecord) -> str:
    """Return which scores of a run are better. Only a command says that it is the lower ones."""
    config = record.config if isinstance(record, RunRecord) else None
    return LOWER_IS_BETTER if isinstance(config, CommandConfig) and config.lower_is_better else HIGHER_IS_BETTER


def judged_as_planned(record: RunRecord, config: RunConfig | CommandConfig) -> RunRecord:
    """Return a finished record of a command with the config that its sweep has for it now, and any other as it is.

    The two may differ in what is in no run's id: the baseline, what the score means, the names of metric and task.
    """
    if not isinstance(config, CommandConfig) or record.last is None or record.config == config:
        return record
    (score,) = record.last.val.values()
    last = record.last.model_copy(update={"val": {config.task.metric: score}})
    return record.model_copy(update={"config": config, "last": last})


def has_failed(record: RunRecord) -> bool | None:
    """Return whether a run of this project failed, by its task's metric on the split that it reports."""
    return is_run_failed(record, "last", record.config.reported_split, record.config.task.metric)


def _compared_digits(record: AnyRunRecord, metric: str, score: float) -> int | None:
    if not isinstance(record, ImportedRun):
        return record.config.compared_digits if isinstance(record.config, CommandConfig) else None
    if metric == record.metric and record.digits is not None:
        return record.digits
    return compared_digits(Decimal(repr(score)), MAX_COMPARED_DIGITS)


def compared_digits(score: Decimal | None, most: int) -> int:
    """Return to how many digits after the point a printed fraction is compared with the chance level.

    `most` is the most digits that a score beside it has: pandas drops the zeros at a number's end.
    """
    return min(most, max(count_decimals(score), MIN_COMPARED_DIGITS), MAX_COMPARED_DIGITS)


def count_decimals(value: Decimal | None) -> int:
    """Return the number of digits after the decimal point."""
    return 0 if value is None else max(0, -int(value.as_tuple().exponent))
