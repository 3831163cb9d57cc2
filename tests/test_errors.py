import errno
from pathlib import Path

import pytest

from stableft.errors import MAX_ECHO, StorageError, UserError, clip, did_you_mean, echo, storage_error


def test_a_message_repeats_no_more_of_a_value_than_one_can_read():
    long, path = "a b" * 1000, "/".join(["folder"] * 100)
    assert len(clip(long)) == len(echo(long)) == MAX_ECHO
    assert str(UserError(f"{path}/s.yaml:3: task {long!r} is not known")) == (
        f"{path}/s.yaml:3: task {echo(long)} is not known"
    )
    assert str(UserError(f"--set {'x' * 1000}=1: no")) == f"--set {clip('x' * 1000 + '=1:')} no"
    assert clip("a\nb\x1b[31m") == "a b [31m"
    short = f"the task's rows {'and more ' * 30}of the model's file"
    assert str(UserError(short)) == short


def test_a_name_that_begins_so_is_closer_than_one_that_is_spelt_alike():
    names = ["mcc", "accuracy_f1", "accuracy", "f1"]
    assert did_you_mean("ACC", names) == "; did you mean 'accuracy'?"
    assert did_you_mean("mc", names) == "; did you mean 'mcc'?"
    assert did_you_mean("f2", names) == did_you_mean("accuracy?!?!?!?!?!?!", names) == ""


def raise_behind_another(error: OSError):
    try:
        raise error
    except OSError:
        raise RuntimeError("unexpected pos 640 vs 534")  # noqa: B904  torch.save does just this


def test_a_message_is_one_line_in_which_every_character_shows():
    error = UserError("s.csv: there is no column 'acc', there are a\u2028cc, \ufeffacc, \x1b[2J\t\ud800; caf\u00e9")
    assert str(error) == r"s.csv: there is no column 'acc', there are a\u2028cc, \ufeffacc, \x1b[2J\t\ud800; café"


@pytest.mark.faults
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
