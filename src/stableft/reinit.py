"""Drawing weights anew: the classifier of every run, and Re-init's pooler and top blocks (Z sec. 5).

torch's init functions are called with a generator of their own. transformers' own initialiser is of no use here: it
passes over weights that were loaded.
"""

import torch
from torch import nn

from stableft.backbones import BackboneSpec
from stableft.config import Reinit


def draw_weights(module: nn.Module, std: float, generator: torch.Generator) -> None:
    """Re-draws the weights of `module` as BERT draws them.

    Linear: N(0, std^2), bias 0. Embedding: N(0, std^2), the row of the padding token 0. LayerNorm: weight 1, bias 0.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, std, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, 0.0, std, generator=generator)
            if part.padding_idx is not None:
                nn.init.zeros_(part.weight[part.padding_idx])
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        else:
            own = [name for name, _ in part.named_parameters(recurse=False)]
            assert not own, f"no rule for drawing {type(part).__name__}.{own}"


def reinitialize(model: nn.Module, spec: BackboneSpec, reinit: Reinit, std: float, generator: torch.Generator) -> None:
    """Re-draws the pooler, the top `reinit.blocks` blocks from the topmost down (Z sec. 5), and the embeddings."""
    blocks = model.get_submodule(spec.blocks[-1])
    assert isinstance(blocks, nn.ModuleList)
    assert reinit.blocks <= len(blocks)
    if reinit.pooler and spec.pooler:
        draw_weights(model.get_submodule(spec.pooler), std, generator)
    for block in reversed(list(blocks)[len(blocks) - reinit.blocks :]):
        draw_weights(block, std, generator)
    if reinit.embeddings:
        for name in spec.embeddings:
            draw_weights(model.get_submodule(name), std, generator)
