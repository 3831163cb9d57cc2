import errno
from pathlib import Path

import pytest

from stableft.errors import StorageError, storage_error


def raise_behind_another(error: OSError):
    try:
        raise error
    except OSError:
        raise RuntimeError("unexpected pos 640 vs 534")  # noqa: B904  torch.save does just this


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_a_disks_error_is_found_behind_another_and_names_the_path(number):
    with pytest.raises(RuntimeError) as caught:
        raise_behind_another(OSError(number, "No space left on device", "runs/a/checkpoint.pt"))
    found = storage_error(caught.value)
    assert isinstance(found, StorageError)
    assert str(found) == "cannot use runs/a/checkpoint.pt: No space left on device"


def test_a_path_is_named_where_the_system_names_none():
    found = storage_error(OSError(errno.ENOSPC, "No space left on device"), Path("out.csv"))
    assert str(found) == "cannot use out.csv: No space left on device"


def test_other_errors_are_no_fault_of_the_disk():
    assert storage_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None
    assert storage_error(RuntimeError("CUDA error: unspecified launch failure")) is None
