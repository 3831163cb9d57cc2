"""The test of claims at the start of a sweep: what it accepts, what it refuses and what it costs."""

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest
from support.paths import ROOT

from stableft.errors import StorageError, UserError
from stableft.sweep import claim_race, leases
from stableft.sweep.claim_race import MARKS_FOLDER, check_claims


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch):
    monkeypatch.setattr(claim_race, "_PASSED", set())


def cpu_seconds() -> float:
    """Returns the processor time of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def test_a_good_folder_is_tested_once_for_each_host_and_is_cheap(tmp_path, monkeypatch):
    before = cpu_seconds()
    check_claims(tmp_path)
    assert cpu_seconds() - before < 0.5
    (mark,) = tmp_path.rglob("*/*")
    assert mark.parent.name == MARKS_FOLDER
    races = []
    monkeypatch.setattr(claim_race, "race_for_leases", lambda folder: races.append(folder) or (0, 0))
    check_claims(tmp_path)
    assert races == []
    monkeypatch.setattr(claim_race, "this_host", lambda: ("elsewhere", "", ""))
    monkeypatch.setattr(claim_race, "_PASSED", set())
    check_claims(tmp_path)
    assert len(races) == 1
    monkeypatch.setattr(claim_race, "_PASSED", set())
    shutil.copytree(tmp_path, tmp_path / "copy")  # perhaps onto another file system
    check_claims(tmp_path / "copy")
    assert len(races) == 2


@pytest.mark.faults
def test_a_folder_where_both_get_a_lease_is_refused_in_a_sentence(tmp_path, monkeypatch):
    """The other process makes new files properly, but here a file that exists does not matter, as without O_EXCL."""
    monkeypatch.setattr("os.link", os.replace)
    monkeypatch.setattr(leases, "read_lease", lambda path: None)
    monkeypatch.setattr(leases.Lease, "is_held", lambda self: True)
    with pytest.raises(UserError, match=rf"^--results {tmp_path}: .*in 200 tries both of two .* \d+ times; give a"):
        check_claims(tmp_path)
    assert list((tmp_path / MARKS_FOLDER).iterdir()) == []


@pytest.mark.faults
@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO])
def test_a_folder_where_nothing_can_be_claimed_is_refused_in_a_sentence(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", fail)
    monkeypatch.setattr(leases, "_copy", fail)
    with pytest.raises(StorageError, match=rf"^{tmp_path}/.*: no run can be claimed on this file system, because"):
        check_claims(tmp_path)


@pytest.mark.faults
def test_a_folder_where_no_lease_can_be_renewed_is_refused_in_a_sentence(tmp_path, monkeypatch):
    def fail(file):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(leases, "renew", fail)
    with pytest.raises(UserError, match=rf"^--results {tmp_path}: .*modification times cannot be set \(Operation not"):
        check_claims(tmp_path)


@pytest.mark.faults
def test_another_process_that_ends_early_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(claim_race, "OTHER_PROCESS", "raise SystemExit('no claims\\non that day')")
    with pytest.raises(UserError, match=r"ended early: on that day$"):
        check_claims(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("kills", [1, 2, 3])
def test_a_killed_process_says_nothing_about_the_folder(tmp_path, monkeypatch, kills):
    """It is started again, in the middle of the races as well as before the first, and a third kill is told."""
    kill = (
        f"import os, pathlib\ncount = pathlib.Path({str(tmp_path / 'starts')!r})\n"
        "count.open('a').write('.')\nstarts = count.stat().st_size\n"
        f"if starts <= {kills} and starts % 2: os.kill(os.getpid(), 9)\n"
    )
    within = f"    if starts <= {kills} and line.endswith('/77\\n'): os.kill(os.getpid(), 9)\n"
    loop = claim_race.OTHER_PROCESS.index("    print(")
    monkeypatch.setattr(
        claim_race, "OTHER_PROCESS", kill + claim_race.OTHER_PROCESS[:loop] + within + claim_race.OTHER_PROCESS[loop:]
    )
    if kills < 3:
        check_claims(tmp_path)
    else:
        with pytest.raises(UserError, match=r"ended early: its other process was killed by signal 9$"):
            check_claims(tmp_path)
    assert (tmp_path / "starts").read_text() == "." * min(kills + 1, 3)
    assert len(list((tmp_path / MARKS_FOLDER).iterdir())) == (kills < 3)


def test_the_other_process_imports_the_standard_library_alone():
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); before = set(sys.modules); "
        "import stableft.sweep.leases; "
        "print({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "{'stableft'}\n"


@pytest.mark.faults
def test_a_sweep_on_such_a_folder_starts_no_run_and_leaves_nothing(workplace, tiny_model_folder, stableft, monkeypatch):
    def fail(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", fail)
    monkeypatch.setattr(leases, "_copy", fail)
    set_ = "{data: {split: dev, train_rows: 16, max_length: 32}, schedule.length: {steps: 1}, precision: fp32}"
    (workplace / "s.yaml").write_text(
        f"task: toy-rte\nmodel: {tiny_model_folder}\nrecipe: mosbach\nseeds: 1\nset: {set_}\n"
    )
    code, _, err = stableft("sweep", "s.yaml", "--devices", "cpu")
    assert (code, err.count("\n")) == (2, 1)
    assert "no run can be claimed on this file system" in err
    assert not (workplace / "results").exists()
