"""Damaged files are read, or refused in one sentence that names the file: never a stack trace."""

import pytest
from support.damaged_files import READERS, read_damaged


@pytest.mark.faults
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path, name):
    said = dict(read_damaged(name, 200, tmp_path))
    refused = [sentence for sentence in said.values() if sentence]
    assert 20 < len(refused) < 200
    for sentence in refused:
        assert str(tmp_path) in sentence or "scores" in sentence, sentence
        assert "\n" not in sentence
