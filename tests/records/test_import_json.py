"""JSON Lines, lists and folders of JSON files come in like the rows of a table."""

import json
import re
from dataclasses import replace

import pytest
from support.imports import PLAIN, scores

from stableft.errors import UserError
from stableft.records.import_json import import_json
from stableft.records.run_record import read_records_file

OBJECTS = [
    {"seed": 1, "arm": "a", "acc": 0.6, "config": {"lr": 2e-5, "layers": [1, 2]}},
    {"seed": "seed_2", "arm": "a", "acc": 0.71, "config": {"lr": 2e-5, "layers": [1, 2]}},
]
NESTED = replace(PLAIN, seed="run.seed", arm="run.name", score="metrics.acc")


def lines(objects) -> str:
    return "\n".join(map(json.dumps, objects)) + "\n"


@pytest.fixture
def take(tmp_path):
    """Returns a function that imports files given by name, or one as runs.jsonl, and returns what comes of it."""

    def take(content, mapping=PLAIN, name="runs.jsonl", files="*.json", **changes):
        source = tmp_path / "runs" if isinstance(content, dict) else tmp_path / name
        for file, text in content.items() if isinstance(content, dict) else [(name, content)]:
            path = source / file if isinstance(content, dict) else source
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        out = tmp_path / "out.jsonl"
        said = import_json(source, replace(mapping, **changes), out, files)
        return list(read_records_file(out)), said.replace("\n  ", " ")

    return take


@pytest.fixture
def refused(take, tmp_path):
    """Returns a function that says with which sentence files are refused, without the test's own folder."""

    def refused(*arguments, **changes) -> str:
        with pytest.raises(UserError) as caught:
            take(*arguments, **changes)
        assert not (tmp_path / "out.jsonl").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refused


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("runs.jsonl", lines(OBJECTS)),
        ("runs.ndjson", "\n" + lines(OBJECTS)),
        ("runs.json", lines(OBJECTS)),
        ("runs.json", json.dumps(OBJECTS)),
        ("runs.json", "\ufeff" + json.dumps(OBJECTS, indent=2)),
    ],
)
def test_one_object_is_one_run(take, name, text):
    records, said = take(text, name=name)
    assert [(run.task, run.arm, run.seed) for run in records] == [("rte", "a", 1), ("rte", "a", 2)]
    assert scores(records) == [0.6, 0.71]
    assert (records[0].source.kind, records[0].source.name) == ("json", name)
    assert records[0].source.sha256 in said.replace(" ", "")


def test_one_object_may_be_all(take):
    assert scores(take(json.dumps(OBJECTS[0], indent=1), name="one.json")[0]) == [0.6]


def test_nested_keys_are_joined_by_dots(take):
    text = lines({"run": {"seed": s, "name": "a"}, "metrics": {"acc": 0.6, "val": {"acc": 0.5}}} for s in (1, 2))
    run = take(text, NESTED, val="metrics.val.acc")[0][0]
    assert (run.last.val, run.last.test) == ({"accuracy": 0.5}, {"accuracy": 0.6})


@pytest.mark.parametrize(
    "depth", [*range(880, 990, 10), 100_000]
)  # from some depth on, Python reads but cannot walk it
def test_deep_nesting_is_one_sentence(take, depth):
    text = '{"seed": 1, "arm": "a", "acc": ' + '{"a": ' * depth + "1" + "}" * (depth + 1)
    with pytest.raises(
        UserError, match=r"(is|are) nested too deeply|is not JSON: maximum recursion|no such column"
    ) as caught:
        take(text)
    assert len(str(caught.value)) < 600


def test_numbers_keep_their_digits(take):
    text = '{"seed": 1, "arm": "a", "acc": 0.5252}\n{"seed": 2, "arm": "a", "acc": 5.252e-1}\n'
    assert [run.failed for run in take(text)[0]] == [True, True]
    text = '{"seed": 12345678901234567, "arm": "a", "acc": "71.5%"}\n'
    run = take(text)[0][0]
    assert (run.seed, run.last.test) == (12345678901234567, {"accuracy": 0.715})


def test_null_and_lacking_keys_are_missing_and_nan_is_nan(take):
    text = '{"seed": 1, "arm": "a", "acc": null}\n{"seed": 2, "arm": "a"}\n{"seed": 3, "arm": "a", "acc": NaN}\n'
    records, said = take(text + '{"seed": 4, "arm": "a", "acc": 0.6}\n')
    assert [run.failed for run in records] == [True, True, True, False]
    assert "acc has missing values, read as NaN, which counts as failed" in said
    assert "line 1 has null, line 2 has none" in said


def test_evaluations_may_be_objects_of_their_own(take):
    logs = [{"kind": "eval", "seed": 1, "arm": "a", "step": step, "val": 0.5 + step / 100} for step in (10, 20)]
    final = {"kind": "test", "seed": 1, "arm": "a", "acc": 0.7}
    mapping = {"val": "val", "val_where": ("kind=eval",), "where": ("kind=test",), "step": "step"}
    run = take(lines([*logs, final]), **mapping)[0][0]
    assert [(point.step, point.val["accuracy"]) for point in run.evals] == [(10, 0.6), (20, 0.7)]


def test_the_state_of_a_run_is_a_key_like_others(take):
    objects = [*OBJECTS, {"seed": 3, "arm": "a", "status": "crashed"}]
    records, _ = take(lines(one | {"status": "finished"} | one for one in objects))
    assert [(run.seed, run.status) for run in records] == [(1, "finished"), (2, "finished"), (3, "crashed")]


def test_settings_are_compared_inside_objects_too(refused):
    other = OBJECTS[1] | {"config": {"lr": 3e-5}}
    said = refused(lines([OBJECTS[0], other]))
    assert re.search(r"runs\.jsonl: arm 'a' .*differ in config\.lr: line 1 has '2e-05', line 2 has '3e-05'", said)


# ---- folders


TREE = {
    f"{arm}/seed_{seed}/metrics.json": json.dumps({"acc": 0.6 + seed / 100, "lr": 1})
    for arm in ("bert", "electra")
    for seed in (1, 2)
}
BY_FOLDER = replace(PLAIN, arm="folder", seed="folder", seed_pattern=r"seed_(\d+)$")


def test_a_folder_may_have_a_file_for_each_run(take):
    records, said = take(TREE, BY_FOLDER)
    assert [(run.arm, run.seed) for run in records] == [("bert", 1), ("bert", 2), ("electra", 1), ("electra", 2)]
    assert scores(records) == [0.61, 0.62, 0.61, 0.62]
    assert said.startswith("4 runs of runs (sha256 ")


def test_other_files_of_the_folder_are_left_alone_or_named(take, refused):
    tree = TREE | {"bert/seed_1/config.json": '{"layers": 3}', "notes.txt": "x"}
    assert refused(tree, BY_FOLDER) == (
        "runs/bert/seed_1/config.json: there is no key 'acc' (--score); --files PATTERN names the files of runs"
    )
    assert len(take(tree, BY_FOLDER, files="metrics*.json")[0]) == 4


def test_names_of_files_may_be_those_of_runs(take):
    tree = {f"bert-s{seed}.json": '{"acc": 0.6}' for seed in (1, 2)}
    records, _ = take(tree, PLAIN, arm="file", seed="file", seed_pattern=r"(s\d+)$")
    assert [(run.arm, run.seed) for run in records] == [("bert", 1), ("bert", 2)]


def test_a_run_of_a_folder_that_crashed_needs_no_score(take):
    tree = TREE | {"bert/seed_3/metrics.json": '{"state": "crashed"}'}
    tree = {name: text.replace("}", ', "state": "finished"}') if "acc" in text else text for name, text in tree.items()}
    records, _ = take(tree, BY_FOLDER)
    assert [(run.arm, run.seed) for run in records if run.status == "crashed"] == [("bert", 3)]


def test_mistakes_in_a_folder_name_the_files(refused):
    tree = TREE | {"bert/seed_2/metrics.json": '{"acc": "half"}', "electra/seed_2/metrics.json": '{"acc": 60.5}'}
    assert refused(tree, BY_FOLDER) == (
        "runs/bert/seed_2/metrics.json column 'acc': 'half' must be a number, nan or empty"
    )


def test_scales_that_are_mixed_in_a_folder_name_the_files(refused):
    tree = TREE | {"electra/seed_2/metrics.json": '{"acc": 60.5, "lr": 1}'}
    assert re.search(r"\(runs/bert/seed_1/metrics\.json has 0\.61, .*percent \(runs/elec", refused(tree, BY_FOLDER))


@pytest.mark.parametrize(
    ("content", "name", "facts"),
    [
        ('{"seed": 1,\n', "a.jsonl", r"a\.jsonl:1 is not JSON: Expecting property name"),
        (
            "[1]\n{}\n3\n",
            "a.jsonl",
            r"2 mistakes: \(1\) a\.jsonl:1 must be an object .* list; \(2\) a\.jsonl:3 .*'3'",
        ),
        ("[{}, 3]", "a.json", r"a\.json item 2 must be an object with the keys of a run, not '3'"),
        ('{\n "seed": 1,\n}', "a.json", r"^a\.json is not JSON: .*line 3"),
        ("", "a.jsonl", r"a\.jsonl: there is no object in it"),
        ("[]", "a.json", r"a\.json: there is no object in it"),
        (b"\xff{}", "a.json", r"a\.json:1: the file is not text in UTF-8"),
        ("[" * 100_000, "a.json", r"a\.json is not JSON"),
        ('[{"seed": 1, "seed": 2}]', "a.json", r"a\.json: an object has the key 'seed' twice"),
        ('[{"a": {"b": 1}, "a.b": 2}]', "a.json", r"a\.json item 1 has the key 'a\.b' twice"),
        ('{"arm": "\\udc80"}', "a.jsonl", r"a\.jsonl:1: \\udc80 is half .*surrogate"),
        ({"x.txt": ""}, "", r"runs: no file at or below it has a name like \*\.json \(--files\)"),
        ({"x.json": "[1]"}, "", r"runs/x\.json must be an object .*, not a list"),
    ],
)
def test_what_is_no_object_is_refused(refused, content, name, facts):
    assert re.search(facts, refused(content, name=name))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        import_json(tmp_path / "no.jsonl", PLAIN, tmp_path / "out.jsonl")
    (tmp_path / "runs.jsonl").write_text(lines(OBJECTS))
    with pytest.raises(UserError, match="is the file that is imported"):
        import_json(tmp_path / "runs.jsonl", PLAIN, tmp_path / "runs.jsonl")
