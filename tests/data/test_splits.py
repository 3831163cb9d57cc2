import hashlib
from collections import defaultdict

import numpy as np
import pytest
from support.paths import GLUE

from stableft.catalog.tasks import find_task
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import CustomTask
from stableft.data import splits
from stableft.data.sources import RawSplit
from stableft.data.splits import (
    halve_dev_set,
    hold_out_rows,
    read_splits,
    rows_fingerprint,
    sample_train_rows,
    split_rows,
)
from stableft.errors import UserError

SOURCES = LocalPaths(data_dir=GLUE)


def made(labels, prefix="row") -> RawSplit:
    """Returns a split with these labels, its text numbered."""
    labels = np.asarray(labels)
    return RawSplit(([f"{prefix} {i}" for i in range(len(labels))],), labels, np.arange(len(labels)))


def labels_of(n: int, classes: int) -> np.ndarray:
    """Returns labels in which every class is there, in an order of first appearance that is not 0, 1, 2."""
    return np.concatenate([np.arange(classes)[::-1], np.random.RandomState(5).randint(0, classes, n - classes)])


def halves_row_by_row(labels) -> tuple[set[int], set[int]]:
    """Z's rule written out: one list a label, each shuffled by RandomState(1), first half validates."""
    by_label = defaultdict(list)
    for i, label in enumerate(labels.tolist()):
        by_label[label].append(i)
    val, test = set(), set()
    for rows in by_label.values():
        np.random.RandomState(1).shuffle(rows)
        val |= set(rows[: len(rows) // 2])
        test |= set(rows[len(rows) // 2 :])
    return val, test


def sampled_row_by_row(labels, n: int, held_out: int) -> tuple[set[int], set[int]]:
    """Z's rule written out: seed 0 once, classes in the order they appear, the head trains, the tail validates."""
    by_label = defaultdict(list)
    for i, label in enumerate(labels.tolist()):
        by_label[label].append(i)
    generator = np.random.RandomState(0)
    train, val = set(), set()
    for rows in by_label.values():
        rows = np.array(rows)
        generator.shuffle(rows)
        train |= set(rows[: n // len(by_label)].tolist())
        val |= set(rows[len(rows) - held_out // len(by_label) :].tolist())
    return train, val


@pytest.mark.parametrize(
    "labels", [labels_of(41, 2), labels_of(50, 3), np.float32([0, 2.5, 2.5, 4, 4, 4, 0.2, 0.2, 0.2])]
)
def test_the_dev_set_is_halved_as_zhang_does(labels):
    val, test = halve_dev_set(made(labels))
    assert (set(val.tolist()), set(test.tolist())) == halves_row_by_row(labels)
    assert sorted([*val, *test]) == list(range(len(labels)))


def test_halves_have_the_papers_sizes():
    # The dev sets of RTE (146 + 131) and MRPC (279 + 129), whatever their order.
    for classes, sizes in (((146, 131), (138, 139)), ((279, 129), (203, 205))):
        assert tuple(map(len, halve_dev_set(made(np.repeat([0, 1], classes))))) == sizes


@pytest.mark.parametrize("name", ["sst2", "mnli"])
def test_large_tasks_hold_out_and_sample_as_zhang_does(name, monkeypatch, make_config):
    monkeypatch.setattr(splits, "HELD_OUT_ROWS", 20)
    task = find_task(name)
    labels = labels_of(200, task.n_outputs)
    config = make_config(**{"data.split": "heldout", "data.train_rows": 31, "data.sample_seed": 0})
    parts = split_rows(task, config.data, made(labels), made([0, 1], "dev"), None)
    train, val = sampled_row_by_row(labels, 31, 20)
    assert set(parts["train"].index.tolist()) == train
    assert set(parts["val"].index.tolist()) == val
    assert parts["test"].texts == (["dev 0", "dev 1"],)


def test_held_out_rows_never_train(monkeypatch, make_config):
    monkeypatch.setattr(splits, "HELD_OUT_ROWS", 20)
    task, rows = find_task("sst2"), made(labels_of(60, 2))
    validation = set(hold_out_rows(task, rows, 20).tolist())
    for train_rows, seed in ((None, None), (30, 0), (30, 1), (30, 2)):
        data = make_config(**{"data.split": "heldout", "data.train_rows": train_rows, "data.sample_seed": seed}).data
        parts = split_rows(task, data, rows, made([0, 1]), None)
        assert set(parts["val"].index.tolist()) == validation
        assert not validation & set(parts["train"].index.tolist())
        assert len(parts["train"]) == (40 if train_rows is None else 30)


def test_samples_are_balanced_and_follow_their_seed():
    task, rows = find_task("rte"), made(labels_of(300, 2))
    none = np.zeros(0, dtype=np.int64)
    first, again, other = (sample_train_rows(task, rows, 101, seed, none) for seed in (3, 3, 4))
    assert np.bincount(rows.labels[first]).tolist() == [50, 50]
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(set(first.tolist())) == 100
    assert len(sample_train_rows(task, rows, 20, 2**40 + 1, none)) == 20


def test_regression_samples_any_rows():
    task, rows = find_task("stsb"), made(np.linspace(0, 5, 50, dtype=np.float32))
    chosen = sample_train_rows(task, rows, 20, 0, np.zeros(0, dtype=np.int64))
    assert len(set(chosen.tolist())) == 20
    with pytest.raises(UserError, match=r"data.train_rows 51: STS-B .* 50 training rows"):
        sample_train_rows(task, rows, 51, 0, np.zeros(0, dtype=np.int64))


def test_classes_that_are_too_small_are_named(monkeypatch, make_config):
    task, none = find_task("rte"), np.zeros(0, dtype=np.int64)
    with pytest.raises(UserError, match=r"data.train_rows 10: 5 rows .*'not_entailment' .* 2"):
        sample_train_rows(task, made([0] * 9 + [1] * 2), 10, 0, none)
    with pytest.raises(UserError, match=r"data.train_rows 1: .*at least one row .* 2 labels"):
        sample_train_rows(task, made([0, 1]), 1, 0, none)
    with pytest.raises(UserError, match=r"data.split heldout: 500 rows .*'negative' .* 8"):
        read_splits(make_config(**{"data.task": "sst2", "data.split": "heldout"}), SOURCES)
    with pytest.raises(UserError, match="too few rows per label to be halved"):
        split_rows(task, make_config(**{"data.split": "heldout"}).data, made([0, 1]), made([0, 1]), None)


def test_the_dev_rule_uses_everything_and_has_no_test(make_config):
    parts = read_splits(make_config(), SOURCES)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 24, "val": 11}


def test_scitail_tests_on_its_dev_set(monkeypatch, make_config):
    monkeypatch.setattr(splits, "HELD_OUT_ROWS", 4)
    parts = read_splits(make_config(**{"data.task": "scitail", "data.split": "heldout"}), SOURCES)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 12, "val": 4, "test": 10}


@pytest.mark.parametrize("rule", ["dev", "heldout"])
@pytest.mark.parametrize("with_test", [True, False])
def test_a_test_file_of_ones_own_is_the_test_split(tmp_path, make_config, rule, with_test):
    paths = {}
    for name, n in (("train", 6), ("validation", 8), ("test", 4)):
        file = tmp_path / name
        file.write_text("text,label\n" + "".join(f"{name} {i},{'ab'[i % 2]}\n" for i in range(n)))
        paths[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    own = CustomTask(
        format="csv",
        train=paths["train"],
        validation=paths["validation"],
        test=paths["test"] if with_test else None,
        text=("text",),
        label="label",
        labels=("a", "b"),
        metrics=("accuracy",),
    )
    config = make_config(**{"data.own": own, "data.task": "mine", "data.split": rule})
    parts = read_splits(config, LocalPaths(paths={digest: tmp_path / name for name, digest in paths.items()}))
    sizes = {name: len(rows) for name, rows in parts.items()}
    if with_test:
        assert sizes == {"train": 6, "val": 8, "test": 4}
    else:
        assert sizes == ({"train": 6, "val": 8} if rule == "dev" else {"train": 6, "val": 4, "test": 4})
    assert config.reported_split == ("test" if "test" in parts else "val")


def test_the_fingerprint_sees_text_label_order_and_split():
    base = {"train": made([0, 1, 1]), "val": made([0, 1], "dev")}
    changed = [
        base | {"train": made([0, 1, 0])},
        base | {"train": made([0, 1, 1], "Row")},
        base | {"train": base["train"].take(np.array([0, 2, 1]))},
        {"train": base["train"], "val": base["train"]},
        base | {"test": base["val"]},
        {"train": base["train"], "test": base["val"], "val": base["val"].take(np.array([], dtype=int))},
    ]
    digests = {rows_fingerprint(parts) for parts in [base, *changed]}
    assert len(digests) == 1 + len(changed)
    # The number that a row had in its file does not count: only the rows do.
    same = base | {"val": RawSplit(base["val"].texts, base["val"].labels, base["val"].index + 7)}
    assert rows_fingerprint(same) == rows_fingerprint(base)
