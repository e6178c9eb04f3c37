"""timm's VisionTransformer over spectrograms: the same logits, and its weights there and back."""

import importlib
import importlib.machinery
import importlib.util
import sys
import types

import jax
import numpy as np
import pytest

from research.weights import convert, load, revert

torch = pytest.importorskip('torch')


class Named(type):
  """A class whose unknown attributes are their names (members of an enumeration)."""

  def __getattr__(cls, name):
    if name.startswith('_'):
      raise AttributeError(name)
    return name


class Torchvision:
  """Finds and makes empty torchvision modules: timm imports them for image data, a ViT uses none.

  There is no torchvision for every build of torch, and one for another build fails to import.
  """

  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] != 'torchvision':
      return None
    return importlib.machinery.ModuleSpec(name, self, is_package=True)

  def create_module(self, spec):
    module = types.ModuleType(spec.name)
    module.__getattr__ = self.missing
    return module

  def exec_module(self, module):
    pass

  @staticmethod
  def missing(name):
    if name.startswith('__'):
      raise AttributeError(name)
    return Named(name, (torch.nn.Module,), {})


def import_timm():
  """timm's ViTs, if need be without torchvision; skips where timm is not installed."""
  if importlib.util.find_spec('timm') is None:
    pytest.skip('timm is not installed', allow_module_level=True)
  try:
    return importlib.import_module('timm.models.vision_transformer')
  except (ImportError, RuntimeError):
    forget('timm', 'torchvision')
  finder = Torchvision()
  sys.meta_path.insert(0, finder)
  try:
    return importlib.import_module('timm.models.vision_transformer')
  finally:
    sys.meta_path.remove(finder)
    forget('torchvision')


def forget(*packages):
  """As if they had never been imported."""
  for name in [n for n in sys.modules if n.partition('.')[0] in packages]:
    del sys.modules[name]


vision_transformer = import_timm()


def vit(**args):
  """A timm ViT with every parameter random, so that a forgotten one shows."""
  torch.manual_seed(0)
  sizes = dict(img_size=(1024, 128), patch_size=16, in_chans=1, class_token=True)
  model = vision_transformer.VisionTransformer(**sizes, **args).eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      scale = 0.1 if parameter.ndim == 1 else 0.05
      parameter.add_(scale * torch.randn(parameter.shape))
      if name == 'pos_embed':
        parameter.mul_(0.5)
  return model


def check(model, **args):
  arrays = {k: v.numpy() for k, v in model.state_dict().items()}
  ours, variables = convert('timm_vit', arrays, **args)
  x = np.random.default_rng(0).standard_normal((2, 1024, 128)).astype(np.float32)
  with torch.no_grad():
    want = model(torch.from_numpy(x)[:, None]).numpy()
    features = model.forward_features(torch.from_numpy(x)[:, None]).numpy()
  out = jax.jit(ours.apply)(variables, {'spectrogram': x})
  assert np.abs(out['latent'] - features).max() <= 1e-4 * np.abs(features).max()
  name = 'logits' if ours.top.classes else 'pooled'
  assert np.abs(out[name] - want).max() <= 1e-4 * max(1.0, np.abs(want).max())
  back = revert('timm_vit', ours, variables)
  assert set(back) == set(arrays)
  assert all(back[k].tobytes() == arrays[k].tobytes() for k in arrays)
  return ours


def test_base_with_average_pooling():
  ours = check(vit(num_classes=527, global_pool='avg'))
  assert (ours.size, ours.heads, ours.classes, ours.pooling) == ('base', 12, 527, 'mean')


@pytest.mark.parametrize('pool, pooling', [('avg', 'mean'), ('token', 'cls')])
def test_small_ones(pool, pooling):
  sizes = dict(embed_dim=96, depth=3, num_heads=4)
  assert check(vit(num_classes=20, global_pool=pool, **sizes), heads=4).pooling == pooling


def test_without_a_head():
  sizes = dict(embed_dim=96, depth=2, num_heads=4)
  assert check(vit(num_classes=0, global_pool='avg', **sizes), heads=4).classes == 0


def test_pytorch_files(tmp_path):
  """A state dict alone, and one inside a training checkpoint with its argparse.Namespace."""
  import argparse

  from research.errors import InputError

  model = vit(num_classes=5, global_pool='avg', embed_dim=32, depth=2, num_heads=2)
  arguments = argparse.Namespace(lr=1e-3, device='cuda')
  saved = {
    'bare.pth': model.state_dict(),
    'run.pth': {'model': model.state_dict(), 'args': arguments},
  }
  for name, content in saved.items():
    torch.save(content, tmp_path / name)
    ours = load(tmp_path / name, release='timm_vit', heads=2)
    back = revert('timm_vit', ours.model, ours.variables)
    assert all(np.array_equal(back[k], v.numpy()) for k, v in model.state_dict().items())

  class Surprise:
    def __reduce__(self):
      return print, ('this must not run',)

  torch.save({'model': model.state_dict(), 'x': Surprise()}, tmp_path / 'code.pth')
  with pytest.raises(InputError, match='need code to be loaded are refused'):
    load(tmp_path / 'code.pth', release='timm_vit', heads=2)
  torch.save({'epoch': 3}, tmp_path / 'none.pth')
  with pytest.raises(InputError, match='holds no state dict'):
    load(tmp_path / 'none.pth', release='timm_vit', heads=2)
