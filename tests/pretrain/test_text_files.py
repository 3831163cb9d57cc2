"""Text files: which belong to a folder, and where a document ends."""

import pytest
from support.pretraining import WIKIPEDIA_EXTRACT

from stableft.errors import UserError
from stableft.pretrain.corpus import list_text_files, read_documents, text_digest


def documents(*texts: str, folder) -> list[list[str]]:
    files = []
    for i, text in enumerate(texts):
        files.append(folder / f"{i}.txt")
        files[-1].write_text(text)
    found: dict[int, list[str]] = {}
    for document, line in read_documents(files):
        found.setdefault(document, []).append(line)
    return list(found.values())


def test_wikiextractor_rows(tmp_path):
    assert documents(WIKIPEDIA_EXTRACT, folder=tmp_path) == [
        ["Anarchism", "Anarchism is a political philosophy .", "It is one ."],
        ["Autism", "Autism is a disorder ."],
    ]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert documents(f"\ufeff{WIKIPEDIA_EXTRACT}", "\ufeffa", folder=tmp_path) == [
        *documents(WIKIPEDIA_EXTRACT, folder=tmp_path),
        ["a"],
    ]


def test_plain_text_has_blank_lines_between_documents(tmp_path):
    assert documents("a\nb\n\n \nc\n", "d", folder=tmp_path) == [["a", "b"], ["c"], ["d"]]


def test_only_a_line_breaks_a_line(tmp_path):
    assert documents("a\u2028b\x0bc\nd\n", folder=tmp_path) == [["a\u2028b\x0bc", "d"]]


def test_a_folder_is_searched_to_any_depth_but_not_for_hidden_files(tmp_path):
    for name in ("b", "a/c", "a/.hidden", ".git/x", "a/b/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [path.relative_to(tmp_path).as_posix() for path in list_text_files(tmp_path)] == ["a/b/d.txt", "a/c", "b"]
    before = text_digest(tmp_path)
    (tmp_path / "a/.hidden").write_text("other")
    assert text_digest(tmp_path) == before
    (tmp_path / "b").write_text("other")
    assert text_digest(tmp_path) != before
    assert list_text_files(tmp_path / "b") == [tmp_path / "b"]


def test_other_bytes_than_text(tmp_path):
    (tmp_path / "x").write_bytes(b"good\n\xff\xfe")
    with pytest.raises(UserError, match=r"text: .*x .*not UTF-8 text \(byte 5\)$"):
        list(read_documents([tmp_path / "x"]))
