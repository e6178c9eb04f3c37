"""A small model with everything evaluation needs, and folders of tones to embed."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import soundfile

from research.capabilities import Embedding
from research.features.frontend import Frontend
from research.inference.embedder import from_model

RATE = 16000
FRONTEND = Frontend.create('log_mel', num_mel_bins=16, mean=-4.0, std=4.0)


class Toy(nn.Module):
  """Three layers over groups of frames; each group gives `bands` tokens of the same time."""

  bands: int = 2
  width: int = 12
  group: int = 4
  frontend: Any = FRONTEND
  EMBEDDING: ClassVar[Embedding] = Embedding()

  @nn.compact
  def embed(self, audio, audio_mask):
    x, mask = self.frontend(audio, audio_mask)
    x = jnp.where(mask[..., None], x, 0.0)
    extra = -x.shape[1] % self.group
    x, mask = jnp.pad(x, ((0, 0), (0, extra), (0, 0))), jnp.pad(mask, ((0, 0), (0, extra)))
    b, s, f = x.shape
    rows = s // self.group
    x = x.reshape(b, rows, self.group, self.bands, f // self.bands)
    x = x.transpose(0, 1, 3, 2, 4).reshape(b, rows * self.bands, -1)
    mask = jnp.repeat(mask[:, :: self.group], self.bands, axis=1)
    layers = [nn.Dense(self.width)(x)]
    for _ in range(2):
      layers.append(nn.tanh(nn.Dense(self.width)(layers[-1])))
    return jnp.where(mask[None, ..., None], jnp.stack(layers), 0.0), mask


def embedder(seed=0, **args):
  model = Toy(**args)
  samples = jnp.zeros((1, RATE)), jnp.ones((1, RATE), bool)
  variables = model.init(jax.random.key(seed), *samples, method='embed')
  return from_model(model, variables, 'toy')


def alone(system, audio):
  """Tokens [l, n, d] of one clip by itself."""
  samples = jnp.asarray(audio)[None], jnp.ones((1, len(audio)), bool)
  tokens, mask = system.apply(system.variables, *samples)
  return np.asarray(tokens)[:, 0, np.asarray(mask)[0]]


def tone(hertz, seconds, seed):
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * RATE)) / RATE
  phase = rng.uniform(0, 2 * np.pi)
  audio = 0.2 * np.sin(2 * np.pi * hertz * t + phase) + 0.01 * rng.normal(size=len(t))
  return np.round(audio * 32767).astype(np.int16)


def tones(root, *, per_class=12, classes=(300, 900, 2700), columns=(), row=lambda i, c: ()):
  """A folder of tones of 0.3 to 0.9 s with a labels.csv: path, label, `columns` filled by `row`."""
  root.mkdir(parents=True, exist_ok=True)
  lines = [','.join(('path', 'label', *columns))]
  for c, hertz in enumerate(classes):
    for i in range(per_class):
      name = f'{hertz}_{i:02d}.flac'
      seconds = 0.3 + 0.6 * ((7 * i + c) % per_class) / per_class
      soundfile.write(root / name, tone(hertz, seconds, 100 * c + i), RATE)
      lines.append(','.join((name, f'f{hertz}', *row(i, c))))
  (root / 'labels.csv').write_text('\n'.join(lines) + '\n')
  return root


def save_wav2vec2(path):
  """A tiny wav2vec 2.0 with random weights, as a file that commands can load."""
  from research import models, weights

  model = models.get('wav2vec2')(size='tiny', channels=32, width=32, depth=2, heads=2, hidden=64)
  batch = {'audio': jnp.zeros((1, RATE)), 'audio_mask': jnp.ones((1, RATE), bool)}
  rngs = {name: jax.random.key(i) for i, name in enumerate(('params', 'mask', 'noise'))}
  variables = jax.device_get(jax.jit(model.init)(rngs, batch))
  return weights.save(weights.Pretrained('wav2vec2', model, variables, 'random, for tests'), path)


def save_audio_mae(path):
  """A tiny AudioMAE with random weights, as a file that commands can load."""
  from research import models, weights

  model = models.get('audio_mae')(
    size='tiny', width=32, depth=2, heads=2, frames=96, padding='masked', decoder='global'
  )
  samples = jnp.zeros((1, RATE)), jnp.ones((1, RATE), bool)
  batch = dict(zip(('audio', 'audio_mask'), samples))
  rngs = {'params': jax.random.key(0), 'mask': jax.random.key(1)}
  variables = jax.device_get(jax.jit(model.init)(rngs, batch))
  return weights.save(weights.Pretrained('audio_mae', model, variables, 'random, for tests'), path)
