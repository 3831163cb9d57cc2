"""The record of a pre-training run."""

import math
from pathlib import Path

from stableft.config.run_config import PretrainConfig, omitted_if_none
from stableft.records.run_record import Environment, IdentifiedRecord, RecordSection

MODEL_FOLDER = "model"


class PretrainPoint(RecordSection):
    """One evaluation on the held-out rows. `train_loss` is the mean since the previous one (None at step 0)."""

    step: int
    epoch: float
    train_loss: float | None
    held_out_loss: float  # mean cross-entropy of a masked token, in nats
    held_out_accuracy: float  # fraction of masked tokens predicted correctly
    seconds: float  # that this evaluation took


class CorpusRecord(RecordSection):
    """The text that was used. A document is a pair of passages in the toy language; tokens include [CLS] and [SEP]."""

    fingerprint: str
    documents: int
    train_rows: int
    held_out_rows: int
    train_tokens: int
    held_out_tokens: int


class PretrainRecord(IdentifiedRecord):
    """The outcome of a pre-training run."""

    name: str  # of its config file
    failed: bool  # the training loss or the last held-out loss was NaN or infinite
    reason: str | None
    config: PretrainConfig
    evals: tuple[PretrainPoint, ...]
    steps: int
    skipped_steps: int
    tokens: int  # seen in training, without padding; a token counts each time
    tokens_per_second: float | None  # excluding evaluations
    data: CorpusRecord
    environment: Environment
    seconds: float
    peak_memory_bytes: int | None  # GPU: of this run; CPU: of the process so far
    commits: tuple[str, ...] | None = omitted_if_none()  # as in a `RunRecord`
    files: dict[str, str] | None = omitted_if_none()

    @property
    def held_out_loss(self) -> float | None:
        """The held-out loss of the last evaluation, or None without evaluations."""
        return self.evals[-1].held_out_loss if self.evals else None

    @property
    def perplexity(self) -> float | None:
        """Exponential of the held-out loss."""
        loss = self.held_out_loss
        return None if loss is None else math.inf if loss > 700 else math.exp(loss)


def pretrain_folder(results: Path, run_id: str) -> Path:
    """Return the folder of a pre-training run, which may not exist yet."""
    return results / "pretrain" / run_id
