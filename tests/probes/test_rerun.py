"""A run repeated from its record: what is compared, and what is told of it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support.training_runs import train_run

from stableft.cli.app import run_command
from stableft.errors import UserError
from stableft.probes.determinism import Verification, describe_verification, shorten
from stableft.probes.rerun import RERUNS_FOLDER, choose_folder, compare_runs, describe_comparison, find_record
from stableft.records.run_record import (
    HISTORY_FILE,
    PREDICTIONS_FILE,
    RECORD_FILE,
    RunRecord,
    read_record,
    run_folder,
)

pytestmark = pytest.mark.usefixtures("warm_workers")


@pytest.fixture(scope="module")
def seeds(toy_run, toy_sources, tmp_path_factory):
    """Returns a results folder with three seeds of one setting, and their records."""
    results = tmp_path_factory.mktemp("results")
    runs = [toy_run(seeds={"init": seed, "data": seed}) for seed in (1, 2, 3)]
    return results, [train_run(run, results, toy_sources) for run in runs]


def clean(record: RunRecord, **changes) -> RunRecord:
    """Returns the record as one of a commit without changes, because the tests run in the midst of them."""
    assert record.environment
    environment = record.environment.model_copy(update={"git_dirty": False, **changes})
    return record.model_copy(update={"environment": environment})


def test_the_same_run_again_is_equal_in_everything(seeds, toy_run, toy_sources, tmp_path):
    results, (before, *_) = seeds
    now = train_run(toy_run(), tmp_path, toy_sources)
    found = compare_runs(clean(before), clean(now), results, tmp_path)
    assert found.equal == ("scores and evaluations", HISTORY_FILE, PREDICTIONS_FILE)
    assert (found.unequal, found.conditions, found.must_be_equal) == ((), (), True)
    assert list(describe_comparison(found, seeds[1])) == [
        "versions, commit, device, threads and data are as in its record",
        f"equal bit for bit: scores and evaluations, {HISTORY_FILE}, {PREDICTIONS_FILE}",
    ]
    nothing_left = compare_runs(clean(before), clean(now), tmp_path / "gone", tmp_path)
    assert nothing_left == found  # the record has the sums of the files


def test_another_way_to_round_is_compared_with_the_spread_over_seeds(seeds, toy_run, toy_sources, tmp_path):
    results, records = seeds
    now = train_run(toy_run(), tmp_path, toy_sources, micro_batch=1)
    found = compare_runs(clean(records[0]), clean(now), results, tmp_path)
    assert found.conditions == ("micro batch 4, now 1",)
    assert re.fullmatch(rf"{HISTORY_FILE} from step \d+ on \(loss 0\.\d+ and 0\.\d+\)", found.unequal[1])
    assert not found.must_be_equal
    *_, scores, spread = describe_comparison(found, records)
    before, after = records[0].reported_score, now.reported_score
    assert scores == (
        f"accuracy, test, last checkpoint: {100 * before:.1f} then, {100 * after:.1f} now, "
        f"a difference of {round(100 * (after - before), 1) + 0.0:+.1f} points"
    )
    sd = np.std([record.reported_score for record in records], ddof=1)
    assert spread.startswith(f"SD over the 3 seeds of its arm: {100 * sd:.1f} points; the difference is ")
    assert "not known: 2 runs" in list(describe_comparison(found, records[:2]))[-1]


def test_what_is_not_as_in_the_record_is_told(seeds):
    results, (record, *_) = seeds
    versions = {**record.environment.versions, "torch": "2.0"}
    older = clean(record, versions=versions, threads=7, processor="8088", micro_batch_halved=1, git_commit="abc")
    data = record.data.model_copy(update={"fingerprint": "0" * 64})
    found = compare_runs(older.model_copy(update={"data": data}), clean(record), results, results)
    torch, processor, threads, commit, halved, rows = found.conditions
    assert re.fullmatch(r"torch 2\.0, now 2\..*", torch)
    assert processor.startswith("processor 8088, now ")
    assert threads == "threads 7, now 1"
    assert commit.startswith("commit abc, now ")
    assert halved.startswith("memory ran out then")
    assert rows == "the data rows are others"
    assert found.unequal == ()


def test_a_version_that_only_one_has_is_no_difference_and_no_equality(seeds):
    results, (record, *_) = seeds
    versions = record.environment.versions
    cuda = {"cuda": "13.0", "driver": "580.1"}
    older = clean(record, versions=versions | cuda)
    now = clean(record, versions=versions | {**cuda, "driver": "590.2", "cublas": "13.1.0"})
    found = compare_runs(older, now, results, results)
    assert found.conditions == ("driver 580.1, now 590.2",)
    assert found.uncompared == ("cublas",)
    assert list(describe_comparison(found, ()))[1] == "versions that only one of both has: cublas"
    unknown = compare_runs(older, clean(record, versions=versions | cuda | {"cublas": "13.1.0"}), results, results)
    assert unknown.conditions == ()
    assert not unknown.must_be_equal


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (True, True, "commit abc with uncommitted changes, which may be others now"),
        (True, False, "commit abc with uncommitted changes, now abc"),
        (False, True, "commit abc, now abc with uncommitted changes"),
    ],
)
def test_uncommitted_changes_are_told(seeds, then, now, words):
    results, (record, *_) = seeds
    before, after = (clean(record, git_commit="abc", git_dirty=dirty) for dirty in (then, now))
    found = compare_runs(before, after, results, results)
    assert found.conditions == (words,)
    assert not found.must_be_equal


def test_a_run_of_several_commits_need_not_be_equal(seeds):
    results, (record, *_) = seeds
    before = clean(record).model_copy(update={"commits": ("old", "new")})
    found = compare_runs(before, clean(record), results, results)
    assert found.conditions == ("it was trained by 2 commits then, one after another",)
    assert not found.must_be_equal


def test_a_cpu_that_gives_other_bits_under_the_same_conditions_is_at_fault(seeds, tmp_path):
    results, (record, other, _) = seeds
    assert compare_runs(clean(record), clean(record), results, results).must_be_equal
    changed = clean(record.model_copy(update={"last": other.last, "files": {**record.files, HISTORY_FILE: "0" * 64}}))
    found = compare_runs(changed, clean(record), tmp_path, results)
    assert found.unequal == ("scores and evaluations", HISTORY_FILE)
    assert found.must_be_equal


def test_a_run_is_found_by_the_beginning_of_its_id(seeds):
    _, records = seeds
    record = records[0]
    assert find_record(records, record.run_id[:9], "here") is record
    with pytest.raises(UserError, match=r"run 'zzz': here: there is no such record"):
        find_record(records, "zzz", "here")
    twin = record.model_copy(update={"run_id": f"{record.run_id[:9]}0000000"})
    with pytest.raises(UserError, match=r"here: 2 runs begin so"):
        find_record([record, twin], record.run_id[:9], "here")
    crashed = record.model_copy(update={"status": "crashed"})
    with pytest.raises(UserError, match=rf"run {record.run_id}: it is crashed in here, and only a finished run"):
        find_record([crashed], record.run_id, "here")


def test_the_original_is_never_written_to(seeds, tmp_path):
    results, (record, *_) = seeds
    first = choose_folder(results, None, record.run_id)
    assert first == results / RERUNS_FOLDER / f"{record.run_id}-1"
    run_folder(first, record.run_id).mkdir(parents=True)
    assert choose_folder(results, None, record.run_id) == first  # without a record, it goes on there
    (run_folder(first, record.run_id) / RECORD_FILE).write_text("{}")
    assert choose_folder(results, None, record.run_id).name == f"{record.run_id}-2"
    assert choose_folder(results, tmp_path / "new", record.run_id) == tmp_path / "new"
    for out in (results, first):
        with pytest.raises(UserError, match=r"--out .* holds a record of run .* name another"):
            choose_folder(results, out, record.run_id)


def test_seeds_that_act_and_equal_runs_are_told_from_others(seeds):
    results, records = seeds
    same, b, c = (compare_runs(records[0], record, results, results) for record in records)
    good = Verification(same, b, c)
    assert good.is_deterministic
    assert good.seeds_act
    assert list(describe_verification(good))[-1] == "This machine is deterministic; both seeds act."
    assert c.unequal[2] == PREDICTIONS_FILE
    drifting = Verification(replace(same, unequal=c.unequal[2:]), b, same)
    assert not drifting.is_deterministic
    assert not drifting.seeds_act
    _, same, init, data, verdict = describe_verification(drifting)
    assert same == f"the same run, twice: not equal: {PREDICTIONS_FILE}"
    loss = r"\(loss 0\.\d+ and 0\.\d+\)"
    assert re.search(
        rf": not equal: scores and evaluations, {HISTORY_FILE} from step 1 on {loss}, {PREDICTIONS_FILE}$", init
    )
    assert data.endswith("equal bit for bit")
    assert verdict == "This machine is not deterministic; a seed does not act."


def test_a_short_run_keeps_all_but_its_length(make_config):
    config = make_config(**{"schedule.length": {"steps": 80}, "schedule.warmup": None, "schedule.warmup_steps": 40})
    short = shorten(config, 5)
    assert type(config).model_validate(short.model_dump()) == short
    assert (short.schedule.length.steps, short.schedule.warmup) == (5, 0.1)
    same = {"data", "model", "optimizer", "precision", "seeds"}
    assert short.model_dump(include=same) == config.model_dump(include=same)


@pytest.fixture
def stableft(workplace, monkeypatch, capfd):
    """Returns a function that runs a command and returns its exit code and all that it prints."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["stableft", *words])
        code = run_command()
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rerun_by_the_command_line(workplace, stableft):
    """Real workers: the smoke sweep's model and data are found by --config alone."""
    assert stableft("sweep", "smoke", "--devices", "cpu", "--seeds", "1", "--arms", "devlin")[0] == 0
    (folder,) = (workplace / "results/runs").iterdir()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, text = stableft("rerun", folder.name[:6])
    assert code == 2
    assert re.search(r"where is its model tiny-bert\? Give --pretrained FOLDER", text)
    assert not (workplace / "results" / RERUNS_FOLDER).exists()
    code, text = stableft("rerun", folder.name[:6], "--config", "smoke")
    assert code == 0
    assert f"equal bit for bit: scores and evaluations, {HISTORY_FILE}, {PREDICTIONS_FILE}\n" in text
    assert {path: path.read_bytes() for path in before} == before
    assert read_record(workplace / "results" / RERUNS_FOLDER / f"{folder.name}-1", folder.name)


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_verify_by_the_command_line(stableft):
    code, text = stableft("verify", "smoke", "--device", "cpu", "--steps", "2", "--arms", "mosbach")
    assert code == 0
    assert "\nthe same run, twice: equal bit for bit\n" in text
    assert text.endswith("This machine is deterministic; both seeds act.\n")


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_a_run_that_starts_from_another_finds_its_weights(workplace, stableft):
    options = ("--devices", "cpu", "--seeds", "1", "--arms", "devlin")
    assert stableft("sweep", "smoke", *options, "--save", "last")[0] == 0
    (start,) = (workplace / "results/runs").iterdir()
    later = f"start_from={{run: {start.name}, checkpoint: last}}"
    assert stableft("sweep", "smoke", *options, "--set", later)[0] == 0
    (run,) = {*(workplace / "results/runs").iterdir()} - {start}
    code, text = stableft("rerun", run.name, "--config", "smoke")
    assert code == 0
    assert "equal bit for bit: scores and evaluations, " in text
    assert "other weights" not in text
