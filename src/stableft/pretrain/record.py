"""The record of a pre-training run."""

import math
from pathlib import Path

from stableft.config.run_config import PretrainConfig
from stableft.records.run_record import Environment, IdentifiedRecord, RecordSection

MODEL_FOLDER = "model"


class PretrainPoint(RecordSection):
    """One look at the held-out rows. `train_loss` is the mean over the steps since the one before (None at step 0)."""

    step: int
    epoch: float
    train_loss: float | None
    held_out_loss: float  # mean cross-entropy of a masked token, in nats
    held_out_accuracy: float  # share of the masked tokens that are found out
    seconds: float  # that this look took


class CorpusRecord(RecordSection):
    """Which text was used. A document is a pair of passages in the toy language; tokens include [CLS] and [SEP]."""

    fingerprint: str
    documents: int
    train_rows: int
    held_out_rows: int
    train_tokens: int
    held_out_tokens: int


class PretrainRecord(IdentifiedRecord):
    """The outcome of one pre-training."""

    name: str  # of its config file
    failed: bool  # the training loss was NaN or infinite, which ended it, or the last held-out loss was
    reason: str | None
    config: PretrainConfig
    evals: tuple[PretrainPoint, ...]
    steps: int
    skipped_steps: int
    tokens: int  # trained on, padding left out, each as often as it was seen
    tokens_per_second: float | None  # of the time outside the looks at held-out rows
    data: CorpusRecord
    environment: Environment
    seconds: float
    peak_memory_bytes: int | None  # on a GPU of this run, on a CPU of the process so far

    @property
    def held_out_loss(self) -> float | None:
        """The loss of the last look, or None if there was none."""
        return self.evals[-1].held_out_loss if self.evals else None

    @property
    def perplexity(self) -> float | None:
        """e to the power of the held-out loss."""
        loss = self.held_out_loss
        return None if loss is None else math.inf if loss > 700 else math.exp(loss)


def pretrain_folder(results: Path, run_id: str) -> Path:
    """Returns the folder of a pre-training, which may not exist yet."""
    return results / "pretrain" / run_id
