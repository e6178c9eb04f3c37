"""Weights in and out: `load` anything, `convert` a release's arrays to ours and `revert` them."""

from research.weights.average import average
from research.weights.conversion import RELEASES, convert, revert
from research.weights.pretrained import Pretrained, load, model_args, save

__all__ = ['RELEASES', 'Pretrained', 'average', 'convert', 'load', 'model_args', 'revert', 'save']
