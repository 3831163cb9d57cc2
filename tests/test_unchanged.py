"""What a change of structure must not change: run ids, reports of the committed records, losses of short runs."""

import json

import pytest
from support import paths, unchanged


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(paths.ROOT)


@pytest.mark.parametrize(
    "found",
    [
        unchanged.planned_runs,
        unchanged.papers,
        pytest.param(unchanged.reports, marks=pytest.mark.slow),  # test_committed_reports has most of it
        pytest.param(unchanged.artefacts, marks=pytest.mark.slow),
    ],
)
def test_digests_are_the_expected_ones(found, at_root):
    expected = json.loads(unchanged.DIGESTS.read_text())
    made = found()
    assert len(made) > 1
    for name, value in made.items():
        assert expected[name] == value, f"{name} changed; see tests/support/unchanged.py"


@pytest.mark.parametrize("arm", unchanged.LOSSES)
def test_losses_are_the_expected_ones(arm, at_root):
    run_id, *lines = unchanged.LOSSES[arm].read_text().splitlines()
    found_id, *found = unchanged.losses(arm)
    assert (found_id, len(found)) == (run_id, len(lines))
    for line, expected in zip(map(json.loads, found), map(json.loads, lines), strict=True):
        assert line == pytest.approx(expected, rel=1e-5)  # to the last digit only where the processor rounds alike
