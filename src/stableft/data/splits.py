"""Split rules of both papers, down-sampling, and the fingerprint of the rows.

M reports on the dev set. Z sec. 3 halves it into validation and test rows; for large tasks, it holds out 1,000 training
rows for validation and tests on the dev set. The generator is `numpy.random.RandomState`, as in the authors' code: with
`sample_seed` 0 the rows are the same as theirs.
"""

import hashlib
import itertools
import json

import numpy as np

from stableft.catalog.tasks import TaskSpec
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import DataConfig, RunConfig
from stableft.data.sources import RawSplit, read_custom_file, read_raw_split
from stableft.errors import UserError
from stableft.text import join_with
from stableft.transient import retrying

HELD_OUT_ROWS = 1000
SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}


@retrying
def read_splits(config: RunConfig, sources: LocalPaths) -> dict[str, RawSplit]:
    """Return the rows of "train", "val" and, if the split rule has one, "test".

    Raises:
        UserError: A file is missing or invalid, the hub cannot be reached, or there are too few rows.
    """
    task, data = config.task, config.data
    test = None
    if data.own is None:
        train = read_raw_split(task, "train", sources.data_dir)
        dev = read_raw_split(task, "dev", sources.data_dir)
    else:
        train = read_custom_file(task, data.own, data.own.train, sources.paths)
        dev = read_custom_file(task, data.own, data.own.validation, sources.paths)
        test = read_custom_file(task, data.own, data.own.test, sources.paths) if data.own.test else None
    return split_rows(task, data, train, dev, test)


def check_rows(config: RunConfig, sources: LocalPaths, parts: dict[str, RawSplit]) -> tuple[str, ...]:
    """Check the rows of a run before it trains, and return what the user may not know of them.

    These are labels without training rows, and rows of other splits whose text is that of a training row.

    Raises:
        UserError: Two splits have the same rows, or all rows of a split have the same label.
    """
    task, own = config.task, config.data.own
    files = {"train": own.train, "val": own.validation, "test": own.test} if own else {}
    for one, other in itertools.combinations(parts, 2):
        if (own and files[one] == files[other]) or parts[one].texts == parts[other].texts:
            raise UserError(
                f"task {task.name!r}: the {SPLIT_WORDS[one]} and the {SPLIT_WORDS[other]} rows are the same"
                + (f", those of {sources.paths[str(files[one])]}" if own else f" in {sources.data_dir}")
            )
    for name, rows in parts.items():
        if (rows.labels == rows.labels[0]).all():
            label = repr(task.labels[rows.labels[0]]) if task.labels else f"{rows.labels[0]:g}"
            raise UserError(
                f"task {task.name!r}: all {len(rows):,} {SPLIT_WORDS[name]} rows have the label {label}, so there is "
                "nothing to learn or to measure"
            )
    train = parts["train"]
    notes = []
    unseen = [repr(name) for label, name in enumerate(task.labels) if label not in train.labels]
    if unseen:
        notes.append(f"no training row has the label {join_with(unseen, 'or')}")
    known = set(zip(*train.texts, strict=True))
    for name, rows in parts.items():
        shared = 0 if name == "train" else sum(row in known for row in zip(*rows.texts, strict=True))
        if shared:
            notes.append(f"{shared:,} of {len(rows):,} {SPLIT_WORDS[name]} rows have the text of a training row")
    return tuple(notes)


def split_rows(task: TaskSpec, data: DataConfig, train: RawSplit, dev: RawSplit, test: RawSplit | None):
    """Return the rows of "train", "val" and possibly "test". A user's own test file is the test split in any case."""
    held_out = np.zeros(0, dtype=np.int64)
    parts = {"val": dev}
    if test is not None:
        parts["test"] = test
    elif data.split == "heldout" and task.large:
        held_out = hold_out_rows(task, train, HELD_OUT_ROWS)
        parts = {"val": train.take(held_out), "test": dev}
    elif data.split == "heldout":
        val, test_rows = halve_dev_set(dev)
        if not len(val):
            raise UserError(f"data.split heldout: the dev set of {task.title} has too few rows per label to be halved")
        parts = {"val": dev.take(val), "test": dev.take(test_rows)}
    if data.train_rows is not None:
        assert data.sample_seed is not None
        chosen = sample_train_rows(task, train, data.train_rows, data.sample_seed, held_out)
    else:
        chosen = np.setdiff1d(np.arange(len(train)), held_out)
    is_whole = len(chosen) == len(train)  # then avoid copying the texts
    return {"train": train if is_whole else train.take(chosen), **parts}


def halve_dev_set(dev: RawSplit) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows for validation and the rows for testing, each sorted.

    As in Z's code, the rows of each label (for regression: each distinct value) are shuffled by a new `RandomState(1)`;
    the first half, rounded down, is for validation.
    """
    val, test = [], []
    for rows in _rows_by_label(dev).values():
        np.random.RandomState(1).shuffle(rows)
        val.append(rows[: len(rows) // 2])
        test.append(rows[len(rows) // 2 :])
    return np.sort(np.concatenate(val)), np.sort(np.concatenate(test))


def hold_out_rows(task: TaskSpec, train: RawSplit, n: int) -> np.ndarray:
    """Return `n // classes` training rows of each class, sorted: the last rows after shuffling with seed 0."""
    shuffled = _shuffle_classes(train, 0)
    each = _rows_per_class(task, shuffled, n, "data.split heldout")
    return np.sort(np.concatenate([rows[-each:] for rows in shuffled.values()]))


def sample_train_rows(task: TaskSpec, train: RawSplit, n: int, seed: int, held_out: np.ndarray) -> np.ndarray:
    """Return `n // classes` training rows of each class, or `n` rows for regression, sorted. Skip the held-out rows."""
    key = f"data.train_rows {n}"
    if task.is_regression:
        # DEVIATION: Z's code draws these with torch's randperm, so the rows differ from theirs. It also reduces the dev
        # set to as many rows, which is not done here.
        if n > len(train):
            raise UserError(f"{key}: {task.title} has only {len(train)} training rows")
        return np.sort(_numpy_generator(seed).permutation(len(train))[:n])
    shuffled = {
        label: rows[~np.isin(rows, held_out)] if len(held_out) else rows
        for label, rows in _shuffle_classes(train, seed).items()
    }
    each = _rows_per_class(task, shuffled, n, key)
    return np.sort(np.concatenate([rows[:each] for rows in shuffled.values()]))


def data_fingerprint(config: RunConfig, sources: LocalPaths) -> str:
    """Return the fingerprint of the rows of a run, without tokenizing them. Raises what `read_splits` raises."""
    return rows_fingerprint(read_splits(config, sources))


def rows_fingerprint(parts: dict[str, RawSplit]) -> str:
    """Return a SHA-256 over text and label of every row, in order. Equal rows from any source give equal digests."""
    digest = hashlib.sha256()
    for name in ("train", "val", "test"):
        rows = parts.get(name)
        digest.update(f"{name} {0 if rows is None else len(rows)}\n".encode())
        if rows is not None:
            digest.update(hash_texts(rows).encode())
            # A fixed byte order makes the digest the same on every machine.
            digest.update(np.ascontiguousarray(rows.labels).astype(rows.labels.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def hash_texts(rows: RawSplit) -> str:
    """Return a SHA-256 over the texts of these rows, in order."""
    digest = hashlib.sha256()
    for column in rows.texts:
        digest.update(json.dumps(column).encode())
    return digest.hexdigest()


def _rows_by_label(rows: RawSplit) -> dict[float, np.ndarray]:
    # In order of first appearance, as in the authors' code: the classes share a generator, so their order matters.
    labels, first = np.unique(rows.labels, return_index=True)
    return {label: np.flatnonzero(rows.labels == label) for label in labels[np.argsort(first)].tolist()}


def _shuffle_classes(train: RawSplit, seed: int) -> dict[float, np.ndarray]:
    generator = _numpy_generator(seed)
    classes = _rows_by_label(train)
    for rows in classes.values():
        generator.shuffle(rows)
    return classes


def _numpy_generator(seed: int) -> np.random.RandomState:
    # RandomState takes 32-bit seeds, so pass larger seeds as two words.
    return np.random.RandomState(seed if seed < 2**32 else [seed % 2**32, seed // 2**32])


def _rows_per_class(task: TaskSpec, classes: dict[float, np.ndarray], n: int, key: str) -> int:
    each = n // len(task.labels)
    if each == 0:
        raise UserError(f"{key}: there must be at least one row for each of the {len(task.labels)} labels")
    for label, name in enumerate(task.labels):
        available = len(classes.get(label, ()))
        if available < each:
            raise UserError(f"{key}: {each} rows of each label are needed, {name!r} has only {available}")
    return each
