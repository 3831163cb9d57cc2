"""What a family cannot do is one sentence, before anything starts and again when its model is loaded."""

import pytest
from support.families import OTHER_FAMILIES
from support.tiny_families import BLOCKS, FAMILIES, OWN_FAMILIES

from stableft.catalog.model_families import BACKBONES, find_backbone
from stableft.errors import UserError
from stableft.models.compatibility import resolve_backbone
from stableft.models.load import has_module, load_pretrained
from stableft.sweep.preflight import check_sweep_inputs

ONE_BLOCK = ".*single block.*"
NO_POOLER = ".*no pre-trained pooler: .*last block.*write false"
UNKNOWN = ".*not know the blocks of {} model 'tiny'.* model.structure, or write {}$"
MIXOUT = {"p": 0.5, "target": "pretrained", "granularity": "parameter", "scope": "after_dropout"}


def reinit(pooler: bool = False, blocks: int = 0, embeddings: bool | None = None) -> dict:
    return {"reinit": {"pooler": pooler, "blocks": blocks, "embeddings": embeddings}}


REFUSED = [
    ("albert", reinit(blocks=1), f"reinit.blocks: ALBERT model 'tiny' {ONE_BLOCK} none .*write 0"),
    ("albert", reinit(embeddings=True), "reinit.embeddings: ALBERT model 'tiny' cannot .*from scratch"),
    ("albert", {"optimizer.llrd": 0.9}, f"optimizer.llrd: ALBERT model 'tiny' {ONE_BLOCK}one learning rate"),
    ("roberta", reinit(pooler=True), f"reinit.pooler: RoBERTa model 'tiny' {NO_POOLER}"),
    ("xlnet", reinit(pooler=True), f"reinit.pooler: XLNet model 'tiny' {NO_POOLER}"),
    ("electra", reinit(pooler=True), f"reinit.pooler: ELECTRA model 'tiny' {NO_POOLER}"),
    ("bart", reinit(pooler=True), f"reinit.pooler: BART model 'tiny' {NO_POOLER}"),
    ("bart", reinit(embeddings=True), "reinit.embeddings: BART model 'tiny' cannot .*from scratch.* model.decoder"),
    ("bart", reinit(blocks=BLOCKS + 1), f"reinit.blocks: {BLOCKS + 1} .* {BLOCKS} blocks of BART model"),
    ("xlnet", reinit(blocks=BLOCKS + 1), f"reinit.blocks: {BLOCKS + 1} .* {BLOCKS} blocks of XLNet model"),
    ("roberta", {"data.max_length": 65}, "data.max_length: 65 .* 64 positions .*'tiny'"),
    ("bart", {"data.max_length": 65}, "data.max_length: 65 .* 64 positions .*'tiny'"),
    ("xlnet", {"model.attention": "sdpa"}, "model.attention: .*no sdpa for XLNet model 'tiny'.*write eager"),
    ("bert", {"model.head": "paper"}, "model.head: .*no special head for BERT model 'tiny'.*write stock"),
    ("gpt2", {"model.head": "paper"}, "model.head: .*no special head for gpt2 model 'tiny'.*write stock"),
    ("bert", {"model.structure": {"blocks": ("x",)}}, "model.structure: .*BERT model 'tiny'.*write null"),
    ("distilbert", reinit(blocks=1), "reinit.blocks: " + UNKNOWN.format("distilbert", 0)),
    ("distilbert", reinit(pooler=True), "reinit.pooler: .*no pre-trained pooler: .*unknown.*write false"),
    ("distilbert", reinit(embeddings=True), "reinit.embeddings: .*not know the embeddings of distilbert model 'tiny'"),
    ("gpt2", {"optimizer.llrd": 0.9}, "optimizer.llrd: " + UNKNOWN.format("gpt2", "1.0")),
    ("gpt2", {"mixout": MIXOUT}, "mixout.scope: .*not know which modules of gpt2 model 'tiny'"),
    (
        "gpt2",
        {"model.structure": OTHER_FAMILIES["gpt2"], **reinit(pooler=True)},
        "reinit.pooler: gpt2 model 'tiny' .*no pre-trained pooler: .*model.structure .*write false",
    ),
]


@pytest.mark.parametrize(("family", "settings", "facts"), REFUSED)
def test_refused_before_anything_starts_and_when_loaded(family_run, family, settings, facts):
    run, sources = family_run(family, **settings)
    with pytest.raises(UserError, match=facts) as early:
        check_sweep_inputs([run], sources)
    with pytest.raises(UserError) as late:
        load_pretrained(run.config, sources)
    assert str(early.value) == str(late.value)
    assert "\n" not in str(early.value)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("roberta", {"data.max_length": 64}),
        ("xlnet", {"data.max_length": 4096}),
        ("albert", {"optimizer.llrd": 1.0, **reinit(pooler=True)}),
        ("electra", {"model.head": "paper", **reinit(blocks=BLOCKS)}),
        ("gpt2", {"mixout": {**MIXOUT, "p": 0.0}, **reinit()}),
        (
            "gpt2",
            {
                "model.structure": OTHER_FAMILIES["gpt2"],
                "optimizer.llrd": 0.9,
                **reinit(blocks=1, embeddings=True),
            },
        ),
    ],
)
def test_what_fits_is_not_refused(family_run, family, settings):
    run, sources = family_run(family, **settings)
    check_sweep_inputs([run], sources)
    assert load_pretrained(run.config, sources).spec.name == family


def test_blocks_of_a_described_family_are_counted_when_its_model_is_loaded(family_run):
    settings = {"model.structure": OTHER_FAMILIES["gpt2"], **reinit(blocks=BLOCKS + 1)}
    run, sources = family_run("gpt2", **settings)
    with pytest.raises(UserError, match=f"reinit.blocks: {BLOCKS + 1} .* {BLOCKS} blocks of gpt2 model"):
        load_pretrained(run.config, sources)


@pytest.mark.parametrize("family", OWN_FAMILIES)
def test_the_paths_of_a_row_are_those_of_the_model(family_run, family):
    run, sources = family_run(family)
    pretrained = load_pretrained(run.config, sources)
    spec, model = pretrained.spec, pretrained.model
    assert spec == BACKBONES[family] == find_backbone(family, "tiny")
    for path in (*spec.embeddings, *spec.blocks, *filter(None, [spec.pooler])):
        assert has_module(model, path), path
    lengths = [len(list(model.get_submodule(path).children())) for path in spec.blocks]
    assert lengths == ([1] if spec.shares_blocks else [getattr(model.config, key) for key in spec.lengths])
    encoder = {name for name, _ in model.named_parameters() if name.startswith(f"{model.base_model_prefix}.")}
    parts = tuple(f"{path}." for path in (*spec.embeddings, *spec.blocks, *filter(None, [spec.pooler])))
    assert {name for name in encoder if not name.startswith(parts)} <= {"transformer.mask_emb"}


def test_an_electra_of_equal_sizes_projects_no_embeddings(family_run):
    run, sources = family_run("electra", values={"embedding_size": 16}, **reinit(blocks=BLOCKS, embeddings=True))
    pretrained = load_pretrained(run.config, sources)
    assert not has_module(pretrained.model, "electra.embeddings_project")


def test_a_family_without_a_row_is_what_the_user_says(make_config):
    values = {"model_type": "deberta-v2", "hidden_dropout_prob": 0.1, "pooler_dropout": 0, "encoder_layerdrop": 0.0}
    bare = resolve_backbone(make_config().model, values)
    assert (bare.blocks, bare.embeddings, bare.pooler, bare.segment_ids) == ((), (), None, False)
    assert bare.dropouts == ("hidden_dropout_prob", "pooler_dropout")
    told = resolve_backbone(
        make_config(**{"model.structure": OTHER_FAMILIES["deberta-v2"]}).model,
        {**values, "type_vocab_size": 2},
    )
    assert (told.blocks, told.pooler, told.segment_ids) == (("deberta.encoder.layer",), "pooler", True)


def test_ids_of_runs_from_before_there_were_families(make_config):
    assert make_config().run_id == make_config(**{"model.head": "stock", "model.structure": None}).run_id
    assert make_config().run_id != make_config(**{"model.head": "paper"}).run_id
    assert set(OTHER_FAMILIES) < set(FAMILIES)
