"""EnCodec's language model beside PyTorch's own transformer layers, of which encodec's consists;
and its weights, there and back."""

import functools

import jax
import numpy as np
import pytest

from research.weights import convert, revert
from tests.parity.golden import assert_close

jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
SIZES = dict(books=3, codes=11, width=12, heads=2, depth=2, past=4)


def state_dict(seed=0, *, books, codes, width, depth, **_):
  """Random weights under encodec's names."""
  rng = np.random.default_rng(seed)
  shapes = {'transformer.norm_in.weight': (width,), 'transformer.norm_in.bias': (width,)}
  for i in range(depth):
    t = f'transformer.layers.{i}'
    shapes |= {
      f'{t}.self_attn.in_proj_weight': (3 * width, width),
      f'{t}.self_attn.in_proj_bias': (3 * width,),
      f'{t}.self_attn.out_proj.weight': (width, width),
      f'{t}.self_attn.out_proj.bias': (width,),
      f'{t}.linear1.weight': (4 * width, width),
      f'{t}.linear1.bias': (4 * width,),
      f'{t}.linear2.weight': (width, 4 * width),
      f'{t}.linear2.bias': (width,),
      **{f'{t}.norm{n}.{x}': (width,) for n in (1, 2) for x in ('weight', 'bias')},
    }
  for i in range(books):
    shapes |= {f'emb.{i}.weight': (codes + 1, width)}
    shapes |= {f'linears.{i}.weight': (codes, width), f'linears.{i}.bias': (codes,)}
  return {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}


def ours(arrays):
  how = dict(heads=SIZES['heads'], past_context=SIZES['past'], label_rate=75.0)
  return convert('encodec_lm', arrays, **how)


def test_weights_come_back():
  arrays = state_dict(**SIZES)
  model, variables = ours(arrays)
  assert (model.quantizers, model.codebook_size, model.width, model.depth) == (3, 11, 12, 2)
  back = revert('encodec_lm', model, variables)
  assert set(back) == set(arrays)
  for key, x in arrays.items():
    np.testing.assert_array_equal(back[key], x, err_msg=key)


@pytest.mark.peer
def test_probabilities_are_those_of_torch():
  torch = pytest.importorskip('torch')

  arrays = state_dict(**SIZES)
  model, variables = ours(arrays)
  tensors = {k: torch.from_numpy(x) for k, x in arrays.items()}
  books, width, past = SIZES['books'], SIZES['width'], SIZES['past']
  codes = np.random.default_rng(1).integers(0, SIZES['codes'], (2, 9, books)).astype(np.int32)
  # Inputs: 1 + the codes of the frame before, 0 in front of the first.
  given = torch.from_numpy(np.pad(codes[:, :-1] + 1, ((0, 0), (1, 0), (0, 0)))).long()
  x = sum(tensors[f'emb.{k}.weight'][given[:, :, k]] for k in range(books))
  norm = (tensors['transformer.norm_in.weight'], tensors['transformer.norm_in.bias'])
  x = torch.nn.functional.layer_norm(x, (width,), *norm)
  half = torch.arange(width // 2).view(1, 1, -1)
  phase = torch.arange(x.shape[1]).view(1, -1, 1) / 10_000.0 ** (half / (width // 2 - 1))
  x = x + torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)
  # Each layer sees a token of zeros, then the frames, `past` frames back.
  n = x.shape[1]
  distance = torch.arange(1, n + 1).view(-1, 1) - torch.arange(n + 1).view(1, -1)
  hidden = (distance < 0) | (distance > past)
  for i in range(SIZES['depth']):
    layer = torch.nn.TransformerEncoderLayer(
      width, SIZES['heads'], 4 * width, dropout=0.0, activation='gelu', batch_first=True
    ).eval()
    layer.load_state_dict(
      {
        k.removeprefix(f'transformer.layers.{i}.'): v
        for k, v in tensors.items()
        if k.startswith(f'transformer.layers.{i}.')
      }
    )
    with torch.no_grad():
      keys = torch.cat([torch.zeros_like(x[:, :1]), x], dim=1)
      attended = layer.self_attn(x, keys, keys, attn_mask=hidden, need_weights=False)[0]
      x = layer.norm1(x + attended)
      x = layer.norm2(x + layer.linear2(torch.nn.functional.gelu(layer.linear1(x))))
  logits = [
    x @ tensors[f'linears.{k}.weight'].T + tensors[f'linears.{k}.bias'] for k in range(books)
  ]
  want = torch.softmax(torch.stack(logits, dim=2), dim=-1).numpy()
  out = jit(model.apply)(variables, {'units': codes})
  assert_close(jax.nn.softmax(out['logits'], axis=-1), want, what='probabilities')
