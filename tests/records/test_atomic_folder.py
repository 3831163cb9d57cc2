"""Folders that are replaced or removed as a whole, by holders that are killed, or stopped until others took over."""

import contextlib
import errno
import os
from pathlib import Path

import pytest
from support.stopped_holders import Moments, read_all

from stableft.errors import StorageError
from stableft.records.atomic_folder import (
    atomic_write_folder,
    remove_partial_folders,
    remove_under_claim,
    set_aside,
)
from stableft.records.held_claims import ClaimLostError
from stableft.sweep import leases
from stableft.sweep.claims import claim_run

pytestmark = pytest.mark.faults


def write(target: Path, text: str) -> None:
    with atomic_write_folder(target) as temporary:
        (temporary / "weights").write_text(text)


@pytest.mark.parametrize(
    "change", [lambda target: write(target, "holder"), remove_under_claim], ids=["write", "remove"]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_holder_stopped_at_any_moment_spoils_nothing_of_its_successor(tmp_path, monkeypatch, change, before):
    monkeypatch.setattr(leases, "TIMES", leases.LeaseTimes(missing=0.02))
    target, taken_over = tmp_path / "run" / "model-best", 0
    moments = Moments(target.parent, monkeypatch, lambda: write(target, "successor"))
    for at in range(1, 40):
        with claim_run(moments.folder) as mine:
            assert mine
            if before:
                write(target, "earlier")
            elif target.exists():
                remove_under_claim(target)
            moments.calls, moments.at = 0, at
            try:
                change(target)
                lost = False
            except ClaimLostError:
                lost = True
            reached, moments.at = moments.calls >= at, -1
            if not reached:
                break
            taken_over += 1
            assert read_all(moments.folder) == {"model-best/weights": "successor"}, (at, lost)
            assert moments.found in ({"model-best/weights": "earlier"}, {"model-best/weights": "holder"}, {}), at
            assert moments.found or not before or change is remove_under_claim, at
            assert not any(moments.folder.glob(".*"))
    assert taken_over >= (5 if change is not remove_under_claim else 1)


def test_a_holder_stopped_while_it_sets_something_aside_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "TIMES", leases.LeaseTimes(missing=0.02))
    target = tmp_path / "run" / "model-best"
    moments = Moments(target.parent, monkeypatch, lambda: write(target, "successor"))
    for at in range(1, 40):
        with claim_run(moments.folder) as mine:
            assert mine
            write(target, f"damaged {at}")
            moments.calls, moments.at = 0, at
            with contextlib.suppress(ClaimLostError):
                set_aside(target)
            reached, moments.at = moments.calls >= at, -1
            if not reached:
                break
            assert read_all(target) == {"weights": "successor"}, at
            assert f"damaged {at}" in moments.found.values(), at
            assert not any(moments.folder.glob(".*"))
    assert at > 4


def test_damaged_files_are_set_aside_under_names_of_their_own(tmp_path):
    path = tmp_path / "record.json"
    names = []
    for text in ("first", "second"):
        path.write_text(text)
        names.append(set_aside(path).name)
    assert names == ["record.json.damaged-1", "record.json.damaged-2"]
    assert (tmp_path / names[0]).read_text() == "first"
    assert not path.exists()


def test_a_holder_that_writes_on_does_so_into_a_folder_of_its_own(tmp_path):
    target = tmp_path / "model-best"
    with atomic_write_folder(target) as slow:
        (slow / "weights").write_text("slow")
        write(target, "fast")
        assert read_all(target) == {"weights": "fast"}
    assert read_all(tmp_path) == {"model-best/weights": "slow"}
    with contextlib.suppress(KeyError), atomic_write_folder(target) as failing:
        (failing / "weights").write_text("half")
        write(target, "fast")
        raise KeyError
    assert read_all(tmp_path) == {"model-best/weights": "fast"}
    assert [path.name for path in tmp_path.iterdir()] == ["model-best"]


class Death(BaseException):
    """Stands for a kill: nothing is tidied up."""


@pytest.mark.parametrize("before", [True, False])
def test_who_takes_the_claim_of_a_writer_killed_at_any_moment_finds_all_or_nothing(tmp_path, monkeypatch, before):
    rename, deaths = os.rename, 0

    def die_before(number: int):
        calls = iter(range(number + 1))

        def call(old, new):
            if next(calls) == number:
                raise Death
            rename(old, new)

        return call

    target = tmp_path / "my.model"
    for number in range(2):
        if before:
            write(target, "earlier")
        with monkeypatch.context() as patch:
            patch.setattr("os.rename", die_before(number))
            with pytest.raises(Death):
                write(target, "new")
        deaths += 1
        assert any(tmp_path.glob(".my.model.*.partial"))
        assert target.exists() == (before and not number)
        with claim_run(tmp_path) as mine:
            assert mine
            assert read_all(tmp_path) == ({"my.model/weights": "earlier"} if before else {})
    assert deaths == 2
    assert not any(tmp_path.glob(".*"))


def test_a_target_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    write(tmp_path / "model", "earlier")
    rename = os.rename

    def fail(old, new):
        if Path(old).name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(old), None, str(new))
        rename(old, new)

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(StorageError, match=rf"^cannot use {tmp_path}/model: "):
        write(tmp_path / "model", "new")
    assert read_all(tmp_path) == {"model/weights": "earlier"}
    assert not any(tmp_path.glob(".*"))


def test_what_is_left_of_other_targets_or_is_a_link_stays(tmp_path):
    for name in (".out.0123456789abcdef.partial", ".out.v2.0123456789abcdef.partial", ".link.partial"):
        folder = tmp_path / "elsewhere" if name.startswith(".link") else tmp_path / name
        folder.mkdir()
        (folder / "old").mkdir()
        (folder / "old" / "weights").write_text(name)
    (tmp_path / ".link.partial").symlink_to(tmp_path / "elsewhere")
    remove_partial_folders(tmp_path, "out")
    assert (tmp_path / "out" / "weights").read_text() == ".out.0123456789abcdef.partial"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".link.partial",
        ".out.v2.0123456789abcdef.partial",
        "elsewhere",
        "out",
    ]
    remove_partial_folders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".link.partial", "elsewhere", "out", "out.v2"]
    assert (tmp_path / "elsewhere" / "old" / "weights").exists()


def test_a_link_is_cut_and_its_folder_kept(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model-best").symlink_to(tmp_path / "elsewhere")
    remove_under_claim(tmp_path / "model-best")
    remove_under_claim(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
