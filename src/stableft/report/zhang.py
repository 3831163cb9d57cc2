"""Tables and figures of Zhang et al. 2021, as rows."""

from stableft.catalog.tasks import TASKS
from stableft.report.artifact import (
    Artifact,
    BiasRatio,
    Boxes,
    Curves,
    Datasets,
    Drifts,
    Group,
    Hyperparameters,
    Lengths,
    MeanCell,
    Means,
    Part,
    SeedMap,
    Trials,
)

PAPER = "Zhang et al. 2021"
SMALL = ("rte", "mrpc", "stsb", "cola")
LARGE = ("sst2", "qnli", "qqp", "mnli")
SUFFIX = "-1k"  # of the arms on 1,000 training rows
OPTIMIZERS = {"zhang-bertadam": "No Correction", "zhang": "Correction"}
METHODS = {
    "zhang": "Standard",
    "intermediate": "Int. Task",
    "llrd*": "LLRD",
    "mixout*": "Mixout",
    "pretrained-decay*": "Pre-trained WD",
    "weight-decay*": "WD",
    "zhang-reinit": "Re-init",
    "zhang-longer": "Longer",
}
STEPS = {"rte": 234, "mrpc": 345, "stsb": 540, "cola": 804}  # three epochs, of the full data
SEARCH = (200, 400, 800, 1600, 3200)


def _row(number: str, what: str, sweeps: tuple[str, ...] = (), parts: tuple[Part, ...] = (), **more) -> Artifact:
    kind, _, of = number.partition(" ")
    sweeps = tuple(f"zhang/{sweep}.yaml" for sweep in sweeps)
    return Artifact(f"zhang-{kind.lower()}{of}", f"{PAPER}, {number}: {what}", sweeps, parts, **more)


def _title(task: str, suffix: str = "") -> str:
    return f"{TASKS[task].title}{' (1k)' if suffix else ''}"


def _optimizers(task: str) -> tuple[Group, ...]:
    return tuple(Group(label, arm, task) for arm, label in OPTIMIZERS.items())


def _table1(title: str, tasks: tuple[str, ...], suffix: str = "") -> Means:
    """Returns four of Table 1's data sets: each a family of Standard and Re-init, for three epochs and for longer."""
    cells = [
        MeanCell(row, f"{_title(task, suffix)}, {column}", task, Group(row, f"{arm}{length}{suffix}", task))
        for row, arm in (("Standard", "zhang"), ("Re-init", "zhang-reinit"))
        for task in tasks
        for column, length in (("3 Epochs", ""), ("Longer", "-longer"))
    ]
    return Means(title, tuple(cells), "best", (PAPER, "Table 1"), families="a data set's four")


def _blocks(task: str, suffix: str = "") -> Boxes:
    """Returns Figs. 5 and 13's boxes of a data set: how many of the top blocks Re-init draws anew."""
    arms = {"Standard": f"zhang{suffix}", "pooler": f"zhang-pooler{suffix}"}
    arms |= {str(n): f"zhang-reinit{suffix} blocks={n}" for n in range(1, 7)}
    return Boxes(_title(task, suffix), tuple(Group(label, arm, task) for label, arm in arms.items()), of="val")


def _lengths(task: str, suffix: str = "") -> Lengths:
    """Returns Figs. 8 and 14's lines of a data set: validation score over the number of steps."""
    three_epochs = 96 if suffix else STEPS[task]
    lines = []
    for label, arm, longer in (
        ("Standard", "zhang", "zhang-longer"),
        ("Re-init", "zhang-reinit", "zhang-reinit-longer"),
    ):
        steps = [(n, f"{longer}{suffix} length={n} steps") for n in SEARCH if n > three_epochs]
        points = [(three_epochs, f"{arm}{suffix}"), *steps]
        lines.append((label, tuple((n, Group(label, name, task)) for n, name in points)))
    return Lengths(_title(task, suffix), tuple(lines))


def _losses(task: str, arms: dict[str, str]) -> Curves:
    return Curves(_title(task), tuple(Group(label, arm, task) for arm, label in arms.items()), "train_loss", "range")


def _drift(number: int, what: str, task: str, blocks: tuple[int, ...] = ()) -> Artifact:
    """Returns a figure of how far blocks move from their initial weights, a curve for each number of blocks redrawn."""
    arms = {"zhang": "Standard"} | {f"zhang-reinit blocks={n}": f"Re-init {n}" for n in (1, 3, 6, 10)}
    parts = (Drifts("", tuple(Group(label, arm, task) for arm, label in arms.items()), blocks),)
    title = f"L2 distance to the initial weights of {what} (mean and range)"
    return _row(f"Figure {number}", title, ("drift",), parts)


TABLE2 = Means(
    "",
    tuple(
        MeanCell(_title(task), label, task, Group(label, arm, task)) for task in SMALL for arm, label in METHODS.items()
    ),
    "better",
    (PAPER, "Table 2"),
    families="a task's methods",
)
TABLE4 = Means(
    "",
    tuple(
        MeanCell(row, _title(task), task, Group(row, arm, task))
        for row, arm in (("Mixed precision", "fp16"), ("Full precision", "fp32"))
        for task in ("cola", "mrpc", "rte", "stsb")
    ),
    "different",
    (PAPER, "Table 4"),
    families="the two means of a task",
)
TABLE5 = Means(
    "",
    tuple(
        cell
        for row, arm in (("No bias correction", "zhang-bertadam"), ("Bias correction", "zhang"))
        for cell in (
            MeanCell(row, "Dev Acc.", "dev", Group(row, arm, "mnli"), of="val"),
            MeanCell(row, "Test Acc.", "test", Group(row, arm, "mnli")),
        )
    ),
    "different",
    (PAPER, "Table 5"),
    named=False,
    families="the two means of a column",
)
TABLE7 = Means(
    "",
    tuple(
        MeanCell(
            model, f"{_title(task)}, {column}", f"{model} {task}", Group(model, f"zhang-{model.lower()}{more}", task)
        )
        for model in ("XLNet", "RoBERTa", "ELECTRA", "BART")
        for task in SMALL
        for column, more in (("Standard", ""), ("Re-init", "-reinit"))
    ),
    "pair",
    (PAPER, "Table 7"),
    named=False,
    families="a model's two on a task",
)
REINIT5 = {"zhang": "Standard", "zhang-reinit blocks=5": "Re-init 5"}
ARTIFACTS = {
    artifact.id: artifact
    for artifact in (
        _row(
            "Table 1",
            "mean test performance and standard deviation, Standard and Re-init",
            ("table1",),
            (_table1("Full data", SMALL), _table1("1,000 rows", SMALL, SUFFIX), _table1("1,000 rows", LARGE, SUFFIX)),
        ),
        _row("Table 2", "mean test performance and standard deviation of seven methods", ("table2",), (TABLE2,)),
        _row("Table 3", "data sets, their splits and majority baselines", parts=(Datasets("Z"),)),
        _row("Table 4", "mixed against full precision", ("table4",), (TABLE4,)),
        _row("Table 5", "bias correction on all of MNLI", ("table5",), (TABLE5,)),
        _row("Table 6", "hyper-parameters of BERT and its variants", parts=(Hyperparameters("Z"),)),
        _row("Table 7", "Re-init of other pre-trained models", ("table6-7",), (TABLE7,)),
        _row(
            "Figure 1",
            "bias of the Adam update over training steps",
            ("table1", "table5"),
            (BiasRatio("", False, tuple(Group(_title(task), "zhang", task) for task in (*SMALL, "mnli"))),),
        ),
        _row(
            "Figure 2",
            "test scores of every run, with and without bias correction",
            ("bias-correction",),
            tuple(Boxes(_title(task), _optimizers(task)) for task in ("rte", "mrpc", "cola", "stsb")),
        ),
        _row(
            "Figure 3",
            "training loss, with and without bias correction (mean and range)",
            ("bias-correction",),
            (_losses("rte", OPTIMIZERS),),
        ),
        _row(
            "Figure 4",
            "expected test performance of the best of so many random trials (mean and standard deviation)",
            ("bias-correction",),
            tuple(Trials(_title(task), _optimizers(task), "test") for task in SMALL),
        ),
        _row(
            "Figure 5",
            "validation scores by the number of re-initialised blocks",
            ("reinit-layers",),
            tuple(_blocks(task) for task in ("rte", "mrpc")),
        ),
        _row(
            "Figure 6",
            "training loss of Standard and Re-init (mean and range)",
            ("reinit-layers",),
            tuple(_losses(task, REINIT5) for task in ("rte", "mrpc")),
            notes=("The paper does not say how many blocks its Re-init draws here; it is 5.",),
        ),
        _drift(7, "four blocks on RTE", "rte", (6, 12, 18, 24)),
        _row(
            "Figure 8",
            "validation score over the number of training steps (mean and range)",
            ("longer-search",),
            tuple(_lengths(task, SUFFIX) for task in SMALL),
        ),
        _row(
            "Figure 9",
            "validation accuracy by the seeds of initialisation and of data order and dropout",
            ("seeds-grid",),
            (
                SeedMap("Standard", Group("Standard", "zhang", "rte"), "scores"),
                SeedMap("Re-init 5", Group("Re-init 5", "zhang-reinit", "rte"), "scores"),
            ),
        ),
        _row(
            "Figure 10",
            "standard deviation of the validation accuracy with one of the two seeds held fixed",
            ("seeds-grid",),
            (
                SeedMap("Standard", Group("Standard", "zhang", "rte"), "std"),
                SeedMap("Re-init 5", Group("Re-init 5", "zhang-reinit", "rte"), "std"),
            ),
        ),
        _row(
            "Figure 11",
            "training loss, with and without bias correction (mean and range)",
            ("bias-correction",),
            tuple(_losses(task, OPTIMIZERS) for task in SMALL),
        ),
        _row(
            "Figure 12",
            "expected validation performance of the best of so many random trials (mean and standard deviation)",
            ("bias-correction",),
            tuple(Trials(_title(task), _optimizers(task), "val") for task in SMALL),
        ),
        _row(
            "Figure 13",
            "validation scores by the number of re-initialised blocks, the other data sets",
            ("reinit-layers",),
            (
                *(_blocks(task) for task in ("stsb", "cola")),
                *(_blocks(task, SUFFIX) for task in (*SMALL, *LARGE)),
            ),
            notes=("App. F calls this figure the training loss; what it shows is validation performance.",),
        ),
        _row(
            "Figure 14",
            "validation score over the number of training steps (mean and range)",
            ("longer-search",),
            tuple(_lengths(task, SUFFIX) for task in ("sst2", "qnli", "qqp", "mnli")),
        ),
        _drift(15, "every block on RTE", "rte"),
        _drift(16, "every block on MRPC", "mrpc"),
        _drift(17, "every block on STS-B", "stsb"),
        _drift(18, "every block on CoLA", "cola"),
    )
}
