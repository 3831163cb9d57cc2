"""What a run leaves behind comes back as it was, or not at all."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import ROOT

from stableft.config.planned_run import PlannedRun
from stableft.config.run_config import canonical_json
from stableft.errors import StorageError, UserError
from stableft.records.convert import convert_records_file
from stableft.records.frame import build_frame
from stableft.records.probe_record import DriftRecord, read_probe_records
from stableft.records.run_record import (
    AnyRunRecord,
    DataRecord,
    EarlyStopRecord,
    Environment,
    EvalPoint,
    ImportedEval,
    ImportedRun,
    ImportedScores,
    ImportSource,
    RunRecord,
    Scores,
    StartRecord,
    UnknownSchemaError,
    atomic_write,
    dump_record,
    parse_record_as,
    read_record,
    read_records_file,
    run_folder,
    write_record,
    write_records_file,
)
from stableft.sweep.state import read_sweep_state

numbers = st.floats(allow_nan=True, allow_infinity=True)


@pytest.fixture(scope="session")
def make_record(make_config):
    def make(score: float = 0.7, config=None, **changes) -> RunRecord:
        config = config or make_config()
        scores = Scores(step=9, val={"accuracy": score}, test=None)
        values = {
            "run_id": config.run_id,
            "arm": "arm",
            "recipe": "recipe",
            "status": "finished",
            "reason": None,
            "config": config,
            "report": "last",
            "evals": (EvalPoint(step=9, epoch=1.0, train_loss=None, val_loss=score, val={"accuracy": score}),),
            "last": scores,
            "best": scores,
            "failed": False,
            "failed_by_accuracy": False,
            "steps": 9,
            "skipped_steps": 0,
            "data": DataRecord(
                fingerprint="f" * 64,
                train_rows=4,
                val_rows=2,
                test_rows=0,
                label_entropy=0.69,
                baselines={"val": {"accuracy": 0.5}},
            ),
            "environment": Environment(
                versions={"torch": "2.11"},
                git_commit=None,
                git_dirty=None,
                platform="Linux",
                device="cpu",
                threads=1,
                micro_batch=4,
                micro_batch_halved=0,
                model_commit=None,
            ),
            "seconds": 1.25,
            "peak_memory_bytes": 10**9,
        }
        return RunRecord.model_validate(values | changes)

    return make


def make_imported(score: float = 0.7, **changes) -> ImportedRun:
    scores = ImportedScores(step=9, val={"accuracy": score}, test={"accuracy": score})
    values = {
        "run_id": "0" * 16,
        "arm": "arm",
        "task": "my task",
        "seed": 2**63 - 1,
        "metric": "accuracy",
        "split": "test",
        "report": "last",
        "evals": (ImportedEval(step=9, train_loss=None, val_loss=score, val={"accuracy": score}),),
        "last": scores,
        "best": None,
        "failed": None,
        "baseline": None,
        "steps": None,
        "source": ImportSource(kind="csv", name="scores.csv", sha256="f" * 64),
    }
    return ImportedRun.model_validate(values | changes)


def same(a: AnyRunRecord, b: AnyRunRecord) -> bool:
    return dump_record(a) == dump_record(b)  # NaN is not equal to NaN


def land(results, record: RunRecord):
    folder = run_folder(results, record.run_id)
    folder.mkdir(parents=True)
    write_record(results, record)
    return folder / "record.json"


def test_a_record_comes_back(tmp_path, make_record):
    record = make_record()
    land(tmp_path, record)
    assert read_record(tmp_path, record.run_id) == record
    assert read_record(tmp_path, "0" * 16) is None


@given(value=numbers)
def test_every_number_comes_back_nan_and_infinity_too(make_record, value):
    record = make_record(value)
    line = dump_record(record)
    back = parse_record_as(RunRecord, line)
    assert same(back, record)
    assert back.last is not None
    assert back.last.val["accuracy"] == pytest.approx(value, abs=0, rel=0, nan_ok=True)
    assert "\n" not in line


def test_a_record_is_json_that_any_program_reads(make_record):
    json.loads(dump_record(make_record(math.nan)), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_the_scores_of_a_record(make_record, make_config):
    config = make_config(**{"data.split": "heldout"})
    best = Scores(step=3, val={"accuracy": 0.8}, test={"accuracy": 0.6})
    record = make_record(0.7, config, best=best, report="best")
    assert record.score("last", "val", "accuracy") == 0.7
    assert record.score("last", "test", "accuracy") is None
    assert record.score("best", "test", "mcc") is None
    assert record.reported_score == 0.6
    assert make_record(0.7).reported_score == 0.7
    assert make_record(0.7, last=None, best=None).reported_score is None


@pytest.mark.faults
@pytest.mark.parametrize("keep", [0, 1, 50, -2, -40])
def test_a_truncated_record_is_refused(tmp_path, make_record, keep):
    record = make_record()
    path = land(tmp_path, record)
    path.write_text(path.read_text()[:keep])
    with pytest.raises(UserError) as caught:
        read_record(tmp_path, record.run_id)
    assert str(caught.value) == f"{path} is not a complete record"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("old", "new"), [('"accuracy":0.7', '"accuracy":0.9'), ('"arm":"arm"', '"arm":"ark"'), ('"steps":9', '"steps":8')]
)
def test_a_record_edited_by_hand_is_refused(tmp_path, make_record, old, new):
    record = make_record()
    path = land(tmp_path, record)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match="does not match its checksum"):
        read_record(tmp_path, record.run_id)


def as_schema_1(record: RunRecord) -> str:
    """Returns the line that the version before schema 2 wrote of a record: `report` in the config, no number."""
    values = json.loads(dump_record(record))
    del values["schema"], values["checksum"]
    values["config"]["evaluation"]["report"] = values.pop("report")
    return canonical_json(values | {"checksum": hashlib.sha256(canonical_json(values).encode()).hexdigest()})


@pytest.mark.parametrize("layout", [str, lambda line: json.dumps(json.loads(line), indent=1)], ids=["line", "spaced"])
def test_a_record_of_schema_1_is_read_as_it_is(tmp_path, make_record, layout):
    record = make_record(math.nan, report="best")
    assert json.loads(dump_record(record))["schema"] == 2
    path = land(tmp_path, record)
    path.write_text(layout(as_schema_1(record)))
    back = read_record(tmp_path, record.run_id)
    assert back is not None
    assert (back.report, back.config) == ("best", record.config)
    assert dump_record(back) == dump_record(record)
    path.write_text(path.read_text().replace("best", "last", 1))
    with pytest.raises(UserError, match="does not match its checksum"):
        read_record(tmp_path, record.run_id)


def test_a_folder_of_schema_1_is_finished_and_reported_as_before(tmp_path, make_record, make_config):
    records = [make_record(0.5 + seed / 10, make_config(**{"seeds.init": seed}), report="best") for seed in range(4)]
    runs = [PlannedRun(record.arm, record.recipe, record.config, record.report) for record in records]
    frames = []
    for write in (dump_record, as_schema_1):
        for record in records:
            folder = run_folder(tmp_path, record.run_id)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "record.json").write_text(write(record) + "\n")
        state = read_sweep_state(tmp_path, runs)
        assert (len(state.finished), state.damaged) == (4, ())
        frames.append(build_frame(state.finished))
    assert set(frames[0]["checkpoint"]) == {"best"}
    assert frames[0].equals(frames[1])


def test_a_file_of_records_is_converted_in_place(tmp_path, make_record):
    probe = (ROOT / "results/records/demo-probes.jsonl").read_text().splitlines()[-1]
    old, records = tmp_path / "old.jsonl", [make_record(0.1), make_record(math.nan)]
    old.write_text("\n".join([*map(as_schema_1, records), probe]) + "\n")
    assert convert_records_file(old, old) == 3
    first, second, third = old.read_text().splitlines()
    assert [first, second] == list(map(dump_record, records))
    assert json.loads(third) | {"checksum": ""} == json.loads(probe) | {"schema": 2, "checksum": ""}
    (kept,) = read_probe_records(old)
    assert dump_record(kept) == third
    before = old.read_text()
    assert convert_records_file(old, old) == 3
    assert old.read_text() == before
    old.write_text(before.replace('"steps":9', '"steps":8'))
    with pytest.raises(UserError, match=r"old\.jsonl:1 does not match its checksum"):
        convert_records_file(old, tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()
    with pytest.raises(UserError, match="there is no such records file, or it is not text"):
        convert_records_file(tmp_path / "none.jsonl", old)


@pytest.mark.parametrize("kind", [RunRecord, ImportedRun])
def test_a_record_of_a_newer_schema_is_refused_and_left_in_place(tmp_path, make_record, kind):
    record = make_record() if kind is RunRecord else make_imported()
    newer = dump_record(record).replace('"schema":2', '"schema":3')
    with pytest.raises(UnknownSchemaError) as caught:
        parse_record_as(kind, newer)
    assert str(caught.value) == (
        "has schema 3, but this version of stableft reads 1 (without the key) and 2: read it with the version that "
        "wrote it"
    )
    (tmp_path / "r.jsonl").write_text(newer)
    with pytest.raises(UserError, match=r"r\.jsonl:1 has schema 3"):
        list(read_records_file(tmp_path / "r.jsonl"))


def test_a_schema_1_record_without_a_checkpoint_to_report_is_refused(make_record):
    values = json.loads(as_schema_1(make_record()))
    del values["checksum"], values["config"]["evaluation"]["report"]
    line = canonical_json(values | {"checksum": hashlib.sha256(canonical_json(values).encode()).hexdigest()})
    with pytest.raises(UserError, match="has report: Field required"):
        parse_record_as(RunRecord, line)


DEEP = "[" * 100_000


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '"x"', "\x00\x00", DEEP, '{"checksum":' + DEEP, "9" * 5000])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(UserError, match="is not a complete record"):
        parse_record_as(RunRecord, text)


@pytest.mark.faults
def test_bytes_that_are_no_text_are_refused(tmp_path, make_record):
    record = make_record()
    land(tmp_path, record).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a complete record"):
        read_record(tmp_path, record.run_id)


def test_the_record_of_another_run_is_refused(tmp_path, make_record):
    path = land(tmp_path, make_record())
    path.parent.rename(path.parent.with_name("1" * 16))
    with pytest.raises(UserError, match="is the record of another run"):
        read_record(tmp_path, "1" * 16)


def test_an_atomic_write_replaces_the_content(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"

    def write(file: BinaryIO) -> None:
        file.write(b"written")

    atomic_write(path, write)
    assert path.read_bytes() == b"written"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.faults
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_crash_in_the_writer_leaves_the_old_content_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def crash(file):
        file.write(b"half of the n")
        raise error

    with pytest.raises(error):
        atomic_write(path, crash)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.faults
def test_a_disk_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=f"^cannot use {path}: No space left on device$"):
        atomic_write(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_of_records_keeps_their_order(tmp_path, make_record, make_config):
    records = [make_record(math.nan if seed == 2 else 0.7, make_config(**{"seeds.init": seed})) for seed in (3, 1, 2)]
    write_records_file(tmp_path / "a.jsonl", records)
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text().replace("\n", "\n\n"))  # blank lines are none
    back = list(read_records_file(tmp_path / "a.jsonl"))
    assert [dump_record(record) for record in back] == [dump_record(record) for record in records]


@pytest.mark.faults
def test_a_damaged_line_of_a_file_of_records_is_named(tmp_path, make_record):
    path = tmp_path / "a.jsonl"
    path.write_text(dump_record(make_record()) + "\n" + dump_record(make_record())[:-9] + "\n")
    records: Iterator[AnyRunRecord] = read_records_file(path)
    next(records)
    with pytest.raises(UserError, match=r"a\.jsonl:2 is not a complete record"):
        next(records)


def test_files_of_records_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="there is no such records file"):
        list(read_records_file(tmp_path / "nope.jsonl"))
    with pytest.raises(UserError, match="is not a file of records"):
        list(read_records_file(tmp_path))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not a file of records"):
        list(read_records_file(tmp_path / "b.jsonl"))


def test_fields_that_came_later_leave_older_records_as_they_were(make_record):
    line = dump_record(make_record())
    assert not {"start", "stop"} & json.loads(line).keys()
    stop = EarlyStopRecord(score=math.nan, step=3, rank=2, of=2, after=0.3, lowest=0.5)
    start = StartRecord(sha256="0" * 64, recipe="zhang", task="mnli", seeds={"init": 0, "data": 0})
    record = make_record().model_copy(update={"status": "stopped", "stop": stop, "start": start})
    again = parse_record_as(RunRecord, dump_record(record))
    assert dump_record(again) == dump_record(record)
    assert math.isnan(again.stop.score)
    assert again.start == start


@given(value=numbers)
def test_an_imported_run_comes_back(value):
    run = make_imported(value)
    back = parse_record_as(ImportedRun, dump_record(run))
    assert same(back, run)
    assert back.score("last", "test", "accuracy") == pytest.approx(value, abs=0, rel=0, nan_ok=True)
    assert back.score("best", "test", "accuracy") is None


def test_runs_of_both_kinds_stand_in_one_file(tmp_path, make_record):
    records = [make_record(), make_imported(), make_record(math.nan), make_imported(math.nan)]
    write_records_file(tmp_path / "a.jsonl", records)
    back = list(read_records_file(tmp_path / "a.jsonl"))
    assert [type(record) for record in back] == [RunRecord, ImportedRun] * 2
    assert all(map(same, back, records))


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "records").glob("*.jsonl")))
def test_committed_records_keep_every_value_they_have(path):
    def of_both(old, new):
        """Returns the part of `new` that `old` has too: configs have got fields since."""
        if not isinstance(old, dict):
            return new
        return {key: of_both(value, new.get(key)) for key, value in old.items()}

    lines = [line for line in path.read_text().splitlines() if "probe" not in json.loads(line)]
    for line, record in zip(lines, read_records_file(path), strict=True):
        again = dump_record(record)
        assert ('"source":null' in again) == isinstance(record, RunRecord)
        old, new = ({**json.loads(text), "checksum": ""} for text in (line, again))
        assert of_both(old, new) == old
        assert dump_record(parse_record_as(type(record), again)) == again


@pytest.mark.parametrize("kind", ["own", "imported"])
def test_a_line_that_nobody_touched_is_read_without_being_written_again(make_record, kind, monkeypatch):
    record = make_record() if kind == "own" else make_imported()
    line = dump_record(record) + "\n"
    monkeypatch.setattr("stableft.records.run_record.canonical_json", lambda values: pytest.fail("the slow way"))
    assert parse_record_as(type(record), line) == record


@pytest.mark.parametrize("kind", ["own", "imported"])
def test_a_line_that_another_program_wrote_anew_is_read_too(make_record, kind):
    record = make_record(math.nan) if kind == "own" else make_imported(math.nan)
    values = json.loads(dump_record(record))
    for line in (json.dumps(values, indent=1), json.dumps(dict(reversed(values.items()))), f" {json.dumps(values)} "):
        assert same(parse_record_as(type(record), line), record)


def test_a_checksum_within_a_record_is_not_taken_for_its_own(make_record):
    scores = ImportedScores(step=9, val={"a": 0.5, "checksum": math.nan}, test=None)
    text = ',"checksum":"' + "0" * 64 + '"'
    for record in (make_imported(best=scores), make_imported(arm=text), make_record(arm=text, reason=text)):
        assert same(parse_record_as(type(record), dump_record(record)), record)
        damaged = dump_record(record).replace("accuracy", "akkuracy", 1)
        with pytest.raises(UserError, match="does not match its checksum"):
            parse_record_as(type(record), damaged)


def test_a_record_that_lacks_a_field_is_refused():
    values = json.loads(dump_record(make_imported()))
    del values["checksum"], values["seed"]
    checksum = hashlib.sha256(canonical_json(values).encode()).hexdigest()
    with pytest.raises(UserError, match="has seed: Field required"):
        parse_record_as(ImportedRun, canonical_json({**values, "checksum": checksum}))


def test_a_file_of_records_is_read_a_line_at_a_time(tmp_path, make_record):
    (tmp_path / "a.jsonl").write_text(dump_record(make_imported()) + "\nno record\n")
    assert next(iter(read_records_file(tmp_path / "a.jsonl"))) == make_imported()


def test_fields_tell_what_a_line_is_not_the_text_in_it(tmp_path, make_record):
    mark = '"probe":"drift","source":null,"arm":"x"'
    named = Scores(step=9, val={"accuracy": 0.5, "probe": 0.5, "source": 0.5}, test=None)
    records = [make_record(last=named, reason=mark), make_imported(arm=mark), make_record(arm=mark)]
    values = {"run_id": "0" * 16, "names": [mark], "redrawn": 0, "steps": [0], "distances": [[0.0]]}
    probe = DriftRecord.model_validate_json(json.dumps(values))
    path = tmp_path / "a.jsonl"
    write_records_file(path, [*records[:2], probe, *records[2:], probe])
    probed = set()
    assert list(read_records_file(path, probed)) == records
    assert (probed, list(read_probe_records(path))) == ({path}, [probe, probe])
    path.write_text(path.read_text().replace("\n", " \n"))  # which no fast path takes
    assert list(read_records_file(path)) == records


@pytest.mark.parametrize("steps", [2**63, -(2**63) - 1, 10**40])
def test_whole_numbers_that_no_table_holds_are_refused(tmp_path, make_record, steps):
    values = {**json.loads(dump_record(make_record())), "steps": steps}
    del values["checksum"]
    line = canonical_json({**values, "checksum": hashlib.sha256(canonical_json(values).encode()).hexdigest()})
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"a\.jsonl:1 has steps: Input should be "):
        list(read_records_file(tmp_path / "a.jsonl"))


def test_a_file_that_another_process_removes_meanwhile_is_written(tmp_path, monkeypatch):
    """It is gone right after it was looked at, and so is no device."""
    path, look = tmp_path / "file", Path.stat
    path.write_bytes(b"old")

    def look_and_lose(self, **options):
        found = look(self, **options)
        if self == path and options.get("follow_symlinks", True):
            path.unlink()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", look_and_lose)
        atomic_write(path, b"all of it")
    assert path.read_bytes() == b"all of it"
