"""Counts operations whose result the CPU would wait for on a GPU."""

from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Each returns a Python number, or a tensor whose shape depends on the values. A deterministic `index_add`, the gradient
# of `index_select`, checks its indices.
HOST_READS = (
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.item,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.unique_dim_consecutive,
    aten.index_add,
    aten.index_add_,
)


class HostReads(TorchDispatchMode):
    """Counts such operations by name while it is active, in a backward pass too. Gradients are clipped as on a GPU."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.clipping = mock.patch("stableft.training.step._is_short", return_value=False)

    def __enter__(self):
        """Start to count."""
        self.clipping.start()
        return super().__enter__()

    def __exit__(self, *error: Any):
        """Stop counting."""
        self.clipping.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Count the operation and run it."""
        packet = func.overloadpacket
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if packet in HOST_READS or by_mask:
            self.counts[packet.__name__] += 1
        return func(*args, **(kwargs or {}))
