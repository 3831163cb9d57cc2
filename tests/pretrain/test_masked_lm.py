"""Masked-language models: fresh weights from a seed, logits where asked equal to those of the whole batch."""

import pytest
import torch
from transformers import MODEL_FOR_MASKED_LM_MAPPING

from stableft.pretrain.config_file import MASKED_LM_FAMILIES
from stableft.pretrain.corpus import build_tokenizer
from stableft.pretrain.masked_lm import build_masked_lm, masked_logits


@pytest.fixture
def tokenizer():
    return build_tokenizer("toylang", None, 32)


@pytest.mark.parametrize("family", MASKED_LM_FAMILIES)
def test_logits_where_asked_are_those_of_the_whole_batch(plan_pretraining, tokenizer, family):
    plan = plan_pretraining(family=family, **{"model.max_position_embeddings": 34})
    model = build_masked_lm(plan.config, tokenizer).eval()
    assert type(model) is MODEL_FOR_MASKED_LM_MAPPING[type(model.config)]
    batch = {
        "input_ids": torch.randint(5, 100, (3, 8), generator=torch.Generator().manual_seed(0)),
        "attention_mask": torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 8]),
        "token_type_ids": torch.tensor([[0] * 4 + [1] * 4] * 3),
    }
    places = torch.tensor([0, 3, 9, 23])
    with torch.no_grad():
        whole = model(**batch).logits.flatten(0, 1)[places]
        torch.testing.assert_close(masked_logits(model, batch, places), whole)


def test_weights_follow_the_seed_for_initialisation_alone(plan_pretraining, tokenizer):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = build_masked_lm(plan_pretraining().config, tokenizer).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    same = build_masked_lm(plan_pretraining(seeds={"init": 0, "data": 9}).config, tokenizer).state_dict()
    other = build_masked_lm(plan_pretraining(seeds={"init": 1, "data": 0}).config, tokenizer).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(one[name], other[name])
    assert one[name].std().item() == pytest.approx(0.02, rel=0.1)


def test_a_vocabulary_may_be_smaller_than_the_model(plan_pretraining, tokenizer):
    config = plan_pretraining(**{"model.vocab_size": len(tokenizer) + 3}).config
    assert build_masked_lm(config, tokenizer).get_input_embeddings().num_embeddings == len(tokenizer) + 3
