import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.paths import GLUE

from stableft.config.planned_run import LocalPaths
from stableft.data import splits
from stableft.data import tokens as data
from stableft.data.splits import data_fingerprint
from stableft.data.tokens import InputLayout, LabeledRows, collate, load_splits
from stableft.errors import UserError

SMALL = ["rte", "mrpc", "cola", "stsb"]


@pytest.fixture
def sources(tmp_path) -> LocalPaths:
    return LocalPaths(data_dir=GLUE, cache_dir=tmp_path / "cache")


def arrays(rows: LabeledRows) -> list[np.ndarray]:
    return [rows.input_ids, rows.segment_ids, rows.offsets, rows.labels, rows.index]


def equal(a: LabeledRows, b: LabeledRows) -> bool:
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


@pytest.mark.parametrize("task", SMALL)
def test_rows_are_encoded_as_the_tokenizer_encodes_one_pair(task, make_config, sources, tiny_tokenizer):
    config = make_config(**{"data.task": task, "data.max_length": 20})
    rows = load_splits(config, sources, tiny_tokenizer).val
    raw = splits.read_splits(config, sources)["val"]
    for i in range(len(rows)):
        texts = [column[i] for column in raw.texts]
        one = tiny_tokenizer(*texts, truncation="longest_first", max_length=20)
        span = slice(rows.offsets[i], rows.offsets[i + 1])
        assert rows.input_ids[span].tolist() == one["input_ids"]
        assert rows.segment_ids[span].tolist() == one["token_type_ids"]
        assert len(one["input_ids"]) <= 20
    assert [array.dtype for array in arrays(rows)[:3]] == [np.int32, np.int8, np.int64]
    assert rows.segment_ids.max() == len(raw.texts) - 1
    assert np.diff(rows.offsets).max() == 20


def test_the_record_states_rows_baselines_and_entropy(make_config, sources, tiny_tokenizer):
    config = make_config(**{"data.task": "mrpc", "data.split": "heldout"})
    splits = load_splits(config, sources, tiny_tokenizer)
    record = splits.record
    assert (
        (record.train_rows, record.val_rows, record.test_rows)
        == (20, 6, 6)
        == tuple(len(rows) for rows in (splits.train, splits.val, splits.test) if rows)
    )
    assert record.fingerprint == data_fingerprint(config, sources)
    assert record.baselines.keys() == {"train", "val", "test"}
    share = np.mean(splits.test.labels)  # the majority is class 1
    expected = {"accuracy": share, "f1": 2 * share / (1 + share), "accuracy_f1": (share + 2 * share / (1 + share)) / 2}
    assert record.baselines["test"] == pytest.approx(expected)
    p = np.mean(splits.train.labels)
    assert record.label_entropy == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


def test_regression_has_float_labels_and_no_entropy(make_config, sources, tiny_tokenizer):
    splits = load_splits(make_config(**{"data.task": "stsb"}), sources, tiny_tokenizer)
    assert splits.train.labels.dtype == np.float32
    assert splits.test is None
    assert splits.record.label_entropy is None
    assert splits.record.baselines == {name: {"spearman": 0.0, "pearson": 0.0} for name in ("train", "val")}


def test_accuracy_has_a_baseline_in_every_classification_task(make_config, sources, tiny_tokenizer):
    record = load_splits(make_config(**{"data.task": "cola"}), sources, tiny_tokenizer).record
    assert record.baselines["val"] == {"mcc": 0.0, "accuracy": pytest.approx(10 / 14)}


def test_cached_rows_equal_fresh_ones(make_config, sources, tiny_tokenizer, monkeypatch):
    config = make_config()
    fresh = load_splits(config, sources, tiny_tokenizer)
    files = sorted(sources.cache_dir.iterdir())
    assert len(files) == 2
    with monkeypatch.context() as patch:
        patch.setattr(data, "tokenize", None)  # would fail if it were called
        cached = load_splits(config, sources, tiny_tokenizer)
    assert equal(fresh.train, cached.train)
    assert equal(fresh.val, cached.val)
    assert fresh.record == cached.record


@pytest.mark.faults
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-200], lambda b: b"", lambda b: b[:300] + b"xx" + b[302:], lambda b: b"x" + b]
)
def test_a_damaged_cache_file_is_made_anew(make_config, sources, tiny_tokenizer, caplog, damage):
    config = make_config()
    fresh = load_splits(config, sources, tiny_tokenizer)
    for path in sources.cache_dir.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    again = load_splits(config, sources, tiny_tokenizer)
    named = {f"{path} does not match its checksum: it is made again" for path in sources.cache_dir.iterdir()}
    assert set(caplog.messages) == named
    assert equal(fresh.train, again.train)
    assert equal(again.train, load_splits(config, sources, tiny_tokenizer).train)


def test_length_text_and_tokenizer_have_cache_files_of_their_own(make_config, sources, tiny_tokenizer):
    def count(**changes) -> int:
        load_splits(make_config(**{"data.task": "cola"} | changes), sources, tiny_tokenizer)
        return len(list(sources.cache_dir.iterdir()))

    assert count() == 2
    assert count(**{"data.pad_to_max": True, "seeds.init": 4}) == 2
    assert count(**{"data.max_length": 16}) == 4
    assert count(**{"data.train_rows": 8, "data.sample_seed": 0}) == 5  # the dev set is the same
    other = tiny_tokenizer.__class__(tokenizer_object=tiny_tokenizer.backend_tokenizer, truncation_side="left")
    load_splits(make_config(**{"data.task": "cola"}), sources, other)
    assert len(list(sources.cache_dir.iterdir())) == 7


def test_many_rows_are_tokenised_in_pieces(make_config, sources, tiny_tokenizer, monkeypatch):
    whole = load_splits(make_config(), sources, tiny_tokenizer).train
    monkeypatch.setattr(data, "TOKENIZE_CHUNK_ROWS", 7)
    pieces = load_splits(make_config(), LocalPaths(GLUE, sources.cache_dir / "other"), tiny_tokenizer).train
    assert equal(whole, pieces)


def test_concurrent_workers_share_the_cache(make_config, sources, tiny_tokenizer):
    config = make_config(**{"data.task": "cola"})
    fresh = load_splits(config, sources, tiny_tokenizer)

    def work(tokenizer) -> bool:
        same = True
        for _ in range(10):
            for path in sources.cache_dir.glob("*.tokens"):
                path.unlink(missing_ok=True)
            same &= equal(fresh.train, load_splits(config, sources, tokenizer).train)
        return same

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [copy.deepcopy(tiny_tokenizer) for _ in range(4)]))
    assert {path.suffix for path in sources.cache_dir.iterdir()} == {".tokens"}


@pytest.mark.faults
def test_a_cache_that_cannot_be_written_is_an_error(make_config, tmp_path, tiny_tokenizer):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache folder .*file/cache is not writable: Not a directory"):
        load_splits(make_config(), LocalPaths(GLUE, tmp_path / "file" / "cache"), tiny_tokenizer)


def padded_token_by_token(rows: LabeledRows, indices, pad_id: int, width: int) -> dict[str, list]:
    batch = {"input_ids": [], "attention_mask": [], "token_type_ids": []}
    for i in indices:
        ids = rows.input_ids[rows.offsets[i] : rows.offsets[i + 1]].tolist()
        segments = rows.segment_ids[rows.offsets[i] : rows.offsets[i + 1]].tolist()
        empty = width - len(ids)
        batch["input_ids"].append(ids + [pad_id] * empty)
        batch["attention_mask"].append([1] * len(ids) + [0] * empty)
        batch["token_type_ids"].append(segments + [0] * empty)
    return batch


@pytest.mark.parametrize("pad_to_max", [True, False])
@pytest.mark.parametrize("segment_ids", [True, False])
@pytest.mark.parametrize("task", ["rte", "cola", "stsb"])
def test_batches_are_padded_on_the_right(make_config, sources, tiny_tokenizer, task, pad_to_max, segment_ids):
    config = make_config(**{"data.task": task, "data.pad_to_max": pad_to_max, "data.segment_ids": segment_ids})
    rows = load_splits(config, sources, tiny_tokenizer).train
    indices = np.array([len(rows) - 1, 3, 0, 3])  # the last row has nothing after it
    batch = collate(rows, indices, InputLayout(9), config.data)
    longest = int(np.diff(rows.offsets)[indices].max())
    width = 32 if pad_to_max else min(32, math.ceil(longest / 8) * 8)
    expected = padded_token_by_token(rows, indices, 9, width)
    if not segment_ids:
        expected["token_type_ids"] = [[0] * width] * len(indices)
    assert {name: batch[name].tolist() for name in expected} == expected
    assert batch["labels"].tolist() == rows.labels[indices].tolist()
    assert batch["labels"].dtype == (torch.float32 if task == "stsb" else torch.int64)
    assert all(batch[name].dtype == torch.int64 for name in expected)


@pytest.mark.parametrize("pad_to_max", [True, False])
def test_batches_are_padded_on_the_left_where_the_tokenizer_does(make_config, sources, tiny_tokenizer, pad_to_max):
    config = make_config(**{"data.pad_to_max": pad_to_max})
    rows = load_splits(config, sources, tiny_tokenizer).train
    indices = np.array([0, len(rows) - 1, 5])  # the first row has nothing before it
    batch = collate(rows, indices, InputLayout(9, pad_segment=4, left=True), config.data)
    width = batch["input_ids"].shape[1]
    assert width == (32 if pad_to_max else min(32, math.ceil(int(np.diff(rows.offsets)[indices].max()) / 8) * 8))
    for row, i in enumerate(indices):
        span = slice(rows.offsets[i], rows.offsets[i + 1])
        empty = width - len(rows.input_ids[span])
        assert batch["input_ids"][row].tolist() == [9] * empty + rows.input_ids[span].tolist()
        assert batch["token_type_ids"][row].tolist() == [4] * empty + rows.segment_ids[span].tolist()
        assert batch["attention_mask"][row].tolist() == [0] * empty + [1] * (width - empty)


def test_a_model_without_segments_gets_none(make_config, sources, tiny_tokenizer):
    for segment_ids in (True, False):
        config = make_config(**{"data.segment_ids": segment_ids})
        rows = load_splits(config, sources, tiny_tokenizer).train
        batch = collate(rows, np.arange(3), InputLayout(0, segments=False), config.data)
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}


def test_width_is_a_multiple_of_eight_but_never_more_than_the_length(make_config):
    def width(lengths: list[int], max_length: int) -> int:
        offsets = np.cumsum([0, *lengths])
        n = int(offsets[-1])
        rows = LabeledRows(
            np.ones(n, np.int32), np.zeros(n, np.int8), offsets, np.zeros(len(lengths), np.int64), offsets[:-1]
        )
        batch = collate(
            rows, np.arange(len(lengths)), InputLayout(0), make_config(**{"data.max_length": max_length}).data
        )
        assert batch["attention_mask"].sum(1).tolist() == lengths
        return batch["input_ids"].shape[1]

    assert width([3, 8, 5], 32) == 8
    assert width([3, 9], 32) == 16
    assert width([19, 20], 20) == 20


def test_the_tiny_model_reads_a_batch(make_config, sources, tiny_tokenizer, tiny_model_folder):
    from transformers import AutoModel, AutoTokenizer

    config = make_config()
    splits = load_splits(config, sources, AutoTokenizer.from_pretrained(tiny_model_folder))
    assert equal(splits.train, load_splits(config, sources, tiny_tokenizer).train)
    batch = collate(splits.val, np.arange(4), InputLayout(tiny_tokenizer.pad_token_id), config.data)
    batch.pop("labels")
    model = AutoModel.from_pretrained(tiny_model_folder)
    assert model(**batch).last_hidden_state.shape == (*batch["input_ids"].shape, 16)
