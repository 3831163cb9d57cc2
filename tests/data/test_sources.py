import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.paths import FILES

from stableft.catalog.tasks import TASKS, TaskSpec, find_task
from stableft.config.run_config import CustomTask
from stableft.data.sources import find_layouts, read_custom_file, read_from_folder, read_from_hub
from stableft.data.splits import rows_fingerprint
from stableft.errors import UserError

DATA = FILES
GLUE = DATA / "glue"
SIZES = {
    "rte": (24, 11),
    "mrpc": (20, 12),
    "cola": (20, 14),
    "stsb": (18, 13),
    "sst2": (16, 10),
    "qnli": (14, 10),
    "qqp": (14, 11),
    "mnli": (15, 12),
    "scitail": (16, 10),
}


@pytest.mark.parametrize("name", SIZES)
def test_original_files_are_read_whole(name):
    task = find_task(name)
    parts = [read_from_folder(task, part, GLUE) for part in ("train", "dev")]
    assert tuple(map(len, parts)) == SIZES[name]
    for rows in parts:
        assert len(rows.texts) == len(task.text)
        assert all(len(column) == len(rows) for column in rows.texts)
        assert not any("\r" in text or "\ufeff" in text or "\t" in text for column in rows.texts for text in column)
        assert rows.labels.dtype == (np.float32 if task.is_regression else np.int64)
        assert rows.index.tolist() == list(range(len(rows)))
        if not task.is_regression:
            assert set(rows.labels.tolist()) == set(range(task.n_outputs))


def test_quotes_are_text_in_glue_files():
    rows = read_from_folder(find_task("mrpc"), "dev", GLUE)  # BOM, CRLF, unbalanced quotes
    assert rows.texts[0][0] == 'She said the "fox" had left.'
    assert rows.texts[1][0] == '"The goat has left, she said.'
    assert rows.labels[:3].tolist() == [1, 0, 1]  # Quality 1 is "equivalent"


def test_cola_has_no_header_and_no_last_line_end():
    rows = read_from_folder(find_task("cola"), "dev", GLUE)
    assert rows.texts[0][0] == "Eats oats the near fox."
    assert rows.labels[:2].tolist() == [0, 1]


def test_stsb_labels_are_unscaled():
    labels = read_from_folder(find_task("stsb"), "train", GLUE).labels
    assert labels[:3].tolist() == [0.0, 0.75, 1.5]
    assert labels.max() == 4.5


def test_mnli_takes_the_gold_label_of_either_file():
    labels = find_task("mnli").labels
    for part in ("train", "dev"):
        rows = read_from_folder(find_task("mnli"), part, GLUE)
        same = [premise == hypothesis for premise, hypothesis in zip(*rows.texts, strict=True)]
        assert [labels[i] for i, equal in zip(rows.labels, same, strict=True) if equal] == ["contradiction"] * sum(same)


def test_qqp_leaves_out_the_row_that_a_line_end_broke():
    assert not any("I ask" in text for text in read_from_folder(find_task("qqp"), "train", GLUE).texts[1])


@pytest.mark.parametrize("part", ["train", "dev"])
def test_the_three_layouts_of_mrpc_give_the_same_rows(part):
    task = find_task("mrpc")
    glue, msr, plain = (read_from_folder(task, part, DATA / name) for name in ("glue", "mrpc-msr", "mrpc-plain"))
    assert rows_fingerprint({"train": glue}) == rows_fingerprint({"train": msr}) == rows_fingerprint({"train": plain})


def copy(tmp_path: Path, name: str, change) -> Path:
    """Returns a data folder in which the text of one file is changed."""
    target = tmp_path / name
    target.parent.mkdir(parents=True)
    shutil.copy(GLUE / name, target)
    target.write_bytes(change(target.read_bytes()))
    return tmp_path


@pytest.mark.parametrize(
    ("task", "name", "change", "facts"),
    [
        (
            "rte",
            "RTE/train.tsv",
            lambda b: b.replace(b"\tlabel", b"\tlabels"),
            r"train.tsv:1: .*'label'.*mean 'labels'",
        ),
        ("rte", "RTE/train.tsv", lambda b: b.replace(b"\tentail", b"\tental", 1), r"train.tsv:2: label 'entalment' is"),
        ("rte", "RTE/train.tsv", lambda b: b.replace(b"\tentail", b" entail", 1), "tsv:2: .* 3 fields.* 4"),
        ("cola", "CoLA/train.tsv", lambda b: b.replace(b"\t1\t", b"\t2\t", 1), "train.tsv:2: label '2' .*not one"),
        (
            "cola",
            "CoLA/train.tsv",
            lambda b: b + b"gj04\t1\t\n",
            "train.tsv:21: .*row .* 3 fields.* 4 .*expected",
        ),
        (
            "stsb",
            "STS-B/train.tsv",
            lambda b: b.replace(b"0.750", b"high"),
            "train.tsv:3: label 'high' .*not .*number",
        ),
        ("stsb", "STS-B/train.tsv", lambda b: b.replace(b"0.750", b"nan"), "train.tsv:3: label 'nan' .*not .*number"),
        ("rte", "RTE/train.tsv", lambda b: b"", "train.tsv: .*file .*empty"),
        ("rte", "RTE/train.tsv", lambda b: b.split(b"\n")[0] + b"\n", "train.tsv: .*no data rows"),
        ("rte", "RTE/train.tsv", lambda b: b.replace(b"goat", b"go\xe9t", 1), "train.tsv:4: .*not text in UTF-8"),
        ("qqp", "QQP/train.tsv", lambda b: b.replace(b"\t1\n", b"\t1\t1\n", 1), "tsv:2: .* 7 fields.* 6"),
    ],
)
def test_bad_original_files_are_named_with_their_line(tmp_path, task, name, change, facts):
    with pytest.raises(UserError, match=facts):
        read_from_folder(find_task(task), "train", copy(tmp_path, name, change))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"train file .*RTE .*missing: .*no .*RTE/train.tsv"):
        read_from_folder(find_task("rte"), "train", tmp_path)
    with pytest.raises(UserError, match=r"--data-dir .*nowhere .*not .*folder"):
        find_layouts(find_task("rte"), "train", tmp_path / "nowhere")
    shutil.copytree(DATA / "mrpc-msr", tmp_path / "msr")
    (tmp_path / "msr/MRPC/dev_ids.tsv").unlink()
    with pytest.raises(UserError, match=r"dev_ids.tsv is missing"):
        read_from_folder(find_task("mrpc"), "train", tmp_path / "msr")


# A user's own files.


def own(path: Path, format: str, **more) -> tuple[TaskSpec, CustomTask, dict[str, Path]]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    values = {
        "text": ("premise", "claim"),
        "label": "verdict",
        "labels": ("no", "yes"),
        "metrics": ("accuracy",),
    } | more
    task = CustomTask(format=format, train=digest, validation=digest, **values)
    return TaskSpec("mine", "mine", task.text, task.labels, task.metrics), task, {digest: path}


OWN = {
    "csv": 'id,premise,claim,verdict\r\n1,"A ""quoted"", word\nand a line","x",yes\r\n2,b,y,no\r\n',
    "tsv": 'id\tpremise\tclaim\tverdict\n1\tan "unbalanced\tx\tyes\n2\tb\ty\tno\n',
    "jsonl": '{"premise": "caf\\u00e9", "claim": "x", "verdict": "yes"}\n\n'
    '{"verdict": "no", "claim": "y", "premise": "b"}',
}


@pytest.mark.parametrize("format", OWN)
def test_own_files_are_read(tmp_path, format):
    path = tmp_path / "data"
    path.write_bytes(OWN[format].encode("utf-8-sig"))
    task, spec, paths = own(path, format)
    rows = read_custom_file(task, spec, spec.train, paths)
    first = {"csv": 'A "quoted", word\nand a line', "tsv": 'an "unbalanced', "jsonl": "café"}[format]
    assert rows.texts == ([first, "b"], ["x", "y"])
    assert rows.labels.tolist() == [1, 0]


def test_own_jsonl_labels_may_be_numbers(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"t": "a", "y": 1}\n{"t": "b", "y": 0}\n')
    task, spec, paths = own(path, "jsonl", text=("t",), label="y", labels=("0", "1"))
    assert read_custom_file(task, spec, spec.train, paths).labels.tolist() == [1, 0]
    task, spec, paths = own(path, "jsonl", text=("t",), label="y", labels=(), metrics=("pearson",))
    assert read_custom_file(task, spec, spec.train, paths).labels.dtype == np.float32


@pytest.mark.parametrize(
    ("format", "content", "facts"),
    [
        ("csv", "premise,claims,verdict\na,b,yes\n", "data:1: .*'claim' .*header.*'claims'"),
        ("csv", "premise,claim,verdict\na,b,yess\n", "data:2: label 'yess' .*not one .*no, yes.*'yes'"),
        ("csv", "premise,claim,verdict\na,b\n", "data:2 has 2 fields .* 3 columns"),
        ("csv", 'premise,claim,verdict\na,"b,yes\n', r"data:2 cannot .* as a row: unexpected end"),
        ("csv", "", "data: .*file .*empty"),
        ("tsv", "premise\tclaim\tverdict\n", "data: .*header and no rows"),
        ("jsonl", '{"premise": "a", "claim": "b", "verdict": "no"}\n{"premise": "a"\n', r"data:2 is not JSON"),
        (
            "jsonl",
            '{"premise": "a", "claims": "b", "verdict": "no"}\n',
            "data:1: .* key 'claim'.*'claims'",
        ),
        ("jsonl", '{"premise": 3, "claim": "b", "verdict": "no"}\n', "data:1: 'premise' .*string, not 3"),
        (
            "jsonl",
            '{"premise": "", "claim": "b", "verdict": null}\n',
            "data:1: 'verdict' .*string .*number",
        ),
        ("csv", "premise,claim,premise,verdict\na,b,c,yes\n", "data:1: .*header .* 2 columns 'premise'"),
        ("tsv", "premise\tverdict\tclaim\tverdict\na\tyes\tb\tno\n", "data:1: .*header .* 2 columns 'verdict'"),
        ("csv", "premise;claim;verdict\na;b;yes\n", "data: .*header .*separated by ';'.* must be ','"),
        ("tsv", b"premise\tclaim\tverdict\na\tcaf\xe9\tyes\n", "data:2: .*not text in UTF-8"),
        ("csv", "premise,claim,verdict\na,b,yes\n".encode("utf-16"), "data:1: .*not text in UTF-8"),
        ("jsonl", '{"premise": "a", "claim": "b", "claim": "c", "verdict": "no"}', "data:1: .*key 'claim' twice"),
        ("jsonl", '{"premise": "\\ud83d", "claim": "b", "verdict": "no"}', r"data:1: \\ud83d .*half .*surrogate"),
        ("jsonl", '{"premise": 1_0, "claim": "b", "verdict": "no"}', "data:1 is not JSON"),
        ("jsonl", "[1]\n", "data:1: .*line .*JSON object .*keys premise, claim, verdict"),
        ("jsonl", "", "data: .*no data rows"),
        ("jsonl", '{"premise": ' + "[" * 100_000, "data:1 is not JSON: maximum recursion depth"),
        ("jsonl", '{"premise": ' + "9" * 5000 + "}", r"data:1: .premise. must be a string, not 9{197,199}\.\.\.$"),
    ],
)
def test_bad_own_files_are_named_with_their_line(tmp_path, format, content, facts):
    path = tmp_path / "data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    task, spec, paths = own(path, format)
    with pytest.raises(UserError, match=facts):
        read_custom_file(task, spec, spec.train, paths)


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(
    ("label", "facts"),
    [
        ("1_0", "data:2: label '1_0' .*not a number"),
        ("٣", "data:2: label '٣' .*not a number"),
        ("1e39", r"data:2: label '1e39' .*float32.* 3\.403e\+38"),
        ("-9" + "0" * 400, r"data:2: label '-90*\.\.\.' .*float32"),
        ("infinity", "data:2: label 'infinity' .*not a number"),
    ],
)
def test_labels_must_be_numbers_that_float32_holds(tmp_path, format, label, facts):
    path, separator = tmp_path / "data", {"csv": ",", "tsv": "\t"}.get(format)
    rows = [f"t{separator}y", f"a{separator}{label}"] if separator else ["", json.dumps({"t": "a", "y": label})]
    path.write_text("\n".join(rows))
    task, spec, paths = own(path, format, text=("t",), label="y", labels=(), metrics=("pearson",))
    with pytest.raises(UserError, match=facts):
        read_custom_file(task, spec, spec.train, paths)


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
def test_long_texts_and_numbers_as_text_are_read_whole(tmp_path, format):
    path, separator = tmp_path / "data", {"csv": ",", "tsv": "\t"}.get(format)
    texts = ["a" * 200_000, "1_0", "1e39", "=1+1"]  # 131,072 characters are the limit of Python's csv by default
    rows = [f"t{separator}y", *(f"{text}{separator}1" for text in texts)]
    path.write_text("\n".join(rows if separator else [json.dumps({"t": text, "y": 1}) for text in texts]))
    task, spec, paths = own(path, format, text=("t",), label="y", labels=("0", "1"))
    assert read_custom_file(task, spec, spec.train, paths).texts == (texts,)


def test_an_own_file_must_be_the_one_of_the_sweep(tmp_path):
    path = tmp_path / "data"
    path.write_text(OWN["csv"])
    task, spec, paths = own(path, "csv")
    path.write_text(OWN["csv"] + "3,a,b,yes\n")
    with pytest.raises(UserError, match=r"changed since .*sweep"):
        read_custom_file(task, spec, spec.train, paths)
    path.unlink()
    with pytest.raises(UserError, match=r"data cannot .*No such file"):
        read_custom_file(task, spec, spec.train, paths)
    with pytest.raises(UserError, match=r"path .*data file .*SHA-256 [0-9a-f]{64} .*not known"):
        read_custom_file(task, spec, spec.train, {})


# The hub, without a network: `datasets` reads a local folder in the form of a hub repository.


@pytest.fixture
def hub_copy(tmp_path, monkeypatch):
    """Returns a maker of hub repositories, on this disk, of the made-up rows of a task."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(task: TaskSpec, names: tuple[str, ...] | None, unlabelled: int | None = None) -> TaskSpec:
        assert task.hub is not None
        folder = tmp_path / "repository"
        folder.mkdir()
        files = []
        for part, split in (("train", "train"), ("dev", task.hub.dev)):
            rows = read_from_folder(task, part, GLUE)
            columns = dict(zip(task.hub.text or task.text, rows.texts, strict=True))
            if task.is_regression:
                labels, feature = rows.labels.tolist(), datasets.Value("float32")
            elif names is None:
                labels, feature = [task.labels[i] for i in rows.labels], datasets.Value("string")
            else:
                feature = datasets.ClassLabel(names=list(names))
                labels = [names.index(task.labels[i]) for i in rows.labels]
            if unlabelled is not None:
                labels[unlabelled] = -1
            features = {name: datasets.Value("string") for name in columns} | {task.hub.label: feature}
            table = datasets.Dataset.from_dict({**columns, task.hub.label: labels}, datasets.Features(features))
            table.to_parquet(folder / f"{split}.parquet")
            files.append({"split": split, "path": f"{split}.parquet"})
        header = json.dumps({"configs": [{"config_name": task.hub.config, "data_files": files}]})
        (folder / "README.md").write_text(f"---\n{header}\n---\n")
        return dataclasses.replace(task, hub=dataclasses.replace(task.hub, repository=str(folder)))

    return make


@pytest.mark.parametrize("name", ["rte", "stsb", "mnli", "scitail"])
def test_the_hub_gives_the_same_rows_as_the_files(hub_copy, name):
    # Labels in another order than ours, as the hub's own order is another than the files'.
    task = find_task(name)
    names = None if name == "scitail" else tuple(reversed(task.labels))
    copied = hub_copy(task, names)
    hub = {"train": read_from_hub(copied, "train"), "val": read_from_hub(copied, "dev")}
    folder = {"train": read_from_folder(task, "train", GLUE), "val": read_from_folder(task, "dev", GLUE)}
    assert rows_fingerprint(hub) == rows_fingerprint(folder)


def test_hub_rows_without_a_label_are_refused(hub_copy):
    task = hub_copy(TASKS["rte"], ("entailment", "not_entailment"), unlabelled=4)
    with pytest.raises(UserError, match=r"\(rte, train\), row 5: .*row .*no label"):
        read_from_hub(task, "train")


def test_a_missing_hub_column_is_named(hub_copy):
    task = hub_copy(TASKS["rte"], ("entailment", "not_entailment"))
    task = dataclasses.replace(task, hub=dataclasses.replace(task.hub, text=("sentence", "sentence2")))
    with pytest.raises(UserError, match=r"no column 'sentence'.*'sentence"):
        read_from_hub(task, "train")


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    missing = dataclasses.replace(TASKS["rte"].hub, repository="nobody/not-a-data-set-of-stableft")
    with pytest.raises(UserError, match=r"RTE cannot .*loaded .*hub .*--data-dir"):
        read_from_hub(dataclasses.replace(TASKS["rte"], hub=missing), "train")
