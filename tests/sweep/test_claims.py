import os
import signal
import subprocess
import sys

import pytest

from stableft.errors import UserError
from stableft.sweep.claims import CLAIM_FILE, claim_run

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
