"""Random initialization: of every run's classifier, and of Re-init's pooler and top blocks (Z sec. 5).

Uses torch's init functions with an explicit generator. transformers' own initializer skips weights that were loaded.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from stableft.catalog.model_families import BackboneSpec
from stableft.config.run_config import Reinit
from stableft.errors import UserError

# Unlike other attention modules it holds its parameters (matrices, biases, segment vectors) directly.
XLNET_ATTENTION = "XLNetRelativeAttention"


def draw_weights(module: nn.Module, std: float, generator: torch.Generator, keep_norms: bool = False) -> None:
    """Re-initialize the weights of `module`, following the families' own initializers.

    Linear and GPT-2's transposed Linear: N(0, std^2), bias 0. Embedding: N(0, std^2), 0 for the padding token.
    LayerNorm: weight 1, bias 0, unchanged with `keep_norms`. XLNet's attention: everything N(0, std^2).

    Raises:
        UserError: The module has parameters for which there is no rule.
    """
    check_drawable([module])
    for part in module.modules():
        if isinstance(part, nn.Linear | Conv1D):
            nn.init.normal_(part.weight, 0.0, std, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, 0.0, std, generator=generator)
            if part.padding_idx is not None:
                nn.init.zeros_(part.weight[part.padding_idx])
        elif isinstance(part, nn.LayerNorm):
            if not keep_norms and part.elementwise_affine:
                nn.init.ones_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        elif type(part).__name__ == XLNET_ATTENTION:
            for weights in part.parameters(recurse=False):
                nn.init.normal_(weights, 0.0, std, generator=generator)


def check_drawable(modules: Iterable[nn.Module]) -> None:
    """Raise a UserError if `draw_weights` has no rule for some of the modules' parameters."""
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, nn.Linear | Conv1D | nn.Embedding | nn.LayerNorm) or type(part).__name__ == XLNET_ATTENTION:
            continue
        own = ", ".join(name for name, _ in part.named_parameters(recurse=False))
        if own:
            kind = type(part).__name__
            raise UserError(
                f"the model's {kind} cannot be re-initialized: stableft has no rule for its parameters ({own})"
            )


def initializer_std(config: PreTrainedConfig) -> float:
    """Return the standard deviation of a model's initial weights, from its config.json if given there, else 0.02."""
    for key in ("initializer_range", "init_std"):
        if getattr(config, key, None):
            return getattr(config, key)
    return 0.02


def reinitialize(model: nn.Module, spec: BackboneSpec, reinit: Reinit, std: float, generator: torch.Generator) -> None:
    """Re-initialize the pooler, the top `reinit.blocks` blocks (Z sec. 5) and the embeddings, as far as requested."""
    for part in modules_to_redraw(model, spec, reinit):
        draw_weights(part, std, generator, spec.reinit_keeps_norms)


def modules_to_redraw(model: nn.Module, spec: BackboneSpec, reinit: Reinit) -> Iterator[nn.Module]:
    """Yield the modules that Re-init re-initializes, in the order in which they use the generator."""
    if reinit.pooler:
        assert spec.pooler
        yield model.get_submodule(spec.pooler)
    if reinit.blocks:
        blocks = model.get_submodule(spec.blocks[-1])
        assert isinstance(blocks, nn.ModuleList)
        assert reinit.blocks <= len(blocks)
        # From the top down, so that runs that differ in `reinit.blocks` alone agree on the blocks they share.
        yield from reversed(list(blocks)[len(blocks) - reinit.blocks :])
    if reinit.embeddings:
        modules = dict(model.named_modules())
        yield from (modules[name] for name in spec.embeddings if name in modules)
