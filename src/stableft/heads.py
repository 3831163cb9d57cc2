"""The parts of a loaded model by their role: its head, Z's own head for ELECTRA, and what `model.structure` names.

And which of them its checkpoint has no weights for.
"""

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from stableft.backbones import BACKBONES, BackboneSpec
from stableft.errors import UserError, nearest

TASKS = ("Classification", "MultipleChoice", "QuestionAnswering")  # ends of the names of classes with a trained head


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


def new_head(
    model: PreTrainedModel, spec: BackboneSpec, absent: Collection[str], architectures: Collection[str]
) -> tuple[str, ...]:
    """Returns the modules of the head that a run draws.

    They are all of it, but in a family without a row only those with `absent` weights: ModernBERT's head begins with
    layers of its pre-training. What was trained for a task, as the `architectures` of config.json tell, is drawn too.
    """
    head = head_modules(model)
    owners = {key.rpartition(".")[0] for key in absent}
    new = tuple(name for name, _ in model.named_modules() if name in owners and name.partition(".")[0] in head)
    trained = any(name.endswith(TASKS) for name in architectures)
    return tuple(head) if spec.name in BACKBONES or trained or not new else new


def lost_positions(model: PreTrainedModel) -> int:
    """Returns how many positions no token can have: in RoBERTa and its kin they count from after that of padding."""
    for name, part in model.base_model.named_modules():
        if isinstance(part, nn.Embedding) and f".{name}".endswith("embeddings.position_embeddings"):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0


def missing_modules(
    where: str, spec: BackboneSpec, model: PreTrainedModel, absent: Collection[str], unexpected: Collection[str]
) -> tuple[str, ...]:
    """Returns the modules besides the head that must be drawn: only the pooler may be absent, as in MLM checkpoints.

    `absent` are weights that the checkpoint lacks, or has in another shape. `unexpected` are those that the model does
    not have: of other heads they are passed over, but not of blocks that config.json does not have.

    Raises:
        UserError: the checkpoint does not fit the model.
    """
    base = f"{model.base_model_prefix}."
    extra = sorted(key for key in unexpected if _is_of_a_block(key.removeprefix(base), spec, model))
    if extra:
        raise UserError(
            f"model {where!r}: its weights hold {extra[0]}"
            + (f" and {len(extra) - 1} more" if len(extra) > 1 else "")
            + f", which the {spec.title} model that its config.json describes does not have"
        )
    poolers = {key: _pooler_of(key, spec) for key in sorted(absent) if key.startswith(base)}
    encoder = [key for key, pooler in poolers.items() if pooler is None]
    if encoder:
        raise UserError(
            f"model {where!r}: its weights lack {encoder[0]}"
            + (f" and {len(encoder) - 1} more" if len(encoder) > 1 else "")
            + f"; they do not fit the {spec.title} model that its config.json describes"
        )
    return tuple(sorted({pooler for pooler in poolers.values() if pooler}))


def _is_of_a_block(key: str, spec: BackboneSpec, model: PreTrainedModel) -> bool:
    """True for a weight of a block; in a family without a row, of a block that the model does not have.

    `key` has no prefix, as in a checkpoint of the bare encoder.
    """
    base = f"{model.base_model_prefix}."
    if spec.name in BACKBONES:
        return key.startswith(tuple(f"{name.removeprefix(base)}." for name in spec.blocks))
    for name, part in model.base_model.named_modules():
        if isinstance(part, nn.ModuleList) and key.startswith(f"{name}."):
            number = key.removeprefix(f"{name}.").partition(".")[0]
            if number.isdigit() and int(number) >= len(part):
                return True
    return False


def _pooler_of(key: str, spec: BackboneSpec) -> str | None:
    """Returns the pooler that a weight belongs to; in a family without a row it is what is called so."""
    if spec.pooler or spec.name in BACKBONES:
        return spec.pooler if spec.pooler and key.startswith(f"{spec.pooler}.") else None
    before, found, _ = key.partition(".pooler.")
    return f"{before}.pooler" if found else None


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
