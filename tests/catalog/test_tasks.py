import pytest

from stableft.catalog.tasks import METRICS, REGRESSION_METRICS, TASKS, find_task
from stableft.errors import UserError

PAPERS = ["rte", "mrpc", "cola", "stsb", "sst2", "qnli", "qqp", "mnli", "scitail"]
TOY = ["toy-rte", "toy-mrpc", "toy-cola"]


def test_the_nine_tasks_of_the_papers_and_three_of_the_toy_language_are_there():
    assert list(TASKS) == PAPERS + TOY


@pytest.mark.parametrize("name", TOY)
def test_a_toy_task_is_scored_as_its_counterpart(name):
    toy, counterpart = find_task(name), find_task(name.removeprefix("toy-"))
    assert toy.generated
    assert (toy.metrics, len(toy.text), toy.n_outputs) == (
        counterpart.metrics,
        len(counterpart.text),
        counterpart.n_outputs,
    )


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_row_is_consistent(task):
    assert task.name == find_task(task.name).name
    assert task.metrics
    assert set(task.metrics) <= set(METRICS)
    assert task.is_regression == (task.metric in REGRESSION_METRICS)
    assert task.n_outputs == max(1, len(task.labels))
    assert set(task.aliases.values()) <= set(task.labels)
    assert not set(task.aliases) & set(task.labels)
    assert task.train_counts is None or sum(task.train_counts) == task.train_rows


@pytest.mark.parametrize("name", PAPERS)
def test_a_task_of_the_papers_has_its_sources(name):
    task = find_task(name)
    assert not task.generated
    assert task.hub is not None
    assert len(task.hub.text or task.text) == len(task.text)
    assert task.layouts
    for layout in task.layouts:
        assert len(layout.text) == len(task.text)
        assert layout.columns is None or {*layout.text, layout.label} <= set(layout.columns)
        assert (layout.dev_ids is None) == (layout.train != layout.dev)


def test_regression_has_one_output():
    assert find_task("stsb").n_outputs == 1
    assert find_task("mnli").n_outputs == 3


def test_an_unknown_task_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"task 'mrcp' is not known; did you mean 'mrpc'"):
        find_task("mrcp")
