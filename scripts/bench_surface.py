"""What a loss surface costs beyond bare passes of the same model over the same batches.

    scripts/bench surface [--config demo] [--set model=FOLDER] [--data-dir GLUE] [--points 40] [--examples 128]
                          [--rows 32] [--loss-only] [--device cpu]

The real loop of `stableft probe surface` measures a grid of points x points (and 22 points besides), keeping its
points on disk as it does; between two points a bare forward (and backward) pass goes over the same batches with a model
of its own that has the same weights, so that both see the same machine and the same numbers (subnormal ones are slow on
a CPU). The two fine-tuned models are the pre-trained one with noise. Printed: the ratio of the total times, and the
median of the ratios.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from stableft.config.planned_run import Execution, LocalPaths, PlannedRun
from stableft.config.sweep_file import load_sweep
from stableft.data.tokens import load_splits
from stableft.models.build import build_model
from stableft.models.load import load_tokenizer
from stableft.probes.loss_surface import (
    Batch,
    LossAndNorm,
    SurfaceRequest,
    SurfaceRuns,
    SurfaceSetup,
    make_batches,
    measure_surface,
    prepare_surface,
)
from stableft.records.run_record import RunRecord
from stableft.training.evaluate import loss_sum


def made_up_work(
    run: PlannedRun, sources: LocalPaths, request: SurfaceRequest, folder: Path, execution: Execution
) -> SurfaceSetup:
    """Returns a surface between two models that are the run's pre-trained one with noise."""
    config = run.config.normalized()
    model, pretrained = build_model(config, sources)
    data = load_splits(config, sources, load_tokenizer(config, sources)).record
    environment = None if pretrained.commit is None else argparse.Namespace(model_commit=pretrained.commit)

    def with_noise(name: str, seed: int) -> tuple[RunRecord, Path]:
        noise, path = torch.Generator().manual_seed(seed), folder / f"{name}.safetensors"
        weights = {key: w + 0.01 * torch.randn(w.shape, generator=noise) for key, w in model.state_dict().items()}
        save_file(weights, path)
        return RunRecord.model_construct(run_id=name, config=config, data=data, environment=environment), path

    failed, failed_weights = with_noise("failed", 0)
    successful, successful_weights = with_noise("successful", 1)
    pair = SurfaceRuns(failed, successful, failed_weights, successful_weights, head_seed=1)
    return prepare_surface(request, pair, folder, sources, execution)


def bare_pass(model: torch.nn.Module, batches: list[Batch], backward: bool) -> float:
    """Returns the seconds of a pass over the batches."""
    start = time.perf_counter()
    rows, total = sum(len(batch["labels"]) for batch in batches), 0.0
    with torch.set_grad_enabled(backward):
        for batch in batches:
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            loss = loss_sum(model(**inputs).logits, batch["labels"]) / rows
            if backward:
                loss.backward()
            total = total + loss.detach()
    float(total)  # waits for a GPU
    model.zero_grad(set_to_none=True)  # here, or the memory of these gradients would be missing from the other's pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--loss-only", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    sweep = load_sweep(options.config, LocalPaths(data_dir=options.data_dir), options.sets)
    run, sources = sweep.runs[0], sweep.sources
    request = SurfaceRequest(
        "failed", "successful", points=options.points, examples=options.examples, loss_only=options.loss_only
    )
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        execution = Execution(options.device, micro_batch=options.rows)
        work = made_up_work(run, sources, request, Path(folder), execution)
        model = build_model(run.config.normalized(), sources)[0].eval().to(work.device)  # pyright: ignore[reportArgumentType]
        batches = make_batches(
            work.rows, work.example_indices, work.config, work.inputs, work.device, work.rows_at_once
        )
        for _ in range(3):
            bare_pass(model, batches, not options.loss_only)
        since = time.perf_counter()

        def between(done: int, _: LossAndNorm) -> None:
            nonlocal since
            ours.append(time.perf_counter() - since)
            with torch.no_grad():
                for own, theirs in zip(model.parameters(), work.plane.model.parameters(), strict=True):
                    own.copy_(theirs)
            bare.append(bare_pass(model, batches, not options.loss_only))
            if done % max(len(work.points) // 10, 1) == 0:
                ratio = sum(ours) / sum(bare)
                times = f"bare {1e3 * bare[-1]:.1f} ms, a point {1e3 * ours[-1]:.1f} ms"
                print(f"{done}/{len(work.points)}: {times}, ratio so far {ratio:.3f}", flush=True)
            since = time.perf_counter()

        measure_surface(work, None, between, lambda: False)
    pairs = [one / other for one, other in zip(ours, bare, strict=True)]
    what = "forward" if options.loss_only else "forward-backward"
    print(
        f"{len(ours)} points / {len(bare)} bare {what} passes of {run.config.model.name} on {options.device}: "
        f"{sum(ours) / sum(bare):.3f} in total time, median {statistics.median(pairs):.3f}"
    )


if __name__ == "__main__":
    main()
