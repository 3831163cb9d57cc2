"""Tasks, one row each: nine data sets of the two papers and three in the toy language."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from stableft.errors import UserError, did_you_mean


@dataclass(frozen=True)
class HubSource:
    """A task on the Hugging Face hub: repository, configuration, and the names of its dev split and columns."""

    repository: str
    config: str
    dev: str = "validation"
    text: tuple[str, ...] | None = None  # None: the task's own column names
    label: str = "label"


@dataclass(frozen=True)
class FolderLayout:
    """One possible layout of a task's original files in the folder given as `--data-dir`.

    `columns` names the columns of a file without a header, from left to right. None: the file has a header, in which
    `text` and `label` are looked up. Fields are separated by tabs and never quoted.
    """

    train: str
    dev: str
    text: tuple[str, ...]
    label: str
    columns: tuple[str, ...] | None = None
    dev_ids: str | None = None  # file of id pairs that select the dev set, if `train` and `dev` are one file
    id_columns: tuple[str, str] | None = None
    skips_short_rows: bool = False  # skip rows with too few fields, as the original code does


@dataclass(frozen=True)
class TaskSpec:
    """Facts about a data set. `labels` are in the order of our class ids; an empty tuple means regression."""

    name: str
    title: str
    text: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]  # the benchmark's metrics; the papers report the first
    hub: HubSource | None = None
    layouts: tuple[FolderLayout, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)  # other spellings of labels in the original files
    generated: bool = False  # by the toy language, without any files
    large: bool = False  # Z sec. 3: validation rows are held out from the training set, and the dev set is the test set
    dev_counts: tuple[int, ...] | None = None  # dev rows per label, for the chance level of imported results
    dev_rows: tuple[int, int] | None = None  # rows of the dev set and of Z's test half, where they have no classes
    train_rows: int | None = None  # size of the training set, for figures that have no access to the data
    train_counts: tuple[int, ...] | None = None  # its rows per label, for the loss of imported runs that learn nothing

    @property
    def metric(self) -> str:
        """The metric shown in tables."""
        return self.metrics[0]

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the classifier: the number of classes, or 1 for regression."""
        return len(self.labels) or 1

    def split_counts(self, split: str) -> tuple[int, ...] | None:
        """Return the rows per label: of the dev set ("val"), or of the rows that Z test on. None: not known.

        Z test on the dev set of large tasks, otherwise on the half of each label that is left by validation.
        """
        if self.dev_counts is None or self.large or split == "val":
            return self.dev_counts
        return tuple(count - count // 2 for count in self.dev_counts)

    def validation_half_counts(self) -> tuple[int, ...] | None:
        """Return the rows per label that Z validate on where they test on the other half of the dev set."""
        return None if self.dev_counts is None or self.large else tuple(count // 2 for count in self.dev_counts)

    def split_rows(self, split: str) -> int | None:
        """Return the number of these rows, which is known of regression too."""
        if self.dev_rows:
            return self.dev_rows[split == "test"]
        counts = self.split_counts(split)
        return sum(counts) if counts else None


def _glue_task(name: str, title: str, text: tuple[str, ...], labels: tuple[str, ...], metrics, **more) -> TaskSpec:
    hub = HubSource("nyu-mll/glue", name, **more.pop("hub", {}))
    return TaskSpec(name, title, text, labels, metrics, hub=hub, **more)


def _tsv_layout(folder: str, text: tuple[str, ...], label: str = "label", dev: str = "dev.tsv", **more) -> FolderLayout:
    return FolderLayout(f"{folder}/train.tsv", f"{folder}/{dev}", text, label, **more)


def _mrpc_layouts() -> tuple[FolderLayout, ...]:
    strings = ("#1 String", "#2 String")
    whole, ids = "MRPC/msr_paraphrase_train.txt", ("#1 ID", "#2 ID")
    return (
        _tsv_layout("MRPC", strings, "Quality"),
        _tsv_layout("MRPC", SENTENCE_PAIR),
        FolderLayout(whole, whole, strings, "Quality", dev_ids="MRPC/dev_ids.tsv", id_columns=ids),
    )


def _scitail_layout(folder: str) -> FolderLayout:
    columns = ("premise", "hypothesis", "label")
    files = (f"{folder}/scitail_1.0_train.tsv", f"{folder}/scitail_1.0_dev.tsv")
    return FolderLayout(*files, columns[:2], columns[2], columns=columns)


def _digit_aliases(labels: tuple[str, ...]) -> dict[str, str]:
    return {str(i): label for i, label in enumerate(labels)}


SENTENCE_PAIR = ("sentence1", "sentence2")
QUESTION_PAIR = ("question1", "question2")
ENTAILMENT_LABELS = ("entailment", "not_entailment")
PARAPHRASE_LABELS = ("not_equivalent", "equivalent")
ACCEPTABILITY_LABELS = ("unacceptable", "acceptable")
SENTIMENT_LABELS = ("negative", "positive")
DUPLICATE_LABELS = ("not_duplicate", "duplicate")
TASKS = {
    spec.name: spec
    for spec in (
        _glue_task(
            "rte",
            "RTE",
            SENTENCE_PAIR,
            ENTAILMENT_LABELS,
            ("accuracy",),
            layouts=(_tsv_layout("RTE", SENTENCE_PAIR),),
            dev_counts=(146, 131),
            train_rows=2490,
            train_counts=(1249, 1241),
        ),
        _glue_task(
            "mrpc",
            "MRPC",
            SENTENCE_PAIR,
            PARAPHRASE_LABELS,
            ("f1", "accuracy", "accuracy_f1"),
            layouts=_mrpc_layouts(),
            aliases=_digit_aliases(PARAPHRASE_LABELS),
            dev_counts=(129, 279),
            train_rows=3668,
            train_counts=(1194, 2474),
        ),
        _glue_task(
            "cola",
            "CoLA",
            ("sentence",),
            ACCEPTABILITY_LABELS,
            ("mcc",),
            layouts=(_tsv_layout("CoLA", ("sentence",), columns=("source", "label", "mark", "sentence")),),
            aliases=_digit_aliases(ACCEPTABILITY_LABELS),
            dev_counts=(322, 721),
            train_rows=8551,
            train_counts=(2528, 6023),
        ),
        _glue_task(
            "stsb",
            "STS-B",
            SENTENCE_PAIR,
            (),
            ("spearman", "pearson"),
            layouts=(_tsv_layout("STS-B", SENTENCE_PAIR, "score"),),
            # Z's code halves the rows of each of the 78 scores in GLUE's dev.tsv and validates on the smaller halves.
            dev_rows=(1500, 778),
            train_rows=5749,
        ),
        _glue_task(
            "sst2",
            "SST-2",
            ("sentence",),
            SENTIMENT_LABELS,
            ("accuracy",),
            layouts=(_tsv_layout("SST-2", ("sentence",)),),
            aliases=_digit_aliases(SENTIMENT_LABELS),
            large=True,
            dev_counts=(428, 444),
        ),
        _glue_task(
            "qnli",
            "QNLI",
            ("question", "sentence"),
            ENTAILMENT_LABELS,
            ("accuracy",),
            layouts=(_tsv_layout("QNLI", ("question", "sentence")),),
            large=True,
            dev_counts=(2702, 2761),
        ),
        _glue_task(
            "qqp",
            "QQP",
            QUESTION_PAIR,
            DUPLICATE_LABELS,
            ("accuracy", "f1", "accuracy_f1"),
            # GLUE's QQP has a few rows broken by a newline; the original code and the hub omit them.
            layouts=(_tsv_layout("QQP", QUESTION_PAIR, "is_duplicate", skips_short_rows=True),),
            aliases=_digit_aliases(DUPLICATE_LABELS),
            large=True,
            dev_counts=(25545, 14885),
        ),
        _glue_task(
            "mnli",
            "MNLI",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            hub={"dev": "validation_matched"},
            layouts=(_tsv_layout("MNLI", SENTENCE_PAIR, "gold_label", "dev_matched.tsv"),),
            large=True,
            dev_counts=(3479, 3123, 3213),
            train_rows=392702,
        ),
        TaskSpec(
            "scitail",
            "SciTail",
            ("premise", "hypothesis"),
            ("entails", "neutral"),
            ("accuracy",),
            # Not the hub's tsv_format: it was made with CSV quoting and lacks 499 of the 23,596 training rows.
            hub=HubSource("allenai/scitail", "snli_format", text=SENTENCE_PAIR, label="gold_label"),
            layouts=tuple(
                _scitail_layout(folder) for folder in ("SciTail", "SciTail/tsv_format", "SciTailV1.1/tsv_format")
            ),
            aliases={"entailment": "entails"},
            large=True,
        ),
        TaskSpec("toy-rte", "toy RTE", SENTENCE_PAIR, ("first_half", "second_half"), ("accuracy",), generated=True),
        TaskSpec(
            "toy-mrpc",
            "toy MRPC",
            SENTENCE_PAIR,
            ("different_topic", "same_topic"),
            ("f1", "accuracy", "accuracy_f1"),
            generated=True,
        ),
        TaskSpec("toy-cola", "toy CoLA", ("sentence",), ACCEPTABILITY_LABELS, ("mcc",), generated=True),
    )
}


def find_task(name: str) -> TaskSpec:
    """Return the task of that name. Raise a UserError if there is none."""
    if name not in TASKS:
        raise UserError(
            f"task {name!r} is not known{did_you_mean(name, TASKS) or '; `stableft list tasks` names them all'}"
        )
    return TASKS[name]


Metric = Literal["accuracy", "f1", "mcc", "accuracy_f1", "spearman", "pearson"]
METRICS: tuple[Metric, ...] = get_args(Metric)
REGRESSION_METRICS: tuple[Metric, ...] = ("spearman", "pearson")
CORRELATIONS: tuple[Metric, ...] = ("mcc", *REGRESSION_METRICS)  # 0 for a model that has learnt nothing

METRIC_TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "mcc": "MCC",
    "accuracy_f1": "mean of accuracy and F1",
    "spearman": "Spearman",
    "pearson": "Pearson",
}


def metric_title(metric: str) -> str:
    """Return the title of a metric. Metrics of imported runs may have none, and keep their name."""
    return METRIC_TITLES.get(metric, metric)


def scored_metrics(metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics to compute, given the benchmark's: classification also gets accuracy."""
    return metrics if metrics[0] in REGRESSION_METRICS else tuple(dict.fromkeys((*metrics, "accuracy")))


def task_title(name: str) -> str:
    """Return how the papers write a task's name; a user's own task keeps its own."""
    return TASKS[name].title if name in TASKS else name
