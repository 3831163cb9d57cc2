"""One run is one frozen `RunConfig`: everything that can change a number, nothing else.

Defaults live in the recipe files, not here: a field without a default must be written there. A field added later
must have the default None, meaning "as before it existed", so that ids of earlier runs do not change.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stableft.catalog.tasks import REGRESSION_METRICS, Metric, TaskSpec, find_task

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Checkpoint = Literal["last", "best"]
Split = Literal["val", "test"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class ConfigSection(BaseModel):
    """A section of a config: frozen, strict about types, closed to unknown keys, free of NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    example: ClassVar[str] = ""  # if there is one, `set` and `grid` assign it as one value, never key by key


class CustomTask(ConfigSection):
    """A user's own data set: files by content hash, so that equal files are equal computations."""

    example: ClassVar[str] = "{name: ..., train: ..., validation: ..., text: ..., label: ...}"
    format: Literal["csv", "tsv", "jsonl"]
    train: Sha256
    validation: Sha256
    test: Sha256 | None = None
    text: tuple[str, ...] = Field(min_length=1, max_length=2)
    label: str
    labels: tuple[str, ...] = ()  # class ids in this order; empty: regression
    metrics: tuple[Metric, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_fit_metrics(self) -> Self:
        for metric in self.metrics:
            if (metric in REGRESSION_METRICS) != (not self.labels):
                kind = "a regression task (no labels)" if not self.labels else "a task with labels"
                raise ValueError(f"metric {metric!r} does not fit {kind}")
            if metric in ("f1", "accuracy_f1") and len(self.labels) != 2:
                raise ValueError(f"metric {metric!r} needs exactly two labels, here are {len(self.labels)}")
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must be two or more different names")
        return self


class DataConfig(ConfigSection):
    """Which rows, in which split, as which tokens."""

    task: str
    own: CustomTask | None = None
    split: Literal["dev", "heldout"]  # M: report on the dev set. Z sec. 3: half of it (1k training rows) validates
    train_rows: Count | None  # None: all; else a class-balanced sample of that size
    sample_seed: Seed | None
    max_length: Annotated[int, Field(ge=8)]
    pad_to_max: bool
    segment_ids: bool  # False: token_type_ids all zero, as M's released code runs


class ModelStructure(ConfigSection):
    """Where a family that stableft has no row for keeps its parts: dotted paths below the model of transformers."""

    example: ClassVar[str] = "{blocks: [distilbert.transformer.layer], embeddings: [distilbert.embeddings]}"
    blocks: tuple[str, ...] = Field(min_length=1)  # module lists, the lowest block first
    embeddings: tuple[str, ...] = ()
    pooler: str | None = None


class ModelConfig(ConfigSection):
    """Which pre-trained weights, and how they are run."""

    name: str  # a hub name, or the label of a local folder
    revision: str | None = None  # of a hub name
    sha256: Sha256 | None = None  # of a local folder's contents
    dropout: Annotated[float, Field(ge=0, lt=1)] | None  # None: as the checkpoint says
    attention: Literal["eager", "sdpa"]
    head: Literal["stock", "paper"] | None = None  # paper: Z's own, where a family's differs from transformers'
    structure: ModelStructure | None = None


class StartFrom(ConfigSection):
    """An intermediate task (Phang et al. 2018; Z sec. 7.1): the weights of a finished run, not the pre-trained ones."""

    example: ClassVar[str] = "{recipe: zhang, task: mnli, seed: 0} or {run: ID, checkpoint: best}"
    run: RunId
    checkpoint: Literal["best", "last"]


class Reinit(ConfigSection):
    """Re-initialisation of the pooler and the top `blocks` (Z sec. 5); with the embeddings, training from scratch."""

    pooler: bool
    blocks: Annotated[int, Field(ge=0)]
    embeddings: bool | None = None


class Mixout(ConfigSection):
    """Weights of Linear modules, replaced by what they were at the start with probability `p` (Z sec. 7.1).

    `granularity`: every `parameter` for itself (Lee et al. 2020) or all that read one input feature, a `column` of the
    weight (the released code). `scope`: every `linear`, or those with a dropout between the last Linear and them.
    """

    p: Annotated[float, Field(ge=0, le=1)]
    target: Literal["pretrained"]  # of what a run draws anew (head, re-initialised blocks): the draw
    granularity: Literal["parameter", "column"]
    scope: Literal["linear", "after_dropout"]


class OptimizerConfig(ConfigSection):
    """AdamW, its bias correction a switch."""

    lr: Positive
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    eps: Positive
    bias_correction: bool
    eps_placement: Literal["before_correction", "after_correction"] | None
    weight_decay: Annotated[float, Field(ge=0)]
    decay_order: Literal["before", "after"] | None
    no_decay: tuple[str, ...]  # parameters whose name contains one of these are not decayed
    clip_norm: Positive | None
    decay_towards: Literal["zero", "pretrained"] | None = None  # pretrained: the weights at the start (Z sec. 7.1)
    decay_head: bool | None = None  # towards its draw, where the encoder decays towards the pre-trained weights
    llrd: Annotated[float, Field(gt=0, le=1)] | None = None  # a block's learning rate over that of the block above

    def normalized(self) -> Self:
        """Returns the config with every field that has no effect set to None."""
        changes: dict[str, Any] = {} if self.bias_correction else {"eps_placement": None}
        if self.weight_decay == 0:
            changes |= {"decay_order": None, "no_decay": ()}
        if self.weight_decay == 0 or self.decay_towards != "pretrained":
            changes |= {"decay_towards": None, "decay_head": None}
        elif not self.decay_head:
            changes |= {"decay_head": None}
        if self.llrd == 1:
            changes |= {"llrd": None}
        return self.model_copy(update=changes)


class ExactlyOne(ConfigSection):
    """A setting with several ways to give it, of which one is given."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        names = list(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"give exactly one of {' and '.join(names)}")
        return self


class TrainingLength(ExactlyOne):
    """Length of training, in epochs or in optimizer steps."""

    example: ClassVar[str] = "{epochs: 3} or {steps: 800}"
    epochs: Count | None = None
    steps: Count | None = None


class ScheduleConfig(ConfigSection):
    """How many examples an update sees, how many updates there are, and their learning rate."""

    length: TrainingLength
    batch_size: Count
    warmup: Annotated[float, Field(ge=0, le=1)] | None  # share of all updates
    warmup_steps: Annotated[int, Field(ge=0)] | None = None  # in place of the share (Z Table 6)


class Cadence(ExactlyOne):
    """When to evaluate: so many times a run (Z) or about so many times an epoch and at its end (M)."""

    example: ClassVar[str] = "{times: 10} or {per_epoch: 3}"
    times: Count | None = None
    per_epoch: Count | None = None


class EvaluationConfig(ConfigSection):
    """When to evaluate, which checkpoint is best, and which one is reported."""

    every: Cadence
    at_start: bool
    select_by: tuple[Metric, ...] = Field(min_length=1)  # the first that is one of the task's metrics
    report: Literal["last", "best"]
    batch_size: Count


class Seeds(ConfigSection):
    """`init` draws the head (and re-drawn blocks); `data` the batch order and dropout (Z App. B)."""

    init: Seed
    data: Seed


class RunConfig(ConfigSection):
    """The whole truth about one run."""

    data: DataConfig
    model: ModelConfig
    reinit: Reinit | None
    mixout: Mixout | None = None
    start_from: StartFrom | None = None
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    evaluation: EvaluationConfig
    precision: Literal["fp32", "fp16", "bf16"]
    seeds: Seeds

    @property
    def run_id(self) -> str:
        """16 hex digits, equal for equal computations: fields without an effect do not count."""
        return hashlib.sha256(canonical_json(_identifying_values(self)).encode()).hexdigest()[:16]

    @property
    def task(self) -> TaskSpec:
        """The facts about this run's data set, the user's own included."""
        own = self.data.own
        if own is None:
            return find_task(self.data.task)
        return TaskSpec(self.data.task, self.data.task, own.text, own.labels, own.metrics)

    @property
    def reported_split(self) -> Literal["val", "test"]:
        """Where tables read the score: a held-out test split where there is one, else the validation split."""
        held_out = self.data.split == "heldout" or (self.data.own is not None and self.data.own.test is not None)
        return "test" if held_out else "val"

    @property
    def selection_metric(self) -> str:
        """The validation metric that decides which checkpoint is best."""
        return next((m for m in self.evaluation.select_by if m in self.task.metrics), self.task.metric)

    def normalized(self) -> Self:
        """Returns the config with every field that has no effect set to None."""
        values = self.model_dump()
        values["optimizer"] = self.optimizer.normalized().model_dump()
        if self.model.sha256 is not None:
            values["model"]["revision"] = None
        if self.model.head == "stock":
            values["model"]["head"] = None
        if self.mixout:
            whole = {"granularity": "parameter"} if self.mixout.p == 1 else {}
            values["mixout"] = self.mixout.model_dump() | whole if self.mixout.p else None
        if self.schedule.warmup_steps == 0:
            values["schedule"] |= {"warmup": 0.0, "warmup_steps": None}
        if self.data.train_rows is None:
            values["data"]["sample_seed"] = None
        values["evaluation"]["select_by"] = (self.selection_metric,)
        if self.reinit and not self.reinit.embeddings:
            values["reinit"]["embeddings"] = None
        if self.reinit and not any(values["reinit"].values()):
            values["reinit"] = None
        return type(self).model_validate(values)

    @model_validator(mode="after")
    def _switches_have_values(self) -> Self:
        check_switches(self.optimizer)
        check_warmup(self.schedule)
        if self.data.train_rows is not None and self.data.sample_seed is None:
            raise ValueError("data.sample_seed must be set when data.train_rows is")
        return self


def check_switches(optimizer: OptimizerConfig) -> None:
    """Raises ValueError if a switch is on and what it switches is not said."""
    if optimizer.bias_correction and optimizer.eps_placement is None:
        raise ValueError("optimizer.eps_placement must be set when optimizer.bias_correction is true")
    if optimizer.weight_decay and optimizer.decay_order is None:
        raise ValueError("optimizer.decay_order must be set when optimizer.weight_decay is not 0")
    if optimizer.decay_towards == "pretrained" and not optimizer.weight_decay:
        raise ValueError("optimizer.weight_decay must be above 0 when optimizer.decay_towards is pretrained")


def check_warmup(schedule: ScheduleConfig) -> None:
    """Raises ValueError unless the warm-up is given in one way, and is no longer than training."""
    if schedule.warmup is None and schedule.warmup_steps is None:
        raise ValueError("schedule.warmup must be set when schedule.warmup_steps is null")
    if schedule.warmup is not None and schedule.warmup_steps is not None:
        raise ValueError("schedule.warmup_steps must be null when schedule.warmup is set, or the other way round")
    if schedule.length.steps is not None and (schedule.warmup_steps or 0) > schedule.length.steps:
        raise ValueError(
            f"schedule.warmup_steps {schedule.warmup_steps} is more than the {schedule.length.steps} steps of "
            "schedule.length"
        )


def canonical_json(value: Any) -> str:
    """Returns JSON that is equal for equal values: sorted keys, no spaces, shortest floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _identifying_values(config: RunConfig) -> dict:
    values = config.normalized().model_dump(mode="json")
    del values["evaluation"]["report"]  # both scores are stored, whichever is reported
    if config.model.sha256:
        del values["model"]["name"]
    if config.data.own:
        del values["data"]["task"]
    return without_none(values)


def without_none(value: Any) -> Any:
    """Returns the value with all keys left out, at any depth, that have the value None."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return value


Share = Annotated[float, Field(gt=0, lt=1)]


class PretrainInput(ConfigSection):
    """The toy language's own, or a file or folder by content hash; a user writes `toylang` or a path."""

    example: ClassVar[str] = "folder"
    name: str
    sha256: Sha256 | None = None  # None: of the toy language


class CorpusConfig(ConfigSection):
    """How much text there is, and how much of it is never trained on."""

    pairs: Count | None = None  # of passages that the toy language gives, held-out ones included; None for files
    held_out: Share  # of the documents of files, of the pairs of the toy language
    seed: Seed  # draws the toy corpus, which documents or pairs are held out, and their masks


class MaskingConfig(ConfigSection):
    """Which tokens are to be found out, and what stands in their place (BERT: 0.15, of which 0.8 and 0.1)."""

    share: Share  # of a row's tokens without special ones, rounded, at least one
    masked: Annotated[float, Field(ge=0, le=1)]  # of these: [MASK]
    random: Annotated[float, Field(ge=0, le=1)]  # of these: any token but special ones; the rest stay as they are


class PretrainEvaluationConfig(ConfigSection):
    """When the held-out loss is taken."""

    every: Cadence
    at_start: bool
    batch_size: Count


class PretrainConfig(ConfigSection):
    """The whole truth about one pre-training."""

    text: PretrainInput
    vocabulary: PretrainInput
    corpus: CorpusConfig
    max_length: Annotated[int, Field(ge=8)]
    family: str
    model: dict[str, Any]  # the values of the family's own config class in transformers
    attention: Literal["eager", "sdpa"]
    masking: MaskingConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    evaluation: PretrainEvaluationConfig
    precision: Literal["fp32", "fp16", "bf16"]
    seeds: Seeds  # `init` draws the weights; `data` the batch order, the masks and dropout
    start_from: PretrainInput | None = None  # a masked-language model of the same architecture; None: fresh weights

    @property
    def run_id(self) -> str:
        """16 hex digits, equal for equal computations: labels of files and fields without an effect do not count."""
        values = self.normalized().model_dump(mode="json")
        for key in ("text", "vocabulary", "start_from"):
            if values[key] and values[key]["sha256"]:
                del values[key]["name"]
        return hashlib.sha256(canonical_json(without_none(values)).encode()).hexdigest()[:16]

    def normalized(self) -> Self:
        """Returns the config with every field that has no effect set to None."""
        changes: dict[str, Any] = {"optimizer": self.optimizer.normalized()}
        if self.text.sha256:
            changes["corpus"] = self.corpus.model_copy(update={"pairs": None})
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _switches_have_values(self) -> Self:
        check_switches(self.optimizer)
        check_warmup(self.schedule)
        if self.optimizer.llrd not in (None, 1.0):
            raise ValueError("optimizer.llrd is for fine-tuning: pre-training has one learning rate for all blocks")
        if self.optimizer.decay_towards == "pretrained":
            raise ValueError("optimizer.decay_towards: pretrained is for fine-tuning: pre-training decays towards zero")
        if self.masking.masked + self.masking.random > 1 + 1e-9:
            raise ValueError("masking.masked and masking.random must not be more than 1 together")
        if self.text.sha256 is None and self.corpus.pairs is None:
            raise ValueError("corpus.pairs must be set when text is toylang")
        return self


SHARE_TOLERANCE = 1e-9  # of a share: 0.3 of 10 epochs are 3


def has_reached_share(config: RunConfig, step: int, epoch: float, after: float) -> bool:
    """Returns whether an evaluation comes at or after that share of a run's steps."""
    length = config.schedule.length
    share = epoch / length.epochs if length.epochs else step / (length.steps or 1)
    return share >= after - SHARE_TOLERANCE
