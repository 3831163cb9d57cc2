"""Drawing weights anew: the classifier of every run, and Re-init's pooler and top blocks (Z sec. 5).

torch's init functions are called with a generator of their own. transformers' own initialiser is of no use here: it
passes over weights that were loaded.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from stableft.catalog.model_families import BackboneSpec
from stableft.config.run_config import Reinit
from stableft.errors import UserError

# Its matrices, biases and segment vectors are parameters of its own, all drawn.
XLNET_ATTENTION = "XLNetRelativeAttention"


def draw_weights(module: nn.Module, std: float, generator: torch.Generator, keep_norms: bool = False) -> None:
    """Re-draws the weights of `module` as the families' own initialisers draw them.

    Linear and GPT-2's transposed Linear: N(0, std^2), bias 0. Embedding: N(0, std^2), the row of the padding token 0.
    LayerNorm: weight 1, bias 0, unless `keep_norms`. XLNet's attention: all N(0, std^2).

    Raises:
        UserError: there is no rule for a part of it.
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
    """Looks for a rule by which to draw each part.

    Raises:
        UserError: there is none.
    """
    for part in (part for module in modules for part in module.modules()):
        if isinstance(part, nn.Linear | Conv1D | nn.Embedding | nn.LayerNorm) or type(part).__name__ == XLNET_ATTENTION:
            continue
        own = ", ".join(name for name, _ in part.named_parameters(recurse=False))
        if own:
            kind = type(part).__name__
            raise UserError(f"the model's {kind} cannot be drawn anew: stableft has no rule for what it holds ({own})")


def initializer_std(config: PreTrainedConfig) -> float:
    """Returns the standard deviation of a model's fresh weights: what its config.json says, else .02."""
    for key in ("initializer_range", "init_std"):
        if getattr(config, key, None):
            return getattr(config, key)
    return 0.02


def reinitialize(model: nn.Module, spec: BackboneSpec, reinit: Reinit, std: float, generator: torch.Generator) -> None:
    """Re-draws the pooler, the top `reinit.blocks` blocks from the topmost down (Z sec. 5), and the embeddings."""
    for part in modules_to_redraw(model, spec, reinit):
        draw_weights(part, std, generator, spec.keeps_norms)


def modules_to_redraw(model: nn.Module, spec: BackboneSpec, reinit: Reinit) -> Iterator[nn.Module]:
    """Yields what Re-init draws anew, in its order."""
    if reinit.pooler:
        assert spec.pooler
        yield model.get_submodule(spec.pooler)
    if reinit.blocks:
        blocks = model.get_submodule(spec.blocks[-1])
        assert isinstance(blocks, nn.ModuleList)
        assert reinit.blocks <= len(blocks)
        yield from reversed(list(blocks)[len(blocks) - reinit.blocks :])
    if reinit.embeddings:
        there = dict(model.named_modules())
        yield from (there[name] for name in spec.embeddings if name in there)
