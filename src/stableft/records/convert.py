"""Write the records of an older version's file as this version writes them."""

from pathlib import Path

from stableft.errors import UserError
from stableft.records.run_record import atomic_write, convert_record


def convert_records_file(path: Path, out: Path) -> int:
    """Write the records of a file as this version writes them, and return their number. `out` may be the same file.

    Raises:
        UserError: the file cannot be read, or a line is not a valid record; the message names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: there is no such records file, or it is not text") from None
    converted = []
    for number, line in enumerate(lines, 1):
        try:
            converted.append(f"{convert_record(line)}\n")
        except UserError as error:
            raise UserError(f"{path}:{number} {error}") from None
    atomic_write(out, "".join(converted).encode())
    return len(converted)
