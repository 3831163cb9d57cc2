"""Record updates as CUDA graphs and replay them, which spares the CPU some 2,000 kernel launches an update.

Launches, not arithmetic, bound an update of BERT-large on a fast GPU. A graph holds one whole update, from the forward
pass to the optimizer, for one shape of batch. Its inputs lie at fixed addresses, and so does all that it changes:
weights, moments, step counts, learning rates and the loss scale. Replaying it gives the same bits as the launches.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_GRAPHS = 32  # of shapes of batches; each has thousands of kernels, and takes seconds to record
Batch = dict[str, Tensor]
UpdateNumbers = tuple[Tensor | None, ...]
UpdateFunction = Callable[[Sequence[Batch]], UpdateNumbers]


@dataclass(frozen=True)
class RecordedUpdate:
    """A graph with the tensors that it reads its micro-batches from and writes its results to."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Batch]
    numbers: UpdateNumbers


@dataclass
class RecordedUpdates:
    """The updates recorded during a run, by the shape of their micro-batches."""

    device: torch.device
    recorded: dict[Hashable, RecordedUpdate] = field(default_factory=dict)
    seen: set[Hashable] = field(default_factory=set)  # shapes that were run without a graph, which sets up libraries
    given_up: bool = False  # after memory ran out

    def run(self, batches: Sequence[Batch], variant: Hashable, update: UpdateFunction) -> UpdateNumbers | None:
        """Run the update on micro-batches that are on the CPU, or return None if the caller must.

        A shape is recorded at its second occurrence. `update` gets the micro-batches on the device and returns numbers
        that stay there; `variant` distinguishes updates that do something else on batches of the same shape.
        """
        shapes = tuple(tuple((name, *tensor.shape) for name, tensor in batch.items()) for batch in batches)
        key = (variant, shapes)
        may_record = not self.given_up and key in self.seen and len(self.recorded) < MAX_GRAPHS
        if key not in self.recorded and not (may_record and self._record(key, batches, update)):
            self.seen.add(key)
            return None
        recorded = self.recorded[key]
        for static, batch in zip(recorded.inputs, batches, strict=True):
            for name, tensor in batch.items():
                static[name].copy_(tensor.pin_memory(), non_blocking=True)
        recorded.graph.replay()
        return tuple(None if number is None else number.clone() for number in recorded.numbers)

    def give_up(self) -> bool:
        """Free the graphs and their memory, and record no more. Return whether there were any."""
        had_any = bool(self.recorded)
        self.given_up = True
        self.recorded.clear()
        torch.cuda.empty_cache()
        return had_any

    def _record(self, key: Hashable, batches: Sequence[Batch], update: UpdateFunction) -> bool:
        """Record an update without running it. Return False if that fails."""
        random, stream = torch.cuda.get_rng_state(self.device), torch.cuda.current_stream(self.device)
        graph = torch.cuda.CUDAGraph()
        # All graphs share one pool of memory: they run one after another and keep nothing in it but their results.
        pool = next(iter(self.recorded.values())).graph.pool() if self.recorded else None
        try:
            inputs = [{name: tensor.to(self.device) for name, tensor in batch.items()} for batch in batches]
            with torch.cuda.graph(graph, pool=pool):
                numbers = update(inputs)
        except RuntimeError as error:  # out of memory, or an operation that cannot be recorded
            reason = str(error).partition("\n")[0]
            logging.getLogger(__name__).warning("an update could not be recorded, so none will be (%s)", reason)
        else:
            self.recorded[key] = RecordedUpdate(graph, inputs, numbers)
            return True
        # Outside the handler: inside, the exception's traceback keeps the activations alive.
        torch.cuda.set_stream(stream)  # which the end of a failed recording does not restore
        _restore_generator(self.device, random)
        self.give_up()
        return False


def _restore_generator(device: torch.device, state: Tensor) -> None:
    """Give the device's default generator this state; a failed recording leaves it unusable."""
    fresh = torch.Generator(device)
    fresh.set_state(state)
    torch.cuda.default_generators[device.index or 0].graphsafe_set_state(fresh.graphsafe_get_state())
