"""Damaged files are read, or refused in one sentence that names the file: never a stack trace."""

import pytest
from support.damaged_files import READERS, read_case


@pytest.mark.faults
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path, name):
    refused = [sentence for number in range(200) if (sentence := read_case(name, number, tmp_path))]
    assert 20 < len(refused) < 200
    for sentence in refused:
        assert str(tmp_path) in sentence or "scores" in sentence, sentence
        assert "\n" not in sentence
