"""The tables and figures of Mosbach et al. 2021 as artefacts."""

from typing import Literal

from stableft.catalog.tasks import TASKS
from stableft.report.artifact import (
    Artifact,
    ArtifactPart,
    BiasRatio,
    Boxes,
    Curves,
    DatasetsTable,
    Gradients,
    HyperparametersTable,
    Perplexities,
    RunGroup,
    Scatter,
    StabilityTable,
    Surfaces,
)

MOSBACH_2021 = "Mosbach et al. 2021"
LEARNING_RATES = (1e-5, 2e-5, 3e-5)
TRAINING_EPOCHS = (3, 10, 20)
TABLE1_ARMS = {"devlin": "Devlin et al.", "mosbach-mixout": "Lee et al.", "mosbach": "Ours"}
TABLE4_ARMS = {
    "devlin": "Devlin et al., full train set, 3 epochs",
    "devlin-1k": "Devlin et al., 1k samples, 3 epochs",
    "devlin-1k-long": "Devlin et al., 1k samples, 71 epochs",
    "mosbach": "Ours, full train set",
}


def _make_artifact(
    number: str, subject: str, sweeps: tuple[str, ...] = (), parts: tuple[ArtifactPart, ...] = (), **options
) -> Artifact:
    kind, _, of = number.partition(" ")
    sweeps = tuple(f"mosbach/{sweep}.yaml" for sweep in sweeps)
    return Artifact(f"mosbach-{kind.lower()}{of}", f"{MOSBACH_2021}, {number}: {subject}", sweeps, parts, **options)


def _stability_table(location: str, arms: dict[str, str]) -> StabilityTable:
    names = tuple((name, arm) for arm, name in arms.items())
    return StabilityTable(("std", "mean", "max"), published_in=(MOSBACH_2021, location), paper_names=names)


def _score_boxes(task: str, arms: dict[str, str]) -> Boxes:
    return Boxes(TASKS[task].title, tuple(RunGroup(label, arm, task) for arm, label in arms.items()))


def _bias_correction_setting(correction: bool) -> str:
    return f"bias_correction={str(correction).lower()}"


def _correction_text(correction: bool) -> str:
    return f"{'with' if correction else 'without'} bias correction (BC)"


def _bias_correction_boxes(title: str, recipe: str, highest: tuple[str, ...] = ()) -> Boxes:
    """Return the boxes of M Fig. 5 for one model: each learning rate without and with bias correction."""
    arms = [
        (f"{rate:.0e}".replace("e-0", "e-"), correction, f"{recipe} lr={rate}, {_bias_correction_setting(correction)}")
        for rate in LEARNING_RATES
        for correction in (False, True)
    ]
    arms += [
        (rate, correction, f"{recipe}-{rate} {_bias_correction_setting(correction)}")
        for rate in highest
        for correction in (False, True)
    ]
    groups = (
        RunGroup(f"{rate}, {'' if bc else 'no '}BC", arm, "rte", shade=_correction_text(bc), block=rate)
        for rate, bc, arm in arms
    )
    return Boxes(title, tuple(groups), names_label="learning rate")


def _ablation_group(rate: float, correction: bool, epochs: int) -> RunGroup:
    label = f"{rate:.0e}, {epochs} epochs{', BC' if correction else ''}".replace("e-0", "e-")
    arm = f"mosbach lr={rate}, {_bias_correction_setting(correction)}, length={epochs} epochs"
    return RunGroup(label, arm, "rte", shade=_correction_text(correction), block=f"{epochs} epochs")


ABLATION_GROUPS = tuple(
    _ablation_group(rate, bc, epochs) for epochs in TRAINING_EPOCHS for bc in (False, True) for rate in LEARNING_RATES
)


def _gradient_part(of: Literal["layers", "matrices"], model: str = "") -> Gradients:
    """Return the gradient norms of a failed run of devlin and a successful run of mosbach."""
    failed, successful = (RunGroup(name, name, "rte") for name in (f"devlin{model}", f"mosbach{model}"))
    return Gradients("", (failed,), (successful,), of)


def _surface_parts(of: Literal["loss", "grad_norm"]) -> tuple[Surfaces, ...]:
    """Return the surfaces on three data sets, each of a failed run of devlin and a successful run of mosbach."""
    return tuple(
        Surfaces(TASKS[task].title, (RunGroup("devlin", "devlin", task),), (RunGroup("mosbach", "mosbach", task),), of)
        for task in ("rte", "mrpc", "cola")
    )


DEVLIN_ON_RTE = (RunGroup("devlin", "devlin", "rte"),)
MOSBACH_ON_RTE = (RunGroup("mosbach", "mosbach", "rte"),)
MOSBACH_ARTIFACTS = {
    artifact.id: artifact
    for artifact in (
        _make_artifact(
            "Table 1",
            "standard deviation, mean and maximum performance over seeds",
            ("table1",),
            (_stability_table("Table 1", TABLE1_ARMS),),
        ),
        _make_artifact("Table 2", "data sets and majority baselines", parts=(DatasetsTable("M"),)),
        _make_artifact("Table 3", "hyper-parameters", parts=(HyperparametersTable("M"),)),
        _make_artifact(
            "Table 4",
            "standard deviation, mean and maximum performance on SciTail",
            ("table4",),
            (_stability_table("Table 4", TABLE4_ARMS),),
        ),
        _make_artifact(
            "Figure 1",
            "development scores of every run, by recipe",
            ("table1",),
            tuple(_score_boxes(task, TABLE1_ARMS) for task in ("rte", "mrpc", "cola")),
        ),
        _make_artifact(
            "Figure 2",
            "language-modelling perplexity with the top k blocks reset, and the training of failed runs",
            ("perplexity", "figure2"),
            (
                Perplexities("(a) perplexity, failed runs", DEVLIN_ON_RTE, "failed", 3),
                Perplexities("(b) perplexity, successful runs", (*DEVLIN_ON_RTE, *MOSBACH_ON_RTE), "successful", 3),
                Curves("(c) training loss, 10 failed runs", DEVLIN_ON_RTE, "train_loss", "std", "failed", 10),
                Curves("(c) development score, 10 failed runs", DEVLIN_ON_RTE, "val", "std", "failed", 10),
            ),
        ),
        _make_artifact(
            "Figure 3",
            "development scores on all, and on 1,000, training rows",
            ("figure3",),
            tuple(
                _score_boxes(task, {"full": "full data", "1k": "1,000 rows", "1k-long": "1,000 rows, as many steps"})
                for task in ("mrpc", "cola", "qnli")
            ),
            notes=(
                "M sec. 4: on 1,000 rows, for as many steps as on all, 1 of 25 runs failed on CoLA, none elsewhere.",
            ),
        ),
        _make_artifact(
            "Figure 4", "gradient norms of a failed and a successful run", ("gradients",), (_gradient_part("layers"),)
        ),
        _make_artifact(
            "Figure 5",
            "development scores by learning rate and bias correction (BC)",
            ("figure5",),
            (
                _bias_correction_boxes("(a) BERT", "devlin", ("5e-5",)),
                _bias_correction_boxes("(b) RoBERTa", "devlin-roberta"),
                _bias_correction_boxes("(c) ALBERT", "devlin-albert"),
            ),
        ),
        _make_artifact("Figure 6", "the bias correction term of Adam", parts=(BiasRatio("", inverse=True),)),
        _make_artifact(
            "Figure 7",
            "loss surfaces between the pre-trained, a failed and a successful model",
            ("surfaces",),
            _surface_parts("loss"),
        ),
        _make_artifact(
            "Figure 8",
            "development score during training, and over the training loss at its end",
            ("figure8a", "ablation-rte"),
            (
                Curves("(a) 10 runs", MOSBACH_ON_RTE, "val", "runs", "successful", 10),
                Scatter("(b) every run of Figure 9", ABLATION_GROUPS),
            ),
        ),
        _make_artifact(
            "Figure 9",
            "development scores by learning rate, length and bias correction (BC)",
            ("ablation-rte",),
            (Boxes("RTE", ABLATION_GROUPS, star="2e-5, 20 epochs, BC"),),
            notes=("The star marks the paper's recommended setting: 2e-5, 20 epochs, BC.",),
        ),
        *(
            _make_artifact(
                f"Figure {number}",
                f"gradient norms of weight matrices of {title}, of a failed and a successful run",
                ("gradients",),
                (_gradient_part("matrices", model),),
            )
            for number, title, model in ((10, "BERT", ""), (11, "RoBERTa", "-roberta"), (12, "ALBERT", "-albert"))
        ),
        _make_artifact(
            "Figure 13",
            "gradient-norm surfaces between the pre-trained, a failed and a successful model",
            ("surfaces",),
            _surface_parts("grad_norm"),
        ),
        _make_artifact(
            "Figure 14",
            "training loss and score during training, successful and failed runs",
            ("figure14",),
            (
                Curves("(a) development score, 10 successful runs", MOSBACH_ON_RTE, "val", "std", "successful", 10),
                Curves("(a) training loss, 10 successful runs", MOSBACH_ON_RTE, "train_loss", "std", "successful", 10),
                Curves("(b) development score, 10 failed runs", DEVLIN_ON_RTE, "val", "std", "failed", 10),
                Curves("(b) training loss, 10 failed runs", DEVLIN_ON_RTE, "train_loss", "std", "failed", 10),
            ),
            notes=("The paper calls its score test accuracy; it is that of the development set.",),
        ),
    )
}
