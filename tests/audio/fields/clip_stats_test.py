"""Crops are normalised by statistics of the whole clip, as in fairseq."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import models
from research.audio import decode
from research.audio.fields import make
from research.audio.pipeline import eval_batches, train_batches
from research.errors import InputError
from research.features.augment import AUGMENTATIONS
from research.features.waveform import Waveform
from research.models.hubert import Hubert
from research.train import build, config
from research.train.state import init_state
from research.train.step import make_train_step
from tests.train.toy import Toy, batch_of, squared

LENGTHS = [0.3, 0.1, 0.5]


def published(clip):
  """Layer norm over a waveform, without weights."""
  clip = clip.astype(np.float64)
  return (clip - clip.mean()) / np.sqrt(clip.var() + 1e-5)


@pytest.mark.parametrize('rate', [16_000, 8000])
def test_statistics_of_a_clip(make_source, rate):
  source = make_source([0.5])
  whole = decode.decode(source[0], sample_rate=rate)
  found = decode.clip_stats(source[0], sample_rate=rate)
  np.testing.assert_allclose(found, (whole.mean(), whole.var()), rtol=1e-4, atol=1e-8)


def test_a_clip_is_read_whole_once(make_source, monkeypatch):
  source, read = make_source(LENGTHS), []
  whole = decode.clip_stats
  monkeypatch.setattr(decode, 'clip_stats', lambda e, **args: read.append(e.id) or whole(e, **args))
  batches = train_batches(
    source, batch_size=3, seconds=0.25, fields=make(dict(clip_stats={})), num_threads=0
  )
  iterator = iter(batches)
  several = [next(iterator) for _ in range(4)]
  assert sorted(read) == ['000.flac', '002.flac']
  for row, i in enumerate(several[-1]['index']):
    first = several[0]['clip_stats'][several[0]['index'].tolist().index(i)]
    np.testing.assert_array_equal(several[-1]['clip_stats'][row], first)


@pytest.mark.parametrize('evaluation', [False, True])
def test_the_model_input_is_a_crop_of_the_normalised_clip(make_source, evaluation):
  source = make_source(LENGTHS)
  args = dict(batch_size=3, fields=make(dict(clip_stats={})))
  if evaluation:
    batches = eval_batches(source, max_seconds=0.25, lengths=1, **args)
  else:
    batches = train_batches(source, seconds=0.25, **args)
  batch = next(iter(batches))
  seen = np.asarray(
    Waveform(normalise=True)(*(batch[k] for k in ('audio', 'audio_mask', 'clip_stats')))
  )
  for row, i in enumerate(batch['index']):
    whole = decode.decode(source[i], sample_rate=16_000)
    assert np.isnan(batch['clip_stats'][row]).all() == (LENGTHS[i] <= 0.25)
    n = int(batch['audio_mask'][row].sum())
    windows = np.lib.stride_tricks.sliding_window_view(whole, n)
    (start,) = np.flatnonzero((windows == batch['audio'][row, :n]).all(axis=1))[:1]
    wanted = published(whole)[start : start + n]
    np.testing.assert_allclose(seen[row, :n], wanted, atol=2e-5)
    assert not seen[row, n:].any()
  assert 'clip_stats' not in next(iter(train_batches(source, batch_size=3, seconds=0.25)))


def test_training_reads_statistics_if_the_model_normalises(make_source):
  source = make_source(LENGTHS)
  data = {**config.DATA, 'batch_size': 2, 'seconds': 0.25}
  args = dict(bad_files=None)
  for normalise in (False, True):
    model = Toy()
    object.__setattr__(model, 'frontend', Waveform(normalise=normalise))
    batch = next(iter(build.train_batches(data, source, model=model, **args)))
    assert ('clip_stats' in batch) == normalise

  def asked(model):
    data = {**config.DATA, 'fields': dict(units='units')}
    return [field.key for field in build.fields_for(data, model)]

  assert asked(Hubert(size='large')) == ['units', 'clip_stats'] and asked(Hubert()) == ['units']
  assert asked(models.get('audio_mae')()) == ['units']
  with pytest.raises(InputError, match=r'learns from units: set config\.data\.fields\.units'):
    build.fields_for(config.DATA, Hubert())


def test_statistics_are_dropped_when_the_audio_changes():
  batch = {**batch_of(), 'clip_stats': jnp.ones((len(batch_of()['audio']), 2))}
  seen = {}

  def objective(out, batch):
    seen['clip_stats'] = 'clip_stats' in batch
    return squared(out, batch)

  optimizer = optax.sgd(0.1)
  state = init_state(Toy(), optimizer, batch, 0, False)

  def trace(*augment):
    step = make_train_step(
      Toy(), objective, optimizer, schedule=lambda s: jnp.float32(0.1), augment=augment
    )
    jax.eval_shape(step, state, batch)
    return seen['clip_stats']

  louder = lambda key, batch: {**batch, 'audio': 2.0 * batch['audio']}  # noqa: E731
  labels = lambda key, batch: {**batch, 'label': batch['target']}  # noqa: E731
  both = lambda key, batch: {**louder(key, batch), 'clip_stats': batch['clip_stats'] + 1}  # noqa: E731
  assert trace() and trace(labels) and trace(both)
  assert not trace(louder) and not trace(labels, louder)


def test_a_mixed_clip_is_normalised_by_itself():
  rng = np.random.default_rng(0)
  audio = jnp.asarray(rng.standard_normal((64, 400)), jnp.float32)
  batch = {
    'audio': audio,
    'audio_mask': jnp.ones(audio.shape, bool),
    'clip_stats': jnp.ones((64, 2)),
  }
  out = AUGMENTATIONS['mix_utterances'](jax.random.key(0), batch, prob=0.5)
  mixed = np.isnan(np.asarray(out['clip_stats'])).all(axis=1)
  changed = (np.asarray(out['audio']) != np.asarray(audio)).any(axis=1)
  # A stretch of length 0 changes nothing.
  assert 15 < mixed.sum() < 49 and not (changed & ~mixed).any() and (changed & mixed).any()
