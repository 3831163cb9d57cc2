"""Probes of finished runs: surfaces and perplexities from saved weights, stability per point from predictions."""
