"""Tests of research/audio."""
