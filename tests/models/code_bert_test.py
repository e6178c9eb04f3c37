"""BERT over the codes of vq-wav2vec."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.features.span_masks import span_mask
from tests.models.wav2vec_test import BERT, start


@pytest.mark.slow
def test_bert_hides_what_it_predicts_and_its_codes_are_those_of_the_tokenizer():
  model = models.get('code_bert')(**BERT, dropout=0.0, attention_dropout=0.0)
  variables, batch = start(model)
  assert set(variables) == {'params', 'frozen'}
  n = model.frontend.frames(6000)
  mask = np.zeros((1, n), bool)
  mask[0, 10:20] = True
  draws = {
    'span_mask': mask,
    'replace_draws': np.full((1, n), 0.5, np.float32),
    'random_codes': np.zeros((1, n, 2), np.int32),
  }

  apply = jax.jit(model.apply)

  def call(**changes):
    return apply(variables, batch | draws | changes)

  hidden = call()
  codes, real = models.get('wav2vec')(**BERT['tokenizer']).apply(
    variables['frozen']['vq_wav2vec'], batch['audio'], batch['audio_mask'], method='encode'
  )
  np.testing.assert_array_equal(hidden['codes'], codes)
  assert np.asarray(real).all() and codes.shape == (1, n, 2)
  # Kept: as if nothing were masked. Random: what was given stands there instead.
  kept = call(replace_draws=np.full((1, n), 0.95, np.float32))
  open_ = call(span_mask=np.zeros((1, n), bool))
  np.testing.assert_allclose(kept['code_logits'], open_['code_logits'], atol=1e-6)
  np.testing.assert_array_equal(kept['span_mask'], mask)
  replaced = call(replace_draws=np.full((1, n), 0.85, np.float32))
  same = call(
    replace_draws=np.full((1, n), 0.85, np.float32), random_codes=np.asarray(codes, np.int32)
  )
  np.testing.assert_allclose(same['code_logits'], open_['code_logits'], atol=1e-6)
  for other in (replaced, hidden):
    assert np.abs(other['code_logits'] - open_['code_logits']).max() > 1e-3


@pytest.mark.slow
def test_bert_reads_long_clips_in_windows():
  model = models.get('code_bert')(**BERT, frames=16)
  variables, batch = start(model)
  heard = batch['audio'], batch['audio_mask']

  @jax.jit
  def run(variables):
    tokens, _ = model.apply(variables, *heard, method='embed')
    codes, _ = model.apply(variables, *heard, method='_codes')
    parts = []
    for first in (0, 16, 32):
      part = codes[:, first : first + 16]
      x = model.apply(variables, part, method='_embedded')
      seen = jnp.ones(part.shape[:2], bool)
      parts.append(model.apply(variables, x, seen, False, method='_encode'))
    return tokens, jnp.concatenate(parts, axis=2)

  tokens, want = run(variables)
  assert tokens.shape == (2, 1, 35, 16) and model.frontend.frames(6000) == 35
  np.testing.assert_allclose(tokens, want, atol=1e-5)


def test_cut_spans_start_at_5_percent_of_the_frames_and_end_with_the_clip():
  """Without replacement 1000 frames have 50 starts: 1 - (1 - 50 / 1000)^10 are covered, 40 %."""
  real = jnp.ones((64, 1000), bool)
  args = dict(prob=0.5, length=10, min_masks=0, cut=True)
  mask = np.asarray(span_mask(jax.random.key(0), real, **args))
  assert 0.39 < mask.mean() < 0.413
  starts = (mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]).sum(axis=1)
  assert starts.max() <= 51
  assert 0.2 < mask[:, -1].mean() < 0.6 and mask[:, 0].mean() < 0.2
  short = np.asarray(span_mask(jax.random.key(1), jnp.arange(1000) < jnp.full((64, 1), 3), **args))
  assert not short[:, 3:].any() and short[:, :3].sum() < 64


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (dict(tokenizer=dict(size='large')), 'tokenizer without codes'),
    (dict(tokenizer=dict(sise='large')), "Did you mean 'size'"),
    (dict(width=15), 'width=15'),
    (dict(size='huge'), 'huge'),
  ],
  ids=str,
)
def test_impossible_settings_of_bert_are_refused(args, words):
  with pytest.raises(InputError, match=words):
    models.get('code_bert')(**{**BERT, **args})
