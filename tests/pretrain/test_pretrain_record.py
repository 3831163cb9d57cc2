"""The record of a pre-training goes to disk and back, and cannot be edited."""

import math

import pytest

from stableft.errors import UserError
from stableft.pretrain.record import CorpusRecord, PretrainPoint, PretrainRecord
from stableft.records.run_record import (
    RECORD_FILE,
    Environment,
    RunRecord,
    dump_record,
    parse_record_as,
    read_record_as,
)


@pytest.fixture
def record(plan_pretraining) -> PretrainRecord:
    config = plan_pretraining().config
    point = PretrainPoint(
        step=3, epoch=0.1, train_loss=7.5, held_out_loss=math.nan, held_out_accuracy=0.25, seconds=0.1
    )
    corpus = CorpusRecord(
        fingerprint="f" * 64, documents=9, train_rows=8, held_out_rows=1, train_tokens=80, held_out_tokens=9
    )
    environment = Environment(
        versions={"torch": "2"},
        git_commit=None,
        git_dirty=None,
        platform="Linux x86_64",
        device="cpu",
        threads=1,
        micro_batch=16,
        micro_batch_halved=0,
        model_commit=None,
    )
    return PretrainRecord(
        run_id=config.run_id,
        name="tiny",
        failed=False,
        reason=None,
        config=config,
        evals=(point,),
        steps=3,
        skipped_steps=0,
        tokens=300,
        tokens_per_second=12.5,
        data=corpus,
        environment=environment,
        seconds=24.1,
        peak_memory_bytes=None,
    )


def test_there_and_back(record, tmp_path):
    line = dump_record(record)
    assert dump_record(parse_record_as(PretrainRecord, line)) == line
    assert parse_record_as(PretrainRecord, line).config.run_id == record.run_id
    folder = tmp_path / record.run_id
    assert read_record_as(PretrainRecord, folder) is None
    folder.mkdir()
    (folder / RECORD_FILE).write_text(line + "\n")
    back = read_record_as(PretrainRecord, folder)
    assert back
    assert math.isnan(back.held_out_loss or 0)


def test_it_is_no_record_of_a_run_and_cannot_be_edited(record):
    line = dump_record(record)
    with pytest.raises(UserError, match="does not match its checksum"):
        parse_record_as(PretrainRecord, line.replace('"tokens":300', '"tokens":301'))
    with pytest.raises(UserError, match=r"^has "):
        parse_record_as(RunRecord, line)


def test_perplexity(record):
    def of(loss: float) -> float | None:
        return record.model_copy(
            update={"evals": (record.evals[0].model_copy(update={"held_out_loss": loss}),)}
        ).perplexity

    assert of(0.0) == 1.0
    assert of(1e6) == math.inf
    assert record.model_copy(update={"evals": ()}).perplexity is None
