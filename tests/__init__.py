"""Tests: they mirror `research/`."""

from tests import typechecker as typechecker
