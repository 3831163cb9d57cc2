"""One pre-training is one frozen `PretrainConfig`, as one run is one `RunConfig`: all that can change a number."""

import hashlib
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stableft.config import (
    Cadence,
    Count,
    Digest,
    OptimizerConfig,
    Part,
    ScheduleConfig,
    Seed,
    Seeds,
    canonical_json,
    check_switches,
    check_warmup,
    without_none,
)

Share = Annotated[float, Field(gt=0, lt=1)]


class Origin(Part):
    """The toy language's own, or a file or folder by content hash; a user writes `toylang` or a path."""

    example: ClassVar[str] = "folder"
    name: str
    sha256: Digest | None = None  # None: of the toy language


class CorpusConfig(Part):
    """How much text there is, and how much of it is never trained on."""

    pairs: Count | None = None  # of passages that the toy language gives, held-out ones included; None for files
    held_out: Share  # of the documents of files, of the pairs of the toy language
    seed: Seed  # draws the toy corpus, which documents or pairs are held out, and their masks


class MaskingConfig(Part):
    """Which tokens are to be found out, and what stands in their place (BERT: 0.15, of which 0.8 and 0.1)."""

    share: Share  # of a row's tokens without special ones, rounded, at least one
    masked: Annotated[float, Field(ge=0, le=1)]  # of these: [MASK]
    random: Annotated[float, Field(ge=0, le=1)]  # of these: any token but special ones; the rest stay as they are


class PretrainEvaluation(Part):
    """When the held-out loss is taken."""

    every: Cadence
    at_start: bool
    batch_size: Count


class PretrainConfig(Part):
    """The whole truth about one pre-training."""

    text: Origin
    vocabulary: Origin
    corpus: CorpusConfig
    max_length: Annotated[int, Field(ge=8)]
    family: str
    model: dict[str, Any]  # the values of the family's own config class in transformers
    attention: Literal["eager", "sdpa"]
    masking: MaskingConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    evaluation: PretrainEvaluation
    precision: Literal["fp32", "fp16", "bf16"]
    seeds: Seeds  # `init` draws the weights; `data` the batch order, the masks and dropout
    start_from: Origin | None = None  # a masked-language model of the same architecture; None: fresh weights

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
