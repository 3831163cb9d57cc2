"""Counts operations whose result the CPU would wait for on a GPU, and copies to it."""

from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
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


class NumbersToDevice(TorchFunctionMode):
    """Collects the sizes of tensors that are made of Python numbers, on the CPU, and copied to another device."""

    def __init__(self, sizes: list[tuple[int, ...]]):
        super().__init__()
        self.sizes = sizes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Call the function and note the copy."""
        output = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and output.device.type != "cpu":
            self.sizes.append(tuple(output.shape))
        return output


class CopiesToDevice(TorchDispatchMode):
    """Collects the sizes of tensors that are copied from the CPU to the device "meta", in a backward pass too."""

    def __init__(self):
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []
        self.numbers = NumbersToDevice(self.sizes)  # whose copies torch hides from here

    def __enter__(self):
        """Start to collect."""
        self.numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any):
        """Stop collecting."""
        super().__exit__(*error)
        self.numbers.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        """Note the copies and run the operation, but for the optimizer's, which has no kernel for this device."""
        if func.overloadpacket is aten._fused_adamw_:
            return None
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and output.device.type != "cpu":
            self.sizes += [tuple(x.shape) for x in args if isinstance(x, torch.Tensor) and x.device.type == "cpu"]
        return output
