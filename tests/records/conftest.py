"""Fixtures that import a table given as text."""

from dataclasses import replace

import pytest
from support.imports import PLAIN

from stableft.errors import UserError
from stableft.records.csv_table import CsvFormat
from stableft.records.import_csv import import_csv
from stableft.records.import_mapping import TableMapping
from stableft.records.run_record import ImportedRun, read_records_file

DEFAULT = CsvFormat()


@pytest.fixture
def take(tmp_path):
    """Returns a function that imports a table given as text, and returns its records and what was printed."""

    def take(text: str | bytes, mapping: TableMapping = PLAIN, name: str = "scores.csv", form=DEFAULT, **changes):
        file = tmp_path / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        out = tmp_path / "out.jsonl"
        said = import_csv(file, replace(mapping, **changes), out, form).replace("\n  ", " ")
        records = list(read_records_file(out))
        assert all(isinstance(record, ImportedRun) for record in records)
        return records, said

    return take


@pytest.fixture
def refused(take, tmp_path):
    """Returns a function that says with which sentence a table is refused; the name of its folder is left out."""

    def refused(text: str | bytes, mapping: TableMapping = PLAIN, name: str = "scores.csv", **changes) -> str:
        with pytest.raises(UserError) as caught:
            take(text, mapping, name, **changes)
        assert not (tmp_path / "out.jsonl").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refused
