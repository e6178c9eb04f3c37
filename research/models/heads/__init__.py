"""Heads that are put on any encoder."""
