import os
import signal
import subprocess
import sys

import pytest
from support.disks import as_nobody, folder_of_root

from stableft.errors import UserError
from stableft.records.atomic_folder import RANDOM_BYTES
from stableft.records.held_claims import HELD_CLAIMS
from stableft.sweep import leases
from stableft.sweep.claims import CLAIM_FILE, claim_run
from stableft.sweep.leases import LeaseTimes

HOLD = """
import sys, time
from pathlib import Path
from stableft.sweep.claims import claim_run
with claim_run(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_claim_excludes_others_until_it_is_left(tmp_path):
    folder = tmp_path / "runs" / "one"
    with claim_run(folder) as first:
        assert first
        with claim_run(folder) as second:
            assert not second
        with claim_run(folder) as third:
            assert not third
    with claim_run(folder) as again:
        assert again
    assert list(folder.iterdir()) == []


def test_an_exception_gives_the_claim_back(tmp_path):
    try:
        with claim_run(tmp_path):
            raise KeyError
    except KeyError:
        pass
    with claim_run(tmp_path) as mine:
        assert mine


def test_a_link_in_place_of_a_folder_is_refused_before_anything_is_removed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".mine.tmp").write_text("kept")
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(UserError, match=r"run is a link, .*left alone"), claim_run(tmp_path / "run"):
        pytest.fail("claimed")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [".mine.tmp"]


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes a user without rights")
@pytest.mark.parametrize("what", ["no folder", "folder", "file left", "folder left", "claim left"])
def test_a_folder_that_this_user_may_not_write_is_refused_in_a_sentence(what, monkeypatch):
    """In a folder with the sticky bit anybody may make files, but not rename or remove those of others."""
    monkeypatch.setattr(leases, "TIMES", LeaseTimes(watch=0.1))
    with folder_of_root() as root:
        run = root / "runs" / "run"
        if what != "no folder":
            run.mkdir(parents=True)
            run.chmod(0o755 if what == "folder" else 0o1777)
        match what:
            case "file left":
                (run / ".record.json.1.abcd.tmp").write_text("left")
            case "folder left":
                (run / f".model-best.{'0' * 2 * RANDOM_BYTES}.partial").mkdir()
            case "claim left":
                (run / CLAIM_FILE).write_text("{}")
                os.utime(run / CLAIM_FILE, (0, 0))
        before = {*root.rglob("*"), *root.rglob(".*")}
        with (
            pytest.raises(UserError, match=rf"^{run}: this user may not read and write here \((Per|Op)[^)]*\); change"),
            as_nobody(),
            claim_run(run),
        ):
            pytest.fail("claimed")
        assert {*root.rglob("*"), *root.rglob(".*")} == before
        assert not HELD_CLAIMS


@pytest.mark.faults
def test_the_claim_of_a_killed_process_is_free(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        with claim_run(tmp_path) as mine:
            assert not mine
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with claim_run(tmp_path) as mine:
            assert mine


@pytest.mark.faults
def test_a_claim_removes_what_dead_writers_left_and_nothing_else(tmp_path):
    (tmp_path / ".record.json.77.abcd.tmp").write_text("half")
    (tmp_path / "record.json").write_text("whole")
    with claim_run(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [CLAIM_FILE, "record.json"]


def test_who_does_not_get_the_claim_removes_nothing(tmp_path):
    with claim_run(tmp_path):
        (tmp_path / ".record.json.77.abcd.tmp").write_text("being written")
        with claim_run(tmp_path):
            assert (tmp_path / ".record.json.77.abcd.tmp").exists()
