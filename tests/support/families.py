"""What a family cannot do is one sentence, before anything starts and again when its model is loaded."""

OTHERS = {  # family -> what `model.structure` says of it
    "distilbert": {"blocks": ("distilbert.transformer.layer",), "embeddings": ("distilbert.embeddings",)},
    "gpt2": {"blocks": ("transformer.h",), "embeddings": ("transformer.wte", "transformer.wpe")},
    "deberta-v2": {"blocks": ("deberta.encoder.layer",), "embeddings": ("deberta.embeddings",), "pooler": "pooler"},
}
