"""The parts of a loaded model by their role: its head, Z's own head for ELECTRA, and what `model.structure` names."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from stableft.backbones import BACKBONES, BackboneSpec
from stableft.errors import UserError, nearest


class FirstTokenHead(nn.Module):
    """Z's head for ELECTRA: dropout and one Linear on the first token."""

    def __init__(self, hidden_size: int, outputs: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)  # not `out_proj`, which the stock head would take for its own

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns [rows, outputs] of [rows, width, hidden size]."""
        return self.linear(self.dropout(hidden[:, 0]))


def set_paper_head(model: PreTrainedModel, spec: BackboneSpec) -> None:
    """Puts Z's head in the place of the stock one; its weights are still to be drawn."""
    assert spec.paper_head
    config: Any = model.config
    dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    model.classifier = FirstTokenHead(config.hidden_size, config.num_labels, dropout)


def head_modules(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules that make up the head: all that have weights outside the base model."""
    children = model.named_children()
    return [name for name, part in children if name != model.base_model_prefix and any(True for _ in part.parameters())]


def check_parts(model: PreTrainedModel, spec: BackboneSpec, name: str) -> None:
    """Compares the parts of a spec with a loaded model; a family's row may name embeddings that some models lack.

    Raises:
        UserError: the model has no such part, or its blocks are not a list.
    """
    for key, paths in (("blocks", spec.blocks), ("embeddings", spec.embeddings), ("pooler", (spec.pooler,))):
        for path in filter(None, paths):
            if not has_module(model, path):
                if spec.name in BACKBONES and key == "embeddings":
                    continue
                raise UserError(f"model.structure: {key}: {_not_there(model, path, name)}")
            part = model.get_submodule(path)
            if key == "blocks" and not isinstance(part, nn.ModuleList):
                kind = type(part).__name__
                raise UserError(f"model.structure: blocks: {path!r} of model {name!r} is a {kind}, no list of blocks")


def has_module(model: nn.Module, path: str) -> bool:
    """True if there is a module at a dotted path."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _not_there(model: nn.Module, path: str, name: str) -> str:
    """Returns the sentence about a path that leads nowhere: how far it goes, and what is there."""
    parts = path.split(".")
    known = next(i for i in range(len(parts), -1, -1) if has_module(model, ".".join(parts[:i])))
    children = [child for child, _ in model.get_submodule(".".join(parts[:known])).named_children()]
    place = repr(".".join(parts[:known])) if known else "it"
    has = ", ".join(children) or "no parts"
    return f"model {name!r} has no {path!r}: {place} has {has}{nearest(parts[known], children)}"
