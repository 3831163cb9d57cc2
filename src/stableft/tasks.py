"""Data sets as rows: nine tasks of the two papers, what their columns and labels are called, how they are scored."""

from dataclasses import dataclass, field

from stableft.errors import UserError, nearest


@dataclass(frozen=True)
class HubSource:
    """Where `datasets` finds a task: repository, configuration, and the names of its splits and columns."""

    repository: str
    config: str
    dev: str = "validation"
    test: str | None = None  # a labelled test split of the hub (GLUE's have no labels)
    text: tuple[str, ...] | None = None  # None: the task's own column names


@dataclass(frozen=True)
class FolderLayout:
    """One way in which a task's original files are laid out below the folder given as `--data-dir`.

    `columns` names the file's columns from left to right for files without a header; with a header it is None and
    `text` and `label` are looked up in the header line.
    """

    train: str
    dev: str
    text: tuple[str, ...]
    label: str
    test: str | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TaskSpec:
    """Facts about one data set. `labels` in the order of our class ids; an empty tuple means regression."""

    name: str
    title: str
    text: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]  # the benchmark's own metrics; the first is the one the papers report
    hub: HubSource | None = None
    layouts: tuple[FolderLayout, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)  # other spellings of labels in the original files
    large: bool = False  # Z sec. 3: validation rows are held out of the training set, the dev set is the test set

    @property
    def metric(self) -> str:
        """The metric that tables report."""
        return self.metrics[0]

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def n_outputs(self) -> int:
        """Width of the classifier: the number of classes, or 1 for regression."""
        return len(self.labels) or 1


def _glue(name: str, title: str, text: tuple[str, ...], labels: tuple[str, ...], metrics: tuple[str, ...], **more) -> TaskSpec:
    config = name.replace("-", "")
    return TaskSpec(name, title, text, labels, metrics, hub=HubSource("nyu-mll/glue", config, **more.pop("hub", {})), **more)


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    spec.name: spec
    for spec in (
        _glue("rte", "RTE", PAIR, ENTAILMENT, ("accuracy",)),
        _glue("mrpc", "MRPC", PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy", "accuracy_f1")),
        _glue("cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), ("mcc",)),
        _glue("stsb", "STS-B", PAIR, (), ("spearman", "pearson")),
        _glue("sst2", "SST-2", ("sentence",), ("negative", "positive"), ("accuracy",), large=True),
        _glue("qnli", "QNLI", ("question", "sentence"), ENTAILMENT, ("accuracy",), large=True),
        _glue(
            "qqp",
            "QQP",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            ("accuracy", "f1", "accuracy_f1"),
            large=True,
        ),
        _glue(
            "mnli",
            "MNLI",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            hub={"dev": "validation_matched"},
            large=True,
        ),
        TaskSpec(
            "scitail",
            "SciTail",
            ("premise", "hypothesis"),
            ("entails", "neutral"),
            ("accuracy",),
            hub=HubSource("allenai/scitail", "tsv_format", test="test"),
            large=True,
        ),
    )
}


def find_task(name: str) -> TaskSpec:
    """Returns the row of that name.

    Raises:
        UserError: there is no such task.
    """
    if name not in TASKS:
        raise UserError(f"task {name!r} is not known{nearest(name, TASKS)}; `stableft list tasks` names them all")
    return TASKS[name]
