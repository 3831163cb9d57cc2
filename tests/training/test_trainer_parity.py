"""The same 20 updates by stableft and by the Hugging Face Trainer, from the same weights on the same batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_runs import add_model_folder, read_history, train_run
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, Trainer, TrainingArguments

from stableft.config.planned_run import Execution
from stableft.data.tokens import collate
from stableft.training.setup import batch_indices, prepare_run

pytestmark = pytest.mark.slow
STEPS = 20
SETTINGS = {
    "model.dropout": 0.0,
    "schedule.length": {"steps": STEPS},
    "schedule.warmup": 0.2,
    "evaluation.every": {"times": 1},
    "optimizer.bias_correction": True,
    "optimizer.eps_placement": "after_correction",
    "optimizer.decay_order": "before",
}


@pytest.fixture(scope="module")
def six_blocks(tmp_path_factory, tiny_tokenizer) -> Path:
    """Returns a folder with a random BERT of MiniLM's shape: 6 blocks, 384 wide."""
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = BertConfig(vocab_size=len(tiny_tokenizer), max_position_embeddings=64, pad_token_id=0, **shape)
    folder = tmp_path_factory.mktemp("six-blocks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


class Batches(Dataset):
    """The rows of every update, in the order in which stableft takes them: item i is the i-th row of all."""

    def __init__(self, job):
        self.job = job
        self.rows = np.concatenate([batch_indices(job, step) for step in range(job.total)])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> int:
        return int(self.rows[i])

    def collate(self, rows: list[int]) -> dict[str, torch.Tensor]:
        return collate(self.job.splits.train, np.array(rows), self.job.inputs, self.job.config.data)


class Listener(Trainer):
    """The Trainer, with its losses kept unrounded and its batches in the given order."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses: list[float] = []
        self.rates: list[float] = []

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return loss


def trainer_losses(job, state, folder: Path) -> tuple[list[float], list[float]]:
    model = AutoModelForSequenceClassification.from_config(state.model.config, attn_implementation="eager")
    model.load_state_dict(state.model.state_dict())
    optimizer = job.config.optimizer
    batches = Batches(job)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=job.config.schedule.batch_size,
        max_steps=STEPS,
        learning_rate=optimizer.lr,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.clip_norm,
        lr_scheduler_type="linear",
        warmup_steps=int(job.config.schedule.warmup * STEPS),
        optim="adamw_torch",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    trainer = Listener(model=model, args=arguments, data_collator=batches.collate, train_dataset=batches)
    trainer.train()
    return trainer.losses, trainer.rates


@pytest.mark.parametrize("which", ["tiny", "six blocks"])
@pytest.mark.parametrize("lr", [1e-3, 5e-5])
def test_losses_equal_those_of_the_trainer(toy_run, toy_sources, tiny_model_folder, six_blocks, tmp_path, which, lr):
    folder = tiny_model_folder if which == "tiny" else six_blocks
    sources, digest = add_model_folder(toy_sources, folder)
    run = toy_run(**{**SETTINGS, "model.sha256": digest, "optimizer.lr": lr})
    job, state = prepare_run(run, tmp_path, sources, Execution(threads=1))
    theirs, rates = trainer_losses(job, state, tmp_path / "trainer")
    train_run(run, tmp_path, sources)
    lines = read_history(tmp_path, run)
    assert len(theirs) == len(lines) == STEPS
    assert [line["loss"] for line in lines] == pytest.approx(theirs, rel=1e-4)
    assert [line["lr"] for line in lines] == pytest.approx(rates, rel=1e-6)
    assert rates[0] == 0
    assert any(line["grad_norm"] > 1 for line in lines) or which == "tiny"  # there was something to clip
    assert abs(theirs[-1] - theirs[0]) > 1e-3  # and something was learnt, which is what is compared
