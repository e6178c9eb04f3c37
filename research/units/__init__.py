"""Discrete units: clustering, codebooks, labelling and their quality."""
