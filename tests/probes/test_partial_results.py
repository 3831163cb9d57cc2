"""The file of what an unfinished probe has measured: saved, read, damaged, of an earlier version."""

import json
import math

import pytest

from stableft.probes import partial_results
from stableft.probes.partial_results import (
    PARTIAL_RESULTS_FILE,
    PartialResults,
    find_changed_fact,
    read_partial_results,
    saving_partial_results,
)
from stableft.probes.perplexity_command import PartialLosses

FACTS = {"device": "cpu", "threads": 1}


class Numbers(PartialResults):
    values: tuple[float, ...]


def test_values_are_saved_when_it_is_time_and_when_an_exception_ends_the_work(tmp_path, monkeypatch):
    now, values = [0.0], []
    monkeypatch.setattr(partial_results.time, "monotonic", lambda: now[0])

    def work() -> None:
        with saving_partial_results(tmp_path, lambda: Numbers(facts=FACTS, values=tuple(values))) as save_when_due:
            for now[0] in (1.0, 2.9, 3.1, 4.0):
                values.append(now[0])
                save_when_due()
                found = read_partial_results(tmp_path, Numbers)
                assert (found and found.values) == (None if now[0] < 3 else (1.0, 2.9, 3.1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert read_partial_results(tmp_path, Numbers) == Numbers(facts=FACTS, values=(1.0, 2.9, 3.1, 4.0))


def test_facts_that_changed_are_named():
    partial = Numbers(facts=FACTS, values=())
    assert find_changed_fact(partial, FACTS) is None
    assert find_changed_fact(partial, FACTS | {"threads": 2}) == "threads"
    assert find_changed_fact(partial, FACTS | {"torch": "2.11"}) == "torch"


@pytest.mark.faults
@pytest.mark.parametrize("text", ["", "3", "[]", '{"facts": {}, "val', '{"facts":{},"values":[0.5],"checksum":"0"}'])
def test_damaged_files_are_set_aside(tmp_path, capsys, text):
    (tmp_path / PARTIAL_RESULTS_FILE).write_text(text)
    assert read_partial_results(tmp_path, Numbers) is None
    assert "cannot be read: set aside as" in capsys.readouterr().out
    assert (tmp_path / f"{PARTIAL_RESULTS_FILE}.damaged-1").read_text() == text
    assert read_partial_results(tmp_path, Numbers) is None
    assert capsys.readouterr().out == ""


def test_losses_of_earlier_versions_have_no_checksum(tmp_path):
    content = {"made": FACTS, "losses": {"pretrained": 4.5, "0": float("nan")}}
    (tmp_path / PARTIAL_RESULTS_FILE).write_text(json.dumps(content))
    found = read_partial_results(tmp_path, PartialLosses)
    assert found is not None
    assert (found.facts, found.losses["pretrained"]) == (FACTS, 4.5)
    with pytest.raises(KeyboardInterrupt), saving_partial_results(tmp_path, lambda: found):
        raise KeyboardInterrupt
    assert json.loads((tmp_path / PARTIAL_RESULTS_FILE).read_text()).keys() == {"made", "losses", "halved", "checksum"}
    again = read_partial_results(tmp_path, PartialLosses)
    assert again is not None
    assert math.isnan(again.losses["0"])
