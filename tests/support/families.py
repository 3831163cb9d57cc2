"""What `model.structure` says of families whose parts stableft does not know by itself."""

OTHER_FAMILIES = {  # family -> what `model.structure` says of it
    "distilbert": {"blocks": ("distilbert.transformer.layer",), "embeddings": ("distilbert.embeddings",)},
    "gpt2": {"blocks": ("transformer.h",), "embeddings": ("transformer.wte", "transformer.wpe")},
    "deberta-v2": {"blocks": ("deberta.encoder.layer",), "embeddings": ("deberta.embeddings",), "pooler": "pooler"},
}
