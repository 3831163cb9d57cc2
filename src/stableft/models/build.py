"""Build the model of a run: pre-trained weights in float32, a new head, re-initialized blocks, Mixout."""

import copy
import inspect

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stableft.catalog.model_families import BACKBONES
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import RunConfig
from stableft.data.tokens import InputLayout
from stableft.methods.reinit import draw_weights, initializer_std, reinitialize
from stableft.models.fused import run_fused
from stableft.models.host_reads import avoid_host_reads, can_omit_full_mask
from stableft.models.load import PretrainedCheckpoint, load_pretrained
from stableft.models.packed import run_packed
from stableft.models.start_weights import StartWeights, load_start_weights
from stableft.seeds import make_generator


def build_model(
    config: RunConfig, sources: LocalPaths, start: StartWeights | None = None
) -> tuple[PreTrainedModel, PretrainedCheckpoint]:
    """Return a new model on the CPU, and the checkpoint that it was built from.

    `start` provides the weights of the run that `config.start_from` names.

    Raises:
        UserError: The checkpoint cannot be loaded or does not fit the config.
    """
    pretrained = load_pretrained(config, sources)
    model = copy.deepcopy(pretrained.model)  # the checkpoint stays cached for the next run
    if config.execution == "packed":
        run_packed(model, config)
    elif config.execution == "fused":
        run_fused(model)
    else:
        avoid_host_reads(model, pretrained.spec)
    std = initializer_std(model.config)
    # The head has its own generator, so that it depends on the init seed alone: a baseline and Re-init with equal
    # seeds share it (Z App. B).
    head_generator = make_generator(config.seeds.init, "head")
    for name in (*pretrained.head, *pretrained.missing):
        draw_weights(model.get_submodule(name), std, head_generator)
    if start:
        load_start_weights(model, start, pretrained.head)
    if config.reinit:  # after loading `start`, whose blocks it resets too
        reinitialize(model, pretrained.spec, config.reinit, std, make_generator(config.seeds.init, "reinit"))
    return model, pretrained


def input_layout_for(pretrained: PretrainedCheckpoint, tokenizer: PreTrainedTokenizerBase) -> InputLayout:
    """Return how to lay out a model's inputs. The tokenizer determines token and side of the padding."""
    spec = pretrained.spec
    takes_segments = (
        spec.name in BACKBONES or "token_type_ids" in inspect.signature(pretrained.model.forward).parameters
    )
    assert isinstance(tokenizer.pad_token_id, int)
    return InputLayout(
        pad_id=tokenizer.pad_token_id,
        pad_segment=spec.pad_segment,
        left=tokenizer.padding_side == "left",
        segments=spec.segment_ids and takes_segments,
        full_mask=not can_omit_full_mask(spec),
    )
