"""Marks the tests that run a peer of ours live, so that they can be chosen: -m peer."""

import pytest

NEEDS = ("importorskip('torch')", "importorskip('transformers')")


def pytest_collection_modifyitems(items):
  for item in items:
    source = item.path.read_text(encoding='utf-8') if item.path.parent.name == 'parity' else ''
    if any(text in source for text in NEEDS):
      item.add_marker(pytest.mark.peer)
