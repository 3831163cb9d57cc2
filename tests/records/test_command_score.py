"""The score of a command, from JSON, JSON Lines, CSV, TSV and stdout."""

import math

import pytest
from support.command_scores import read_score

from stableft.records.command_score import MAX_LINE_BYTES, LastMatch, MissingScoreError

GOOD = [
    ("a.json", "key: eval_accuracy", '{"eval_accuracy": 0.75}', 0.75),
    ("a.json", "key: eval.accuracy", '{"eval": {"accuracy": 0.75}}', 0.75),
    ("a.json", "key: eval.accuracy", '{"eval.accuracy": 0.75}', 0.75),
    ("a.json", "key: acc, scale: 100", '{"acc": "71.5"}', 0.715),
    ("a.json", "key: mcc, range: [-1, 1]", '{"mcc": -5e-1}', -0.5),
    ("a.json", "key: acc", '{"acc": 1.0000000001}', 1.0),
    ("a.jsonl", "key: acc", '{"acc": 0.1}\n{"acc": 0.2}\n{"loss": 3}\n\n', 0.2),
    ("a.csv", "column: acc", "step,acc\n1,0.1\n2,0.2\n\n", 0.2),
    ("a.csv", "column: acc", '\ufeffacc,note\r\n0.2,"a\r\nb"\r\n', 0.2),
    ("a.tsv", "column: acc", "step\tacc\n1\t0.1\n", 0.1),
]


@pytest.mark.parametrize(("name", "where", "text", "score"), GOOD)
def test_a_score_in_a_file(tmp_path, name, where, text, score):
    assert read_score(tmp_path, name, where, text).value == score


BAD = [
    ("a.json", "key: acc", None, "it left no score.file {out}/a.json"),
    ("a.json", "key: acc", "", "score.file {out}/a.json cannot be read: a.json is not JSON: "),
    ("a.json", "key: acc", "[1]", "score.file {out}/a.json has no score.key 'acc'"),
    ("a.json", "key: a.b", '{"a": 1}', "score.file {out}/a.json has no score.key 'a.b'"),
    ("a.json", "key: acc", '{"acc": 1, "acc": 2}', "score.file {out}/a.json cannot be read: a.json: an object has the"),
    ("a.json", "key: acc", '{"acc": null}', "acc in score.file {out}/a.json is None, which is not a number"),
    ("a.json", "key: acc", '{"acc": [1]}', "acc in score.file {out}/a.json is ['1'], which is not a number"),
    ("a.json", "key: acc", '{"acc": Infinity}', "acc in score.file {out}/a.json is 'Infinity', which is not a number"),
    ("a.json", "key: acc", '{"acc": 71.5}', "is 71.5, out of the range [0, 1] of its scale 1"),
    ("a.json", "key: acc, scale: 100", '{"acc": -1}', "is -1, out of the range [0, 100] of its scale 100"),
    ("a.json", "key: acc, range: [0.2, 0.8]", '{"acc": 0.1}', "is 0.1, out of the range [0.2, 0.8] of its scale 1"),
    ("a.jsonl", "key: acc", '{"loss": 1}\n', "no line of score.file {out}/a.jsonl has score.key 'acc'"),
    ("a.jsonl", "key: acc", '{"acc": 1}\n{"a', "score.file {out}/a.jsonl cannot be read: a.jsonl:2 is not JSON"),
    ("a.csv", "column: acc", "step\n1\n", "score.file {out}/a.csv has no column 'acc'"),
    ("a.csv", "column: acc", "acc,acc\n1,2\n", "score.file {out}/a.csv has more than one column 'acc'"),
    ("a.csv", "column: acc", "acc\n", "score.file {out}/a.csv has no rows below its header"),
    ("a.csv", "column: acc", "", "score.file {out}/a.csv has no column 'acc'"),
    ("a.csv", "column: acc", "step,acc\n1\n", "the last row of score.file {out}/a.csv has no field of column 'acc'"),
    ("a.csv", "column: acc", 'acc\n"1\n', "score.file {out}/a.csv cannot be read: "),
]


@pytest.mark.parametrize(("name", "where", "text", "reason"), BAD)
def test_a_score_that_does_not_count(tmp_path, name, where, text, reason):
    with pytest.raises(MissingScoreError) as caught:
        read_score(tmp_path, name, where, text)
    assert reason in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MissingScoreError, match=r"score\.file \{out\}/a\.json cannot be read: 'utf-8' codec"):
        read_score(tmp_path, "a.json", "key: acc", None)


@pytest.mark.parametrize("word", ["NaN", '"nan"', "-NaN"])
def test_nan_is_a_score(tmp_path, word):
    if word == "-NaN":
        assert math.isnan(read_score(tmp_path, "a.csv", "column: acc", "acc\n-nan\n").value)
    else:
        assert math.isnan(read_score(tmp_path, "a.json", "key: acc", f'{{"acc": {word}}}').value)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_stream_is_searched_whatever_its_pieces(size):
    text = "x\racc 0.1\r\nünd acc 0.2\n" + "y" * (MAX_LINE_BYTES + 1000) + " acc 0.3\nacc none\nacc 0.4"
    match = LastMatch(r"acc (\d\.\d)$")
    data = text.encode()
    for start in range(0, len(data), size):
        match.feed(data[start : start + size])
    assert match.found == "0.3"
    assert match.close() == "0.4"
    assert LastMatch(None).close() is None
