"""Masked-language-model pre-training, from a YAML file to a model folder and its record."""
