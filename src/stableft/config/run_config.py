"""The frozen `RunConfig` of a run: everything that can affect its results, and nothing else.

Defaults live in the recipe files, not here: a recipe must set every field that has no default. A field added later
must default to None, meaning "behave as before the field existed", so that existing run ids do not change.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stableft.catalog.tasks import REGRESSION_METRICS, Metric, TaskSpec, find_task
from stableft.text import seed_label

# Beyond these a value is a typo, or would fill memory or a disk before anybody sees a result.
MAX_STEPS = 10_000_000  # ten times BERT's pre-training; the history of so many takes 1 GB
MAX_EVALUATIONS = 100_000  # a record has a line of scores for each
MAX_BATCH = 1_000_000  # rows; MNLI has 400,000
MAX_LENGTH = 100_000  # tokens

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, lt=2**63)]
StepCount = Annotated[int, Field(ge=1, le=MAX_STEPS)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH)]
RowLength = Annotated[int, Field(ge=8, le=MAX_LENGTH)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Checkpoint = Literal["last", "best"]
Split = Literal["val", "test"]
Precision = Literal["fp32", "fp16", "bf16"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


def omitted_if_none() -> Any:
    """Return the default of a field that came later: None, which is not written, so that older hashes stay valid."""
    return Field(default=None, exclude_if=lambda value: value is None)


class ConfigSection(BaseModel):
    """Base of all config sections: frozen and strictly typed; rejects unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    example: ClassVar[str] = ""  # if non-empty, `set` and `grid` assign the section as a whole, not by key
    written_as: ClassVar[str] = ""  # key under which users write the section, if not the name of its field


class CustomTask(ConfigSection):
    """A user-provided data set. Files are identified by content hash, so identical files give identical run ids."""

    example: ClassVar[str] = "{name: ..., train: ..., validation: ..., text: ..., label: ...}"
    written_as: ClassVar[str] = "task"
    format: Literal["csv", "tsv", "jsonl"]
    train: Sha256
    validation: Sha256
    test: Sha256 | None = None
    text: tuple[str, ...] = Field(min_length=1, max_length=2)
    label: str
    labels: tuple[str, ...] = ()  # in class id order; empty: regression
    metrics: tuple[Metric, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_fit_metrics(self) -> Self:
        for metric in self.metrics:
            if (metric in REGRESSION_METRICS) != (not self.labels):
                kind = "a regression task (no labels)" if not self.labels else "a task with labels"
                raise ValueError(f"metric {metric!r} does not fit {kind}")
            if metric in ("f1", "accuracy_f1") and len(self.labels) != 2:
                raise ValueError(f"metric {metric!r} needs exactly two labels, not {len(self.labels)}")
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must be two or more different names")
        return self


class DataConfig(ConfigSection):
    """Training and evaluation rows, how they are split, and how they are tokenized."""

    task: str
    own: CustomTask | None = None
    split: Literal["dev", "heldout"]  # M: report on dev. Z sec. 3: validate on half of dev (or 1k training rows)
    train_rows: Count | None  # None: all; otherwise the size of a class-balanced sample
    sample_seed: Seed | None
    max_length: RowLength
    pad_to_max: bool
    segment_ids: bool  # False: token_type_ids are all zero, as in M's released code


class ModelStructure(ConfigSection):
    """Dotted paths of the parts of a transformers model, for a family that stableft does not know."""

    example: ClassVar[str] = "{blocks: [distilbert.transformer.layer], embeddings: [distilbert.embeddings]}"
    blocks: tuple[str, ...] = Field(min_length=1)  # module lists, lowest block first
    embeddings: tuple[str, ...] = ()
    pooler: str | None = None


class ModelConfig(ConfigSection):
    """The pre-trained checkpoint and how the model is run."""

    name: str  # hub name, or label of a local folder
    revision: str | None = None  # hub models only
    sha256: Sha256 | None = None  # hash of a local folder's contents; local models only
    dropout: Annotated[float, Field(ge=0, lt=1)] | None  # None: the checkpoint's value
    attention: Literal["eager", "sdpa"]
    head: Literal["stock", "paper"] | None = None  # paper: Z's head, for families where it differs from transformers'
    structure: ModelStructure | None = None

    @property
    def identity(self) -> tuple[str | None, ...]:
        """Return what names the weights: a local folder's hash, or a hub model's name and revision."""
        return (self.sha256,) if self.sha256 else (self.name, self.revision)


class StartFrom(ConfigSection):
    """Initialize from a finished run instead of the pre-trained checkpoint.

    This is intermediate-task training (Phang et al. 2018; Z sec. 7.1).
    """

    example: ClassVar[str] = "{recipe: zhang, task: mnli, seed: 0} or {run: ID, checkpoint: best}"
    run: RunId
    checkpoint: Literal["best", "last"]


class Reinit(ConfigSection):
    """Re-initialize the pooler and the top `blocks` blocks (Z sec. 5).

    Re-initializing the embeddings too amounts to training from scratch.
    """

    pooler: bool
    blocks: Annotated[int, Field(ge=0, lt=2**63)]
    embeddings: bool | None = None


class Mixout(ConfigSection):
    """Mixout: replace weights of Linear modules by their initial values with probability `p` (Z sec. 7.1).

    `granularity`: draw independently per `parameter` (Lee et al. 2020), or per `column` of the weight, i.e. per input
    feature (the released code). `scope`: every `linear` module, or only those with a dropout between the preceding
    Linear and them.
    """

    p: Annotated[float, Field(ge=0, le=1)]
    target: Literal["pretrained"]  # for freshly drawn weights (head, re-initialized blocks): the draw
    granularity: Literal["parameter", "column"]
    scope: Literal["linear", "after_dropout"]


class OptimizerConfig(ConfigSection):
    """AdamW with optional bias correction."""

    lr: Positive
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    eps: Positive
    bias_correction: bool
    eps_placement: Literal["before_correction", "after_correction"] | None
    weight_decay: Annotated[float, Field(ge=0)]
    decay_order: Literal["before", "after"] | None
    no_decay: tuple[str, ...]  # substrings of the names of parameters without weight decay
    clip_norm: Positive | None
    decay_towards: Literal["zero", "pretrained"] | None = None  # pretrained: the initial weights (Z sec. 7.1)
    decay_head: bool | None = None  # with `pretrained`: also decay the head, towards its initial draw
    llrd: Annotated[float, Field(gt=0, le=1)] | None = None  # learning rate of a block over that of the block above

    def normalized(self) -> Self:
        """Return a copy in which fields that have no effect take one fixed value, mostly None."""
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
    """Base of sections in which exactly one field must be set."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        names = list(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"give exactly one of {' and '.join(names)}")
        return self


class TrainingLength(ExactlyOne):
    """Length of training, in epochs or optimizer steps."""

    example: ClassVar[str] = "{epochs: 3} or {steps: 800}"
    epochs: StepCount | None = None
    steps: StepCount | None = None


class ScheduleConfig(ConfigSection):
    """Batch size, length of training, and learning-rate warm-up."""

    length: TrainingLength
    batch_size: BatchSize
    warmup: Annotated[float, Field(ge=0, le=1)] | None  # fraction of all optimizer steps
    warmup_steps: Annotated[int, Field(ge=0, le=MAX_STEPS)] | None = None  # alternative to `warmup` (Z Table 6)


class Cadence(ExactlyOne):
    """Evaluation frequency: `times` per run (Z), or about `per_epoch` times an epoch including its end (M)."""

    example: ClassVar[str] = "{times: 10} or {per_epoch: 3}"
    times: Annotated[int, Field(ge=1, le=MAX_EVALUATIONS)] | None = None
    per_epoch: Annotated[int, Field(ge=1, le=MAX_EVALUATIONS)] | None = None


class EvaluationConfig(ConfigSection):
    """When to evaluate, and how to select the best checkpoint."""

    every: Cadence
    at_start: bool
    select_by: tuple[Metric, ...] = Field(min_length=1)  # the first that is among the task's metrics
    batch_size: BatchSize


class ReportedEvaluation(ConfigSection):
    """The key of `evaluation` that is no part of `RunConfig`: both checkpoints are scored, whichever tables show."""

    report: Checkpoint


class ReportSettings(ConfigSection):
    """The settings that change a report and no run: they belong to the planned run, not to its config or id."""

    evaluation: ReportedEvaluation


class Seeds(ConfigSection):
    """`init` seeds the head and re-initialized blocks; `data` seeds batch order and dropout (Z App. B)."""

    init: Seed
    data: Seed

    @property
    def label(self) -> str:
        return seed_label(self.init, self.data)


class TrainingConfig(ConfigSection):
    """What fine-tuning and pre-training have in common."""

    if TYPE_CHECKING:  # each subclass declares these fields itself, because their order is that of the stored configs
        optimizer: OptimizerConfig
        schedule: ScheduleConfig
        precision: Precision
        seeds: Seeds

    @model_validator(mode="after")
    def _switches_have_values(self) -> Self:
        optimizer, schedule = self.optimizer, self.schedule
        if optimizer.bias_correction and optimizer.eps_placement is None:
            raise ValueError("optimizer.eps_placement must be set when optimizer.bias_correction is true")
        if optimizer.weight_decay and optimizer.decay_order is None:
            raise ValueError("optimizer.decay_order must be set when optimizer.weight_decay is not 0")
        if optimizer.decay_towards == "pretrained" and not optimizer.weight_decay:
            raise ValueError("optimizer.weight_decay must be above 0 when optimizer.decay_towards is pretrained")
        if schedule.warmup is None and schedule.warmup_steps is None:
            raise ValueError("schedule.warmup must be set when schedule.warmup_steps is null")
        if schedule.warmup is not None and schedule.warmup_steps is not None:
            raise ValueError("schedule.warmup_steps must be null when schedule.warmup is set, or the other way round")
        if schedule.length.steps is not None and (schedule.warmup_steps or 0) > schedule.length.steps:
            raise ValueError(
                f"schedule.warmup_steps {schedule.warmup_steps} is more than the {schedule.length.steps} steps of "
                "schedule.length"
            )
        return self


class RunConfig(TrainingConfig):
    """The complete config of a fine-tuning run."""

    data: DataConfig
    model: ModelConfig
    reinit: Reinit | None
    mixout: Mixout | None = None
    start_from: StartFrom | None = None
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    evaluation: EvaluationConfig
    precision: Precision
    # packed: compute on the tokens of a batch without padding. fused: also, each block as one operation. grouped: pad
    # the rows in four micro-batches, by length. None: padded; left out, as in older configs. A sweep that leaves it
    # open gets packed rows where the model is known to allow them (`sweep_file._default_execution`).
    execution: Literal["padded", "packed", "fused", "grouped"] | None = omitted_if_none()
    seeds: Seeds

    @property
    def run_id(self) -> str:
        """16 hex digits, equal for identical computations: fields that have no effect are ignored."""
        seeds = f'"seeds":{{"data":{self.seeds.data},"init":{self.seeds.init}}}'
        return short_digest(self._setting_text().replace('"seeds":0', seeds))

    def setting(self, ignored: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the nested values that identify the run, without its seeds and the dotted settings `ignored`."""
        values = _identifying_values(self)
        for key in ("seeds", *ignored):
            section, _, name = key.rpartition(".")
            (values[section] if section else values).pop(name, None)
        return values

    def setting_id(self, ignored: tuple[str, ...] = ()) -> str:
        """Return 16 hex digits, equal for runs that differ only in their seeds and in the dotted settings `ignored`."""
        return short_digest(self._setting_text(ignored).replace(',"seeds":0', ""))

    def _setting_text(self, ignored: tuple[str, ...] = ()) -> str:
        """Return the values of `setting` as canonical JSON with 0 for the seeds, once for all runs of a setting."""
        key = (self.model_dump_json(exclude={"seeds"}), ignored)
        if key not in _SETTING_TEXTS:
            _SETTING_TEXTS[key] = canonical_json(without_none({**self.setting(ignored), "seeds": 0}))
        return _SETTING_TEXTS[key]

    @property
    def task(self) -> TaskSpec:
        """The task of this run, whether built in or user-provided."""
        own = self.data.own
        if own is None:
            return find_task(self.data.task)
        return TaskSpec(self.data.task, self.data.task, own.text, own.labels, own.metrics)

    @property
    def reported_split(self) -> Literal["val", "test"]:
        """Split whose score tables show: the held-out test split if there is one, otherwise the validation split."""
        held_out = self.data.split == "heldout" or (self.data.own is not None and self.data.own.test is not None)
        return "test" if held_out else "val"

    @property
    def selection_metric(self) -> str:
        """Validation metric that selects the best checkpoint."""
        return next((m for m in self.evaluation.select_by if m in self.task.metrics), self.task.metric)

    def normalized(self) -> Self:
        """Return a copy in which fields that have no effect take one fixed value, mostly None."""
        values = self.model_dump()
        values["optimizer"] = self.optimizer.normalized().model_dump()
        if self.model.sha256 is not None:
            values["model"]["revision"] = None
        if self.model.head == "stock":
            values["model"]["head"] = None
        if self.mixout:
            if self.mixout.p == 1:
                values["mixout"]["granularity"] = "parameter"
            if self.mixout.p == 0:
                values["mixout"] = None
        if self.schedule.warmup_steps == 0:
            values["schedule"] |= {"warmup": 0.0, "warmup_steps": None}
        if self.data.train_rows is None:
            values["data"]["sample_seed"] = None
        if self.execution in ("packed", "fused", "grouped"):
            values["data"]["pad_to_max"] = False
        else:
            values["execution"] = None
        if self.execution == "fused":
            values["model"]["attention"] = "eager"
        values["evaluation"]["select_by"] = (self.selection_metric,)
        if self.reinit and not self.reinit.embeddings:
            values["reinit"]["embeddings"] = None
        if self.reinit and not any(values["reinit"].values()):
            values["reinit"] = None
        return type(self).model_validate(values)

    @model_validator(mode="after")
    def _sample_has_a_seed(self) -> Self:
        if self.data.train_rows is not None and self.data.sample_seed is None:
            raise ValueError("data.sample_seed must be set when data.train_rows is")
        return self

    @model_validator(mode="after")
    def _fused_blocks_compute_in_float32(self) -> Self:
        if self.execution == "fused" and (self.precision != "fp32" or (self.mixout and self.mixout.p > 0)):
            raise ValueError("execution: fused needs precision fp32 and no mixout; write packed")
        return self


# By the JSON of a config without its seeds: sweeps and reports ask for the ids of thousands of runs of a few settings.
_SETTING_TEXTS: dict[tuple[str, tuple[str, ...]], str] = {}


def short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def canonical_json(value: Any) -> str:
    """Return JSON that is identical for equal values: sorted keys, no spaces, shortest floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _identifying_values(config: RunConfig) -> dict:
    values = config.normalized().model_dump(mode="json")
    if config.model.sha256:
        del values["model"]["name"]
    if config.data.own:
        del values["data"]["task"]
    return values


def without_none(value: Any) -> Any:
    """Return the value without dict keys whose value is None, in nested dicts too."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return value


Share = Annotated[float, Field(gt=0, lt=1)]


class PretrainInput(ConfigSection):
    """A pre-training input: the toy language, or a file or folder by content hash.

    Users write `toylang` or a path.
    """

    example: ClassVar[str] = "folder"
    name: str
    sha256: Sha256 | None = None  # None: the toy language


class CorpusConfig(ConfigSection):
    """Size of the corpus, and the fraction that is held out."""

    pairs: StepCount | None = None  # toy-language passage pairs, including held-out ones; None for files
    held_out: Share  # fraction of documents (files) or pairs (toy language)
    seed: Seed  # seeds the toy corpus, the held-out choice and the held-out masks


class MaskingConfig(ConfigSection):
    """Which tokens to predict and how to corrupt them (BERT: share 0.15, masked 0.8, random 0.1)."""

    share: Share  # of a row's non-special tokens; rounded, at least one token
    masked: Annotated[float, Field(ge=0, le=1)]  # fraction of these replaced by [MASK]
    random: Annotated[float, Field(ge=0, le=1)]  # fraction replaced by a random non-special token; the rest are kept


class PretrainEvaluationConfig(ConfigSection):
    """When to compute the held-out loss."""

    every: Cadence
    at_start: bool
    batch_size: BatchSize


class PretrainConfig(TrainingConfig):
    """The complete config of a pre-training run."""

    text: PretrainInput
    vocabulary: PretrainInput
    corpus: CorpusConfig
    max_length: RowLength
    family: str
    model: dict[str, Any]  # values of the family's config class in transformers
    attention: Literal["eager", "sdpa"]
    masking: MaskingConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    evaluation: PretrainEvaluationConfig
    precision: Precision
    seeds: Seeds  # `init` seeds the weights; `data` seeds batch order, masks and dropout
    start_from: PretrainInput | None = None  # masked-language model of the same architecture; None: from scratch

    @property
    def run_id(self) -> str:
        """16 hex digits, equal for identical computations: file labels and fields that have no effect are ignored."""
        values = self.normalized().model_dump(mode="json")
        for key in ("text", "vocabulary", "start_from"):
            if values[key] and values[key]["sha256"]:
                del values[key]["name"]
        return short_digest(canonical_json(without_none(values)))

    def normalized(self) -> Self:
        """Return a copy in which fields that have no effect take one fixed value, mostly None."""
        changes: dict[str, Any] = {"optimizer": self.optimizer.normalized()}
        if self.text.sha256:
            changes["corpus"] = self.corpus.model_copy(update={"pairs": None})
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _methods_fit_pretraining(self) -> Self:
        if self.optimizer.llrd not in (None, 1.0):
            raise ValueError("optimizer.llrd is for fine-tuning: pre-training has one learning rate for all blocks")
        if self.optimizer.decay_towards == "pretrained":
            raise ValueError("optimizer.decay_towards: pretrained is for fine-tuning: pre-training decays towards zero")
        if self.masking.masked + self.masking.random > 1 + 1e-9:
            raise ValueError("masking.masked and masking.random must not be more than 1 together")
        if self.text.sha256 is None and self.corpus.pairs is None:
            raise ValueError("corpus.pairs must be set when text is toylang")
        return self


SHARE_TOLERANCE = 1e-9  # floating-point slack: 0.3 of 10 epochs must be 3


def has_reached_share(config: RunConfig, step: int, epoch: float, after: float) -> bool:
    """Return whether an evaluation is at or after the fraction `after` of training."""
    length = config.schedule.length
    share = epoch / length.epochs if length.epochs else step / (length.steps or 1)
    return share >= after - SHARE_TOLERANCE
