"""The demo shows the papers' finding: in the committed records, and in a sweep made afresh."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats as scipy_stats
from support.paths import ROOT

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.pretrain.config_file import load_pretraining
from stableft.pretrain.record import PretrainRecord
from stableft.records.run_record import RunRecord, parse_record_as, read_records_file
from stableft.stats import boschloo, levene, sd_ratio

DEMO, MODEL = ROOT / "configs/demo.yaml", ROOT / "configs/demo/toy-bert"
RECORD = ROOT / "configs/demo/toy-bert.record.json"
ARMS = ("devlin", "devlin-corrected", "zhang-reinit", "mosbach")
REPORTED = "26-50"
CHOSEN_ON = set(range(51, 131))  # as configs/demo.yaml says

Records = dict[str, list[RunRecord]]  # arm -> its records by seed


@pytest.fixture(scope="module")
def committed() -> Records:
    return by_arm(list(read_records_file(ROOT / "results/records/demo.jsonl")))


def by_arm(records: list[RunRecord]) -> Records:
    records = sorted(records, key=lambda record: record.config.seeds.init)
    return {arm: [record for record in records if record.arm == arm] for arm in ARMS}


def scores(records: list[RunRecord]) -> list[float]:
    return [score for record in records if (score := record.reported_score) is not None]


def failures(records: list[RunRecord]) -> tuple[int, int]:
    return sum(bool(record.failed) for record in records), len(records)


def fewer_failures(arm: list[RunRecord], first: list[RunRecord]) -> float:
    """The p-value of unequal shares of failed runs, of which `arm` has the smaller."""
    p = boschloo(*failures(arm), *failures(first)).p
    assert p is not None
    assert failures(arm)[0] < failures(first)[0]
    return p


def unequal_spread(a: list[RunRecord], b: list[RunRecord]) -> float:
    p = levene(scores(a), scores(b), "median").p
    assert p is not None
    return p


def check_losses(records: list[RunRecord]) -> None:
    """The failed runs are at the loss of a model that has learnt nothing, all of them."""
    for record in records:
        if record.failed:
            assert record.data
            assert record.data.label_entropy
            assert record.evals[-1].train_loss == pytest.approx(record.data.label_entropy, rel=0.1)


def test_the_records_are_those_of_the_demo(committed):
    planned = {run.run_id: run.arm for run in load_sweep(DEMO, LocalPaths(), seeds=REPORTED).runs}
    assert {record.run_id: record.arm for records in committed.values() for record in records} == planned
    assert all(len(records) == 25 for records in committed.values())
    assert all(record.status == "finished" and record.source is None for r in committed.values() for record in r)
    environments = {record.environment.git_dirty for r in committed.values() for record in r if record.environment}
    assert environments == {False}  # of code that a commit holds


def test_what_the_demo_runs_is_a_part_of_what_is_reported():
    runs = load_sweep(DEMO, LocalPaths()).runs
    counts = {arm: sum(run.arm == arm for run in runs) for arm in ARMS}
    assert counts == {"devlin": 20, "devlin-corrected": 10, "zhang-reinit": 5, "mosbach": 8}
    assert {run.run_id for run in runs} <= {run.run_id for run in load_sweep(DEMO, LocalPaths(), seeds=REPORTED).runs}
    assert CHOSEN_ON.isdisjoint(run.config.seeds.init for run in load_sweep(DEMO, LocalPaths(), seeds=REPORTED).runs)


def check_finding(records: Records) -> None:
    """The numbers that the setting was chosen for: half of the runs fail, and tests see it at these and fewer seeds."""
    devlin, mosbach = records["devlin"], records["mosbach"]
    failed, n = failures(devlin)
    assert 0.4 <= failed / n <= 0.6
    assert unequal_spread(devlin, mosbach) < 0.01
    # The demo's own seeds:
    assert unequal_spread(devlin[:20], mosbach[:8]) < 0.05
    assert fewer_failures(mosbach[:8], devlin[:20]) < 0.05
    assert fewer_failures(records["devlin-corrected"][:10], devlin[:20]) < 0.05


def check_finding_whatever_the_processor(records: Records) -> None:
    """What no other rounding may change: who never fails, whose spread is smaller, what a failed run has learnt."""
    devlin, mosbach = records["devlin"], records["mosbach"]
    check_losses(devlin)
    assert failures(mosbach) == (0, 25)
    assert fewer_failures(mosbach, devlin) < 0.001
    assert fewer_failures(records["devlin-corrected"], devlin) < 0.05
    assert unequal_spread(devlin, mosbach) < 0.05
    ratio = sd_ratio(scores(devlin), scores(mosbach), np.random.default_rng(0))
    assert ratio.value is not None
    assert ratio.interval.low is not None
    assert ratio.value > ratio.interval.low > 1


def test_the_committed_records_show_the_finding(committed):
    check_finding(committed)
    check_finding_whatever_the_processor(committed)


def test_re_init_with_bias_correction_fails_less_often_too(committed):
    assert fewer_failures(committed["zhang-reinit"], committed["devlin"]) < 0.05


def test_training_longer_raises_what_bias_correction_alone_reaches(committed):
    longer, alone = scores(committed["mosbach"]), scores(committed["devlin-corrected"])
    assert scipy_stats.mannwhitneyu(longer, alone, alternative="greater").pvalue < 0.05


def test_the_toy_tasks_are_about_transfer():
    records = list(read_records_file(ROOT / "results/records/toy.jsonl"))
    assert {r.run_id for r in records} == {run.run_id for run in load_sweep("toy", LocalPaths()).runs}
    for task in ("toy-rte", "toy-mrpc", "toy-cola"):
        pretrained, scratch = (
            [record for record in records if (record.arm, record.config.data.task) == (arm, task)]
            for arm in ("pre-trained", "from-scratch")
        )
        assert failures(pretrained) == (0, 5)
        assert min(scores(pretrained)) > max(scores(scratch)) + 0.15


def test_the_checkpoint_comes_with_its_config_and_is_small():
    record = parse_record_as(PretrainRecord, RECORD.read_text())
    assert not record.failed
    assert record.run_id == load_pretraining(ROOT / "configs/pretrain/toy.yaml", LocalPaths()).config.run_id
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 5e6


def run_afresh(stableft: Callable, out: Path, sweep: Path, *which: str) -> Records:
    """Trains these runs of the demo and returns their records."""
    which = (*which, "--results", str(out))
    code, printed, err = stableft("sweep", sweep, *which, "--devices", "cpu", "--jobs-per-device", 2)
    assert code == 0, err
    assert "; against devlin" in printed
    assert stableft("export", sweep, *which, "--out", out / "demo.jsonl")[0] == 0
    return by_arm(list(read_records_file(out / "demo.jsonl")))


def round_alike(a: list[RunRecord], b: list[RunRecord]) -> bool:
    """Whether the processors of these records round alike: no loss differs. Scores alone can be equal by chance."""
    return [record.evals for record in a] == [record.evals for record in b]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("warm_workers")
def test_four_fresh_runs_show_it_too(committed: Records, stableft: Callable, workplace: Path, tmp_path):
    """One of 20 epochs, which takes as long as seven of 3; the nightly test has 25."""
    demo, seeds = yaml.safe_load(DEMO.read_text()), {"devlin": "26-28", "mosbach": "26"}
    arms = {arm.get("name", arm["recipe"]): arm for arm in demo["arms"]}
    demo["arms"] = [arms[name] | {"seeds": some} for name, some in seeds.items()]
    (workplace / "four.yaml").write_text(yaml.safe_dump(demo))
    fresh = run_afresh(stableft, tmp_path, workplace / "four.yaml")
    check_losses(fresh["devlin"])
    assert failures(fresh["mosbach"]) == (0, 1)
    assert failures(fresh["devlin"])[1] == 3
    assert min(scores(fresh["mosbach"])) > np.mean(scores(fresh["devlin"]))
    if round_alike(fresh["mosbach"], committed["mosbach"][:1]):
        assert round_alike(fresh["devlin"], committed["devlin"][:3])


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_fresh_sweep_shows_it_too(committed: Records, stableft: Callable, workplace: Path, tmp_path):
    fresh = run_afresh(stableft, tmp_path, DEMO, "--seeds", REPORTED, "--arms", "devlin,devlin-corrected,mosbach")
    check_finding_whatever_the_processor(fresh)
    if round_alike(fresh["mosbach"], committed["mosbach"]):
        check_finding(fresh)
        return
    # Elsewhere which seeds fail is chaotic: the number is one that half of 25 gives with chance .998.
    failed, n = failures(fresh["devlin"])
    low, high = scipy_stats.binom.interval(0.998, n, 0.5)
    assert low <= failed <= high
