"""Tables and figures of Mosbach et al. 2021, as rows."""

from typing import Literal

from stableft.catalog.tasks import TASKS
from stableft.report.artifact import (
    Artifact,
    BiasRatio,
    Boxes,
    Curves,
    Datasets,
    Gradients,
    Group,
    Hyperparameters,
    Part,
    Perplexities,
    Scatter,
    Surfaces,
)

PAPER = "Mosbach et al. 2021"
RATES = (1e-5, 2e-5, 3e-5)
LENGTHS = (3, 10, 20)
TABLE1 = {"devlin": "Devlin et al.", "mosbach-mixout": "Lee et al.", "mosbach": "Ours"}


def _row(number: str, what: str, sweeps: tuple[str, ...] = (), parts: tuple[Part, ...] = (), **more) -> Artifact:
    kind, _, of = number.partition(" ")
    sweeps = tuple(f"mosbach/{sweep}.yaml" for sweep in sweeps)
    return Artifact(f"mosbach-{kind.lower()}{of}", f"{PAPER}, {number}: {what}", sweeps, parts, **more)


def _scores(task: str, arms: dict[str, str]) -> Boxes:
    return Boxes(TASKS[task].title, tuple(Group(label, arm, task) for arm, label in arms.items()))


def _switch(correction: bool) -> str:
    return f"bias_correction={str(correction).lower()}"


def _corrections(title: str, recipe: str, highest: tuple[str, ...] = ()) -> Boxes:
    """Returns Fig. 5's boxes of one model: its learning rates, each without and with bias correction."""
    arms = {
        f"{rate:.0e}, {'' if correction else 'no '}BC".replace(
            "e-0", "e-"
        ): f"{recipe} lr={rate}, {_switch(correction)}"
        for rate in RATES
        for correction in (False, True)
    }
    arms |= {
        f"{rate}, {'' if correction else 'no '}BC": f"{recipe}-{rate} {_switch(correction)}"
        for rate in highest
        for correction in (False, True)
    }
    return Boxes(title, tuple(Group(label, arm, "rte") for label, arm in arms.items()))


def _ablation(rate: float, correction: bool, epochs: int) -> Group:
    label = f"{rate:.0e}, {epochs} epochs{', BC' if correction else ''}".replace("e-0", "e-")
    return Group(label, f"mosbach lr={rate}, {_switch(correction)}, length={epochs} epochs", "rte")


ABLATION = tuple(_ablation(rate, bc, epochs) for epochs in LENGTHS for bc in (False, True) for rate in RATES)


def _gradients(of: Literal["layers", "matrices"], model: str = "") -> Gradients:
    """Returns the gradient norms of the first failed run of devlin and of the first successful one of mosbach."""
    failed, successful = (Group(name, name, "rte") for name in (f"devlin{model}", f"mosbach{model}"))
    return Gradients("", (failed,), (successful,), of)


def _surfaces(of: Literal["loss", "grad_norm"]) -> tuple[Surfaces, ...]:
    """Returns the surfaces of three data sets, each between a failed run of devlin and a successful one of mosbach."""
    return tuple(
        Surfaces(TASKS[task].title, (Group("devlin", "devlin", task),), (Group("mosbach", "mosbach", task),), of)
        for task in ("rte", "mrpc", "cola")
    )


FAILED = (Group("devlin", "devlin", "rte"),)
FINE = (Group("mosbach", "mosbach", "rte"),)
ARTIFACTS = {
    artifact.id: artifact
    for artifact in (
        _row(
            "Table 1",
            "standard deviation, mean and maximum performance over seeds",
            ("table1",),
            statistics=("std", "mean", "max"),
            printed_at=(PAPER, "Table 1"),
        ),
        _row("Table 2", "data sets and majority baselines", parts=(Datasets("M"),)),
        _row("Table 3", "hyper-parameters", parts=(Hyperparameters("M"),)),
        _row(
            "Table 4",
            "standard deviation, mean and maximum performance on SciTail",
            ("table4",),
            statistics=("std", "mean", "max"),
            printed_at=(PAPER, "Table 4"),
        ),
        _row(
            "Figure 1",
            "development scores of every run, by recipe",
            ("table1",),
            tuple(_scores(task, TABLE1) for task in ("rte", "mrpc", "cola")),
        ),
        _row(
            "Figure 2",
            "language-modelling perplexity with the top k blocks reset, and the training of failed runs",
            ("perplexity", "figure2"),
            (
                Perplexities("(a) perplexity, failed runs", FAILED, "failed", 3),
                Perplexities("(b) perplexity, successful runs", (*FAILED, *FINE), "successful", 3),
                Curves("(c) training loss, 10 failed runs", FAILED, "train_loss", "std", "failed", 10),
                Curves("(c) development score, 10 failed runs", FAILED, "val", "std", "failed", 10),
            ),
        ),
        _row(
            "Figure 3",
            "development scores on all, and on 1,000, training rows",
            ("figure3",),
            tuple(
                _scores(task, {"full": "full data", "1k": "1,000 rows", "1k-long": "1,000 rows, as many steps"})
                for task in ("mrpc", "cola", "qnli")
            ),
        ),
        _row("Figure 4", "gradient norms of a failed and a successful run", ("gradients",), (_gradients("layers"),)),
        _row(
            "Figure 5",
            "development scores by learning rate and bias correction (BC)",
            ("figure5",),
            (
                _corrections("(a) BERT", "devlin", ("5e-5",)),
                _corrections("(b) RoBERTa", "devlin-roberta"),
                _corrections("(c) ALBERT", "devlin-albert"),
            ),
        ),
        _row("Figure 6", "the bias correction term of Adam", parts=(BiasRatio("", inverse=True),)),
        _row(
            "Figure 7",
            "loss surfaces between the pre-trained, a failed and a successful model",
            ("surfaces",),
            _surfaces("loss"),
        ),
        _row(
            "Figure 8",
            "development score during training, and over the training loss at its end",
            ("figure8a", "ablation-rte"),
            (
                Curves("(a) 10 runs", FINE, "val", "runs", "successful", 10),
                Scatter("(b) every run of Figure 9", ABLATION),
            ),
        ),
        _row(
            "Figure 9",
            "development scores by learning rate, length and bias correction (BC)",
            ("ablation-rte",),
            (Boxes("RTE", ABLATION),),
            notes=("The paper's recommended setting is 2e-5, 20 epochs, BC.",),
        ),
        *(
            _row(
                f"Figure {number}",
                f"gradient norms of weight matrices of {title}, of a failed and a successful run",
                ("gradients",),
                (_gradients("matrices", model),),
            )
            for number, title, model in ((10, "BERT", ""), (11, "RoBERTa", "-roberta"), (12, "ALBERT", "-albert"))
        ),
        _row(
            "Figure 13",
            "gradient-norm surfaces between the pre-trained, a failed and a successful model",
            ("surfaces",),
            _surfaces("grad_norm"),
        ),
        _row(
            "Figure 14",
            "training loss and score during training, successful and failed runs",
            ("figure14",),
            (
                Curves("(a) development score, 10 successful runs", FINE, "val", "std", "successful", 10),
                Curves("(a) training loss, 10 successful runs", FINE, "train_loss", "std", "successful", 10),
                Curves("(b) development score, 10 failed runs", FAILED, "val", "std", "failed", 10),
                Curves("(b) training loss, 10 failed runs", FAILED, "train_loss", "std", "failed", 10),
            ),
            notes=("The paper calls its score test accuracy; it is that of the development set.",),
        ),
    )
}
