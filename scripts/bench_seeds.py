"""Would N seeds trained as one model be faster than runs one by one? On the demo's model, against `packed` and `fused`.

    scripts/bench seeds [--seeds 1 4 8 20] [--rounds 7] [--updates 24] [--threads 1] [--out FILE.json]

The stacked model is as good as it gets: weights of all seeds in one tensor each, matrix products by batch, the fused
blocks' operations and written-out gradients, one Adam call. A seed's dropout masks come from a counter-based generator
(key: seed, counter: update), so that they do not depend on the seeds beside it. Sides take turns in one process; times
are those of the processor, an update and a seed. The demo's figure adds up the updates and evaluations of its runs,
which leaves out what is the same on all sides: to start, to finish, to report.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import torch
from timing import describe_machine
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.optim.adamw import adamw

from stableft.config.planned_run import Execution, LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.data.tokens import LabeledRows, collate
from stableft.training.outputs import evaluate_model
from stableft.training.setup import batch_indices, prepare_run
from stableft.training.step import learning_rate, train_on_batch

aten = torch.ops.aten
PARTS = ("attention.output.dense", "intermediate.dense", "output.dense")
DROPPED = round(0.1 * 2**16)


class Masks:
    """The dropout masks of one update, float32 [seeds, numbers], given out in turn."""

    def __init__(self, seeds: list[int], update: int, numbers: int):
        raw = np.empty((len(seeds), -(-numbers // 4) * 4), np.int16)
        for row, seed in zip(raw, seeds, strict=True):
            row[:] = np.random.Philox(key=seed, counter=update << 64).random_raw(len(row) // 4).view(np.int16)
        self.numbers = (torch.from_numpy(raw) >= DROPPED - 2**15) * (2**16 / (2**16 - DROPPED))
        self.used = 0

    def take(self, like: Tensor) -> Tensor:
        count = like.numel() // len(self.numbers)
        self.used += count
        return self.numbers[:, self.used - count : self.used].reshape(like.shape)


class Block(torch.autograd.Function):
    """A fused block for tokens [seeds, tokens, size]; weights are [seeds, in, out], biases [seeds, 1, out]."""

    @staticmethod
    def forward(ctx, x, w, b, wo, bo, s1, b1, wu, bu, wd, bd, s2, b2, hidden, places, into, back, masks):
        size = x.shape[2]
        head, batch, width = w.shape[2] // 3 // 2, hidden.shape[0], hidden.shape[2]
        qkv = torch.baddbmm(b, x, w).view(-1, head)
        q, k, v = padded = qkv.index_select(0, into).view(3, batch, width, head)
        shares = torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=head**-0.5).softmax(-1)
        keep = [None] * 3 if masks is None else [masks.take(shares), None, None]
        seen = shares if masks is None else shares * keep[0]
        taken = torch.bmm(seen, v).view(-1, head).index_select(0, places).view_as(x)

        def close(inputs, weight, bias, residual, scale, shift, number):
            total = torch.baddbmm(bias, inputs, weight)
            if masks is not None:
                keep[number] = masks.take(total)
                total.mul_(keep[number])
            normed, mean, inverse = torch.native_layer_norm(total.add_(residual), (size,), None, None, 1e-12)
            return torch.addcmul(shift, normed, scale), (total, mean, inverse, normed)

        middle, stats1 = close(taken, wo, bo, x, s1, b1, 1)
        up = torch.baddbmm(bu, middle, wu)
        active = functional.gelu(up)
        y, stats2 = close(active, wd, bd, middle, s2, b2, 2)
        tensors = (x, w, wo, s1, wu, wd, s2, padded, shares, seen, taken, middle, up, active, places, back)
        ctx.save_for_backward(*tensors, *stats1, *stats2, *keep)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, w, wo, s1, wu, wd, s2, padded, shares, seen, taken, middle, up, active, places, back, *rest = (
            ctx.saved_tensors
        )
        stats, keep = (rest[:4], rest[4:8]), rest[8:]
        q, k, v = padded
        head = q.shape[2]

        def open_norm(d, scale, number):
            total, mean, inverse, normed = stats[number - 1]
            d_scale, d_shift = (d * normed).sum(1, keepdim=True), d.sum(1, keepdim=True)
            d_sum = aten.native_layer_norm_backward(
                d * scale, total, total.shape[-1:], mean, inverse, None, None, (True, False, False)
            )[0]
            return d_sum, d_sum if keep[number] is None else d_sum * keep[number], d_scale, d_shift

        def linear(inputs, d):
            return torch.bmm(inputs.transpose(1, 2), d), d.sum(1, keepdim=True)

        d_sum2, d, *d_norm2 = open_norm(gradient, s2, 2)
        d_down = linear(active, d)
        d = aten.gelu_backward(torch.bmm(d, wd.transpose(1, 2)), up)
        d_up = linear(middle, d)
        d_sum1, d, *d_norm1 = open_norm(torch.baddbmm(d_sum2, d, wu.transpose(1, 2)), s1, 1)
        d_out = linear(taken, d)
        d = torch.bmm(d, wo.transpose(1, 2)).view(-1, head)
        d = torch.zeros_like(q).view(-1, head).index_copy_(0, places, d).view_as(q)
        d_padded = torch.empty_like(padded)
        torch.bmm(seen.transpose(1, 2), d, out=d_padded[2])
        d = torch.bmm(d, v.transpose(1, 2))
        d = aten._softmax_backward_data(d if keep[0] is None else d.mul_(keep[0]), shares, -1, shares.dtype)
        d.mul_(head**-0.5)
        torch.bmm(d, k, out=d_padded[0])
        torch.bmm(d.transpose(1, 2), q, out=d_padded[1])
        d = d_padded.view(-1, head).index_select(0, back).view(*x.shape[:2], -1)
        d_x = torch.baddbmm(d_sum1, d, w.transpose(1, 2))
        return d_x, *linear(x, d), *d_out, *d_norm1, *d_up, *d_down, *d_norm2, *(None,) * 5


class StackedModel:
    """The demo's BERT with the weights of several seeds, and AdamW over them."""

    def __init__(self, jobs: list):
        self.jobs, self.count = jobs, len(jobs)
        named = [dict(state.model.named_parameters()) for _, state in jobs]
        stack = {name: torch.stack([weights[name].detach() for weights in named]) for name in named[0]}

        def linear(*names: str) -> tuple[Tensor, Tensor]:
            weight = torch.cat([stack[f"{name}.weight"] for name in names], 1).transpose(1, 2).contiguous()
            return weight, torch.cat([stack[f"{name}.bias"] for name in names], 1)[:, None].contiguous()

        def norm(name: str) -> tuple[Tensor, Tensor]:
            return stack[f"{name}.weight"][:, None].contiguous(), stack[f"{name}.bias"][:, None].contiguous()

        self.tables = [stack[f"bert.embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type")]
        self.norm = norm("bert.embeddings.LayerNorm")
        self.blocks = []
        for i in range(jobs[0][1].model.config.num_hidden_layers):
            name = f"bert.encoder.layer.{i}."
            attention = linear(*(f"{name}attention.self.{part}" for part in ("query", "key", "value")))
            out, up, down = (linear(name + part) for part in PARTS)
            norm1, norm2 = norm(f"{name}attention.output.LayerNorm"), norm(f"{name}output.LayerNorm")
            self.blocks.append((*attention, *out, *norm1, *up, *down, *norm2))
        self.pooler, self.head = linear("bert.pooler.dense"), linear("classifier")
        blocks = [weight for block in self.blocks for weight in block]
        self.weights = [*self.tables, *self.norm, *blocks, *self.pooler, *self.head]
        for weight in self.weights:
            weight.requires_grad_()
        self.moments = [[torch.zeros_like(weight) for weight in self.weights] for _ in range(2)]
        self.steps = [torch.tensor(0.0) for _ in self.weights]

    def logits(self, rows: LabeledRows, indices: list[np.ndarray], update: int | None) -> Tensor:
        """Return [seeds, rows, classes]. `update` None: without dropout."""
        seeds, heads = self.count, 2
        lengths = np.stack([rows.offsets[i + 1] - rows.offsets[i] for i in indices])
        real, width = lengths.sum(1), int(lengths.max())
        fillers = -(-int(real.max() - real.min() + 8) // width)
        tokens = -(-int(real.max() + fillers) // 8) * 8  # of each seed: fillers make up the difference
        fill = tokens - real
        fillers = max(fillers, -(-int(fill.max()) // width))
        filling = fill[:, None] // fillers + (np.arange(fillers) < (fill % fillers)[:, None])
        row_lengths = np.concatenate([lengths, filling], 1).ravel()
        begins = np.cumsum(row_lengths) - row_lengths
        columns = np.arange(seeds * tokens) - np.repeat(begins, row_lengths)
        ids = np.zeros((3, seeds, tokens), np.int64)
        ids[1] = columns.reshape(seeds, tokens)
        for k, chosen in enumerate(indices):
            spans = np.concatenate([np.arange(rows.offsets[i], rows.offsets[i + 1]) for i in chosen])
            ids[0, k, : len(spans)], ids[2, k, : len(spans)] = rows.input_ids[spans], rows.segment_ids[spans]
        visible = torch.from_numpy(np.arange(width) < row_lengths[:, None])
        cells = torch.from_numpy(begins[:, None] + np.where(visible.numpy(), np.arange(width), 0))
        places, head, part = visible.flatten().nonzero()[:, 0], torch.arange(heads), torch.arange(3)[:, None]
        places = ((places // width)[:, None] * heads + head) * width + (places % width)[:, None]
        into = ((cells * 3 + part[:, None])[:, :, None] * heads + head[:, None]).flatten()
        back = (places[:, None] + part * (len(cells) * heads * width)).flatten()
        hidden = torch.zeros(visible.shape).masked_fill_(~visible, -inf)
        hidden = hidden[:, None].expand(-1, heads, -1).reshape(-1, 1, width)
        masks, size = None, self.tables[0].shape[2]
        if update is not None:
            attention = (len(indices[0]) + fillers) * heads * width**2
            numbers = len(self.blocks) * (attention + 2 * tokens * size) + tokens * size + len(indices[0]) * size
            masks = Masks([job.config.seeds.data for job, _ in self.jobs], update, numbers)
        offsets = torch.arange(seeds)[:, None]
        x = sum(
            functional.embedding(torch.from_numpy(i) + offsets * table.shape[1], table.flatten(0, 1))
            for i, table in zip(ids, self.tables, strict=True)
        )
        assert isinstance(x, Tensor)
        x = torch.addcmul(self.norm[1], functional.layer_norm(x, (size,), eps=1e-12), self.norm[0])
        x = x if masks is None else x * masks.take(x)
        for block in self.blocks:
            x = Block.apply(x, *block, hidden, places.flatten(), into, back, masks)
        first = begins.reshape(seeds, -1)[:, : len(indices[0])].ravel()
        x = x.flatten(0, 1).index_select(0, torch.from_numpy(first)).view(seeds, -1, size)
        x = torch.baddbmm(self.pooler[1], x, self.pooler[0]).tanh()
        x = x if masks is None else x * masks.take(x)
        return torch.baddbmm(self.head[1], x, self.head[0])

    def update(self, number: int) -> Tensor:
        """Take one update of every seed and return the losses."""
        setup = self.jobs[0][0]
        rows, config = setup.splits.train, setup.config
        indices = [batch_indices(job, number) for job, _ in self.jobs]
        labels = torch.from_numpy(np.stack([rows.labels[i] for i in indices]))
        logits = self.logits(rows, indices, number)
        losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(self.count, -1)
        losses.mean(1).sum().backward()
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        for g in gradients:
            g.mul_((1 / (norms + 1e-6)).clamp(max=1).view(-1, *[1] * (g.dim() - 1)))
        lr = learning_rate(config, number, setup.total)
        with torch.no_grad():
            adamw(
                self.weights, gradients, *self.moments, [], self.steps, fused=True, amsgrad=False, maximize=False,
                beta1=0.9, beta2=0.999, lr=lr, weight_decay=0.0, eps=config.optimizer.eps,
            )  # fmt: skip
            torch._foreach_mul_(self.weights, 1 - lr * config.optimizer.weight_decay)  # pyright: ignore
        for weight in self.weights:
            weight.grad = None
        return losses.detach().mean(1)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Return the logits of the validation rows, in batches of the demo's size for all seeds together."""
        rows = self.jobs[0][0].splits.val
        order = np.argsort(-np.diff(rows.offsets), kind="stable")
        size = max(1, self.jobs[0][0].config.evaluation.batch_size // self.count)
        batches = [order[start : start + size] for start in range(0, len(rows), size)]
        return torch.cat([self.logits(rows, [batch] * self.count, None) for batch in batches], 1)


def check_equality(model: StackedModel) -> float:
    """Return the largest difference between a stacked seed's logits and those of the seed's own model."""
    worst = 0.0
    with torch.no_grad():
        stacked = model.logits(model.jobs[0][0].splits.train, [np.arange(16)] * model.count, None)
        for logits, (job, state) in zip(stacked, model.jobs, strict=True):
            batch = collate(job.splits.train, np.arange(16), job.inputs, job.config.data)
            batch.pop("labels")
            worst = max(worst, float((state.model.eval()(**batch).logits - logits).abs().max()))
            state.model.train()
    return worst


def measure(options: argparse.Namespace, count: int) -> dict:
    """Return milliseconds of an update and an evaluation, a seed, by side, and what they come to for the demo."""
    sweep = load_sweep("configs/demo.yaml", LocalPaths())
    runs = load_sweep("configs/demo.yaml", LocalPaths(), arms=["mosbach"], seeds=f"26-{25 + count}").runs
    how = Execution("cpu", options.threads)
    with tempfile.TemporaryDirectory() as name:

        def prepare(number: int, execution: str) -> tuple:
            config = runs[number].config.model_copy(update={"execution": execution})
            return prepare_run(replace(runs[number], config=config), Path(name), sweep.sources, how)

        stacked = StackedModel([prepare(number, "packed") for number in range(count)])
        alone = {execution: prepare(0, execution) for execution in ("packed", "fused")}
    worst = check_equality(stacked)

    def train(job, state) -> None:
        lr = learning_rate(job.config, state.step, job.total)
        indices = batch_indices(job, state.step)
        train_on_batch(state, job.splits.train, indices, job.config, lr, job.inputs, job.device)

    def clock(call: Callable[[int], object], times: int, each: int = 1) -> float:
        start = time.process_time()
        for number in range(times):
            call(number)
        return 1e3 * (time.process_time() - start) / times / each

    rounds: list[dict[str, float]] = []
    updates = max(2, options.updates // count)
    for _ in range(options.rounds + 1):  # the first warms up
        ms = {"stacked": clock(stacked.update, updates, count)}
        ms |= {side: clock(lambda _, job=job: train(*job), options.updates) for side, job in alone.items()}
        ms["stacked, evaluation"] = clock(lambda _: stacked.evaluate(), 1, count)
        for side, (job, state) in alone.items():
            ms[f"{side}, evaluation"] = clock(lambda _, j=job, s=state: evaluate_model(j, s, j.splits.val), 1)
        rounds.append(ms)
    del rounds[0]
    evaluations = sum(run.config.evaluation.every.times or 0 for run in sweep.runs)
    taken = [run.config.schedule.length.epochs * -(-400 // run.config.schedule.batch_size) for run in sweep.runs]

    def demo(ms: dict[str, float], side: str) -> float:
        return (sum(taken) * ms[side] + evaluations * ms[f"{side}, evaluation"]) / 1e3

    medians = {key: round(statistics.median(ms[key] for ms in rounds), 2) for key in rounds[0]}
    found = {"seeds": count, "largest difference of logits": worst, "ms": medians}
    for side in ("packed", "fused"):
        found[f"update, {side} / stacked"] = round(statistics.median(ms[side] / ms["stacked"] for ms in rounds), 2)
        ratio = statistics.median(demo(ms, side) / demo(ms, "stacked") for ms in rounds)
        found[f"demo's updates and evaluations, {side} / stacked"] = round(ratio, 2)
    ratio = statistics.median(demo(ms, "packed") / demo(ms, "fused") for ms in rounds)
    found["demo's updates and evaluations, packed / fused"] = round(ratio, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 4, 8, 20])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=24, help="of each side and round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {"machine": describe_machine("cpu"), "threads": options.threads, "measured": []}
    for count in options.seeds:
        found["measured"].append(measure(options, count))
        print(json.dumps(found["measured"][-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
