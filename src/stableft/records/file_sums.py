"""The SHA-256 of the files beside a record, so that damage and files of another run are noticed before their use."""

from collections.abc import Collection, Iterable
from pathlib import Path

from stableft.config.local_files import file_digest, model_folder_digest
from stableft.errors import UserError
from stableft.records.run_record import RECORD_FILE, parse_checked_values

RETRAIN_ADVICE = "`stableft sweep CONFIG --complete` with the run's sweep file sets it aside and trains the run again"


def sum_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return name -> SHA-256 of those of the files and model folders that are in a run's folder."""
    return {name: digest for name in names if (digest := _digest(f"{folder}/{name}"))}


def find_damaged(folder: Path, sums: dict[str, str] | None, names: Collection[str] | None = None) -> list[str]:
    """Return which files (None: of all) are there but not as the record says. An older record says nothing of them."""
    return [
        name
        for name, digest in (sums or {}).items()
        if (names is None or name in names) and _digest(f"{folder}/{name}") not in (digest, None)
    ]


def read_sums(folder: Path) -> dict[str, str] | None:
    """Return the sums in the record of a run or pre-training, whatever else that says, or None if there are none.

    Raises:
        UserError: the record is damaged.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return None
    try:
        return parse_checked_values(path.read_text(errors="replace")).get("files")
    except UserError as error:
        raise type(error)(f"{path} {error}") from None


def check_undamaged(folder: Path, sums: dict[str, str] | None, name: str, remedy: str = RETRAIN_ADVICE) -> None:
    """Raise UserError if a file is not as the record says. `remedy` says what to do about it."""
    if find_damaged(folder, sums, (name,)):
        raise UserError(f"{folder / name} does not match its checksum in the run's record: it is damaged; {remedy}")


def _digest(path: str) -> str | None:
    """Return the sum of a file or model folder, or None if there is none. Building a Path takes as long as a sum."""
    try:
        return file_digest(path)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return model_folder_digest(Path(path))
