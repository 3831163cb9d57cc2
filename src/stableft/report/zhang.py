"""The tables and figures of Zhang et al. 2021 as artefacts."""

from stableft.catalog.tasks import TASKS
from stableft.report.artifact import (
    Artifact,
    ArtifactPart,
    BiasRatio,
    Boxes,
    Curves,
    DatasetsTable,
    Drifts,
    HyperparametersTable,
    Lengths,
    MeanCell,
    MeansTable,
    RunGroup,
    SeedMap,
    Trials,
)

ZHANG_2021 = "Zhang et al. 2021"
SMALL_TASKS = ("rte", "mrpc", "stsb", "cola")
LARGE_TASKS = ("sst2", "qnli", "qqp", "mnli")
SUFFIX_1K = "-1k"  # of arms with 1,000 training rows
OPTIMIZER_ARMS = {"zhang-bertadam": "No Correction", "zhang": "Correction"}
METHOD_ARMS = {
    "zhang": "Standard",
    "intermediate": "Int. Task",
    "llrd*": "LLRD",
    "mixout*": "Mixout",
    "pretrained-decay*": "Pre-trained WD",
    "weight-decay*": "WD",
    "zhang-reinit": "Re-init",
    "zhang-longer": "Longer",
}
THREE_EPOCH_STEPS = {"rte": 234, "mrpc": 345, "stsb": 540, "cola": 804}  # steps of three epochs on the full data
SEARCHED_STEPS = (200, 400, 800, 1600, 3200)


def _make_artifact(
    number: str, subject: str, sweeps: tuple[str, ...] = (), parts: tuple[ArtifactPart, ...] = (), **options
) -> Artifact:
    kind, _, of = number.partition(" ")
    sweeps = tuple(f"zhang/{sweep}.yaml" for sweep in sweeps)
    return Artifact(f"zhang-{kind.lower()}{of}", f"{ZHANG_2021}, {number}: {subject}", sweeps, parts, **options)


def _task_title(task: str, suffix: str = "") -> str:
    return f"{TASKS[task].title}{' (1k)' if suffix else ''}"


def _optimizer_groups(task: str) -> tuple[RunGroup, ...]:
    return tuple(RunGroup(label, arm, task) for arm, label in OPTIMIZER_ARMS.items())


def _table1_part(title: str, tasks: tuple[str, ...], suffix: str = "") -> MeansTable:
    """Return four data sets of Z Table 1.

    Each is a family of Standard and Re-init, trained for three epochs and for longer.
    """
    cells = [
        MeanCell(row, f"{_task_title(task, suffix)}, {column}", task, RunGroup(row, f"{arm}{length}{suffix}", task))
        for row, arm in (("Standard", "zhang"), ("Re-init", "zhang-reinit"))
        for task in tasks
        for column, length in (("3 Epochs", ""), ("Longer", "-longer"))
    ]
    return MeansTable(title, tuple(cells), "best", (ZHANG_2021, "Table 1"), families="a data set's four cells")


def _reinit_boxes(task: str, suffix: str = "") -> Boxes:
    """Return the boxes of Z Figs. 5 and 13 for a data set: scores by the number of re-initialized blocks."""
    arms = {"Standard": f"zhang{suffix}", "pooler": f"zhang-pooler{suffix}"}
    arms |= {str(n): f"zhang-reinit{suffix} blocks={n}" for n in range(1, 7)}
    groups = tuple(RunGroup(label, arm, task) for label, arm in arms.items())
    return Boxes(_task_title(task, suffix), groups, of="val", names_label="re-initialised blocks (L)")


def _lengths_part(task: str, suffix: str = "") -> Lengths:
    """Return the lines of Z Figs. 8 and 14 for a data set: validation score over the number of steps."""
    blocks = 2 if task == "sst2" else 5
    three_epochs = 96 if suffix else THREE_EPOCH_STEPS[task]  # 96: three epochs of 1,000 rows in batches of 32
    lines = []
    for label, arm, longer in (
        ("Standard", "zhang", "zhang-longer"),
        (f"Re-init {blocks}", "zhang-reinit", "zhang-reinit-longer"),
    ):
        steps = [(n, f"{longer}{suffix} length={n} steps") for n in SEARCHED_STEPS if n > three_epochs]
        points = [(three_epochs, f"{arm}{suffix}"), *steps]
        lines.append((label, tuple((n, RunGroup(label, name, task)) for n, name in points)))
    return Lengths(_task_title(task, suffix), tuple(lines))


def _loss_curves_part(task: str, arms: dict[str, str]) -> Curves:
    return Curves(
        _task_title(task), tuple(RunGroup(label, arm, task) for arm, label in arms.items()), "train_loss", "range"
    )


def _drift_figure(number: int, subject: str, task: str, blocks: tuple[int, ...] = ()) -> Artifact:
    """Return a figure of the drift of blocks, with a curve for each number of re-initialized blocks."""
    arms = {"zhang": "Standard"} | {f"zhang-reinit blocks={n}": f"Re-init {n}" for n in (1, 3, 6, 10)}
    parts = (Drifts("", tuple(RunGroup(label, arm, task) for arm, label in arms.items()), blocks),)
    title = f"L2 distance to the initial weights of {subject} (mean and range)"
    return _make_artifact(f"Figure {number}", title, ("drift",), parts)


TABLE2_PART = MeansTable(
    "",
    tuple(
        MeanCell(_task_title(task), label, task, RunGroup(label, arm, task))
        for task in SMALL_TASKS
        for arm, label in METHOD_ARMS.items()
    ),
    "better",
    (ZHANG_2021, "Table 2"),
    families="a task's methods",
)
TABLE4_PART = MeansTable(
    "",
    tuple(
        MeanCell(row, _task_title(task), task, RunGroup(row, arm, task))
        for row, arm in (("Mixed precision", "fp16"), ("Full precision", "fp32"))
        for task in ("cola", "mrpc", "rte", "stsb")
    ),
    "different",
    (ZHANG_2021, "Table 4"),
    families="the two means of a task",
)
TABLE5_PART = MeansTable(
    "",
    tuple(
        cell
        for row, arm in (("No bias correction", "zhang-bertadam"), ("Bias correction", "zhang"))
        for cell in (
            MeanCell(row, "Dev Acc.", "dev", RunGroup(row, arm, "mnli"), of="val"),
            MeanCell(row, "Test Acc.", "test", RunGroup(row, arm, "mnli")),
        )
    ),
    "different",
    (ZHANG_2021, "Table 5"),
    named=False,
    families="the two means of a column",
)
TABLE7_PART = MeansTable(
    "",
    tuple(
        MeanCell(
            model,
            f"{_task_title(task)}, {column}",
            f"{model} {task}",
            RunGroup(model, f"zhang-{model.lower()}{more}", task),
        )
        for model in ("XLNet", "RoBERTa", "ELECTRA", "BART")
        for task in SMALL_TASKS
        for column, more in (("Standard", ""), ("Re-init", "-reinit"))
    ),
    "pair",
    (ZHANG_2021, "Table 7"),
    named=False,
    families="a model's two cells of a task",
)
LENGTHS_NOTE = (
    "Re-init re-initialises 5 blocks, on SST-2 2; on some of the data sets the legends of the paper have 2 or 3."
)
REINIT5_ARMS = {"zhang": "Standard", "zhang-reinit blocks=5": "Re-init 5"}
ZHANG_ARTIFACTS = {
    artifact.id: artifact
    for artifact in (
        _make_artifact(
            "Table 1",
            "mean test performance and standard deviation, Standard and Re-init",
            ("table1",),
            (
                _table1_part("Full data", SMALL_TASKS),
                _table1_part("1,000 rows", SMALL_TASKS, SUFFIX_1K),
                _table1_part("1,000 rows", LARGE_TASKS, SUFFIX_1K),
            ),
        ),
        _make_artifact(
            "Table 2", "mean test performance and standard deviation of seven methods", ("table2",), (TABLE2_PART,)
        ),
        _make_artifact("Table 3", "data sets, their splits and majority baselines", parts=(DatasetsTable("Z"),)),
        _make_artifact("Table 4", "mixed against full precision", ("table4",), (TABLE4_PART,)),
        _make_artifact("Table 5", "bias correction on all of MNLI", ("table5",), (TABLE5_PART,)),
        _make_artifact("Table 6", "hyper-parameters of BERT and its variants", parts=(HyperparametersTable("Z"),)),
        _make_artifact("Table 7", "Re-init of other pre-trained models", ("table6-7",), (TABLE7_PART,)),
        _make_artifact(
            "Figure 1",
            "bias of the Adam update over training steps",
            ("table1", "table5"),
            (
                BiasRatio(
                    "", False, tuple(RunGroup(_task_title(task), "zhang", task) for task in (*SMALL_TASKS, "mnli"))
                ),
            ),
        ),
        _make_artifact(
            "Figure 2",
            "test scores of every run, with and without bias correction",
            ("bias-correction",),
            tuple(Boxes(_task_title(task), _optimizer_groups(task)) for task in ("rte", "mrpc", "cola", "stsb")),
        ),
        _make_artifact(
            "Figure 3",
            "training loss, with and without bias correction (mean and range)",
            ("bias-correction",),
            (_loss_curves_part("rte", OPTIMIZER_ARMS),),
        ),
        _make_artifact(
            "Figure 4",
            "expected test performance of the best of so many random trials (mean and standard deviation)",
            ("bias-correction",),
            tuple(Trials(_task_title(task), _optimizer_groups(task), "test") for task in SMALL_TASKS),
        ),
        _make_artifact(
            "Figure 5",
            "validation scores by the number of re-initialised blocks",
            ("reinit-layers",),
            tuple(_reinit_boxes(task) for task in ("rte", "mrpc")),
        ),
        _make_artifact(
            "Figure 6",
            "training loss of Standard and Re-init (mean and range)",
            ("reinit-layers",),
            tuple(_loss_curves_part(task, REINIT5_ARMS) for task in ("rte", "mrpc")),
            notes=("The paper does not say how many blocks its Re-init re-initialises here; ours re-initialises 5.",),
        ),
        _drift_figure(7, "four blocks on RTE", "rte", (6, 12, 18, 24)),
        _make_artifact(
            "Figure 8",
            "validation score over the number of training steps (mean and range)",
            ("longer-search",),
            tuple(_lengths_part(task, SUFFIX_1K) for task in SMALL_TASKS),
            notes=(LENGTHS_NOTE,),
        ),
        _make_artifact(
            "Figure 9",
            "validation accuracy by the seeds of initialisation and of data order and dropout",
            ("seeds-grid",),
            (
                SeedMap("Standard", RunGroup("Standard", "zhang", "rte"), "scores"),
                SeedMap("Re-init 5", RunGroup("Re-init 5", "zhang-reinit", "rte"), "scores"),
            ),
        ),
        _make_artifact(
            "Figure 10",
            "standard deviation of the validation accuracy with one of the two seeds held fixed",
            ("seeds-grid",),
            (
                SeedMap("Standard", RunGroup("Standard", "zhang", "rte"), "std"),
                SeedMap("Re-init 5", RunGroup("Re-init 5", "zhang-reinit", "rte"), "std"),
            ),
        ),
        _make_artifact(
            "Figure 11",
            "training loss, with and without bias correction (mean and range)",
            ("bias-correction",),
            tuple(_loss_curves_part(task, OPTIMIZER_ARMS) for task in SMALL_TASKS),
        ),
        _make_artifact(
            "Figure 12",
            "expected validation performance of the best of so many random trials (mean and standard deviation)",
            ("bias-correction",),
            tuple(Trials(_task_title(task), _optimizer_groups(task), "val") for task in SMALL_TASKS),
        ),
        _make_artifact(
            "Figure 13",
            "validation scores by the number of re-initialised blocks, the other data sets",
            ("reinit-layers",),
            (
                *(_reinit_boxes(task) for task in ("stsb", "cola")),
                *(_reinit_boxes(task, SUFFIX_1K) for task in (*SMALL_TASKS, *LARGE_TASKS)),
            ),
            notes=("App. F calls this figure the training loss; what it shows is validation performance.",),
        ),
        _make_artifact(
            "Figure 14",
            "validation score over the number of training steps (mean and range)",
            ("longer-search",),
            tuple(_lengths_part(task, SUFFIX_1K) for task in ("sst2", "qnli", "qqp", "mnli")),
            notes=(LENGTHS_NOTE,),
        ),
        _drift_figure(15, "every block on RTE", "rte"),
        _drift_figure(16, "every block on MRPC", "mrpc"),
        _drift_figure(17, "every block on STS-B", "stsb"),
        _drift_figure(18, "every block on CoLA", "cola"),
    )
}
