"""Every head of SUPERB by itself: a row is what it is alone, gradients reach every parameter, and
what does not fit is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.capabilities import Generates
from research.errors import InputError
from research.inference.translation import translate
from research.models import heads
from research.models.finetuned import Finetuned
from research.weights import tables
from research.weights.families import superb
from tests.models.subjects import SPEECH

LENGTHS = (30, 21)
LETTERS = ('_', *'abcd')
HEADS = {
  'utterance': dict(classes=5, slots=(2, 3), width=8),
  'phones': dict(vocabulary=LETTERS, width=8),
  'recurrent_ctc': dict(
    vocabulary=LETTERS, width=8, features=6, spec_augment=dict(feature_width=3, time_width=4)
  ),
  'x_vector': dict(speakers=3, width=8, pooled_width=10),
  'diarization': dict(speakers=2, features=6, num_layers=2),
  'masks': dict(signals=2, features=4, num_layers=2, n_fft=32, hop=10),
  'translation': dict(
    vocab_size=9, width=8, heads=2, hidden=12, depth=2, decoder_depth=2, channels=6
  ),
  'voice': dict(
    bins=4, width=6, channels=5, convolutions=2, prenet=4, prenet_layers=1, cells=2, ratio=1.5
  ),
}
# Arguments that do not show in the arrays.
HIDDEN = ('vocabulary', 'slots', 'spec_augment', 'hop', 'heads', 'ratio')


def batch_of(mask, hop=10):
  """What heads read beside tokens: audio of as many frames, less one."""
  audio = jax.random.normal(jax.random.key(5), (2, hop * max(LENGTHS)))
  samples = hop * (mask.sum(axis=1) - 1)
  size = hop * (mask.shape[1] - 1)
  targets = jnp.array([[3, 4, 5, 6, 2], [3, 3, 2, -1, -1]])
  audio_mask = jnp.arange(size) < samples[:, None]
  return {'audio': audio[:, :size], 'audio_mask': audio_mask, 'targets': targets}


def each(*quick):
  """Every head; those that are not quick in `make test-all` only."""
  slow = pytest.mark.slow
  marked = [pytest.param(n, marks=() if n in quick else slow) for n in HEADS]
  return pytest.mark.parametrize('name', marked)


@functools.cache
def make(name, d=12):
  head = heads.get(name)(**HEADS[name])
  tokens = jax.random.normal(jax.random.key(0), (2, max(LENGTHS), d))
  mask = jnp.arange(max(LENGTHS)) < jnp.array(LENGTHS)[:, None]
  encoded = {'batch': batch_of(mask)}
  init = jax.jit(lambda key: head.init(key, tokens, mask, encoded, False))
  variables = init(jax.random.key(1))
  return head, variables, tokens, mask


@each('recurrent_ctc', 'diarization', 'masks')
def test_rows_are_alone(name):
  head, variables, tokens, mask = make(name)
  apply = jax.jit(lambda x, mask, batch: head.apply(variables, x, mask, batch, False))
  batch = batch_of(mask)
  bad = {**batch, 'audio': jnp.where(batch['audio_mask'], batch['audio'], jnp.nan)}
  broken = apply(jnp.where(mask[:, :, None], tokens, jnp.nan), mask, {'batch': bad})
  row, n = 1, LENGTHS[1]
  one = {k: v[row : row + 1, : 10 * (n - 1)] for k, v in batch.items()}
  alone = apply(tokens[row : row + 1, :n], mask[row : row + 1, :n], {'batch': one})
  assert alone.keys() == broken.keys()
  for key, value in alone.items():
    for got, want in zip(jax.tree.leaves(broken[key]), jax.tree.leaves(value)):
      if want.ndim > 1:  # has rows
        got = got[row][tuple(slice(n) for n in want.shape[1:])]
        np.testing.assert_allclose(got, want[0], rtol=2e-5, atol=2e-5, err_msg=key)


@each('utterance', 'recurrent_ctc')
def test_gradients(name):
  head, variables, tokens, mask = make(name)

  def loss(params):
    rngs = dict(zip(('dropout', 'augment'), jax.random.split(jax.random.key(2))))
    out, _ = head.apply(
      {**variables, 'params': params}, tokens, mask, {'batch': batch_of(mask)}, True, rngs=rngs,
      mutable=['batch_stats'],
    )  # fmt: skip
    leaves = [x for x in jax.tree.leaves(out) if x.dtype == jnp.float32]
    leaves = [jnp.where(jnp.isfinite(x), x, 0.0) for x in leaves]
    return sum((x**2).sum() for x in leaves)

  flat = tables.flatten(jax.jit(jax.grad(loss))(variables['params']))
  assert {k.split('/')[0] for k in flat} <= set(head.PARAMETERS)
  for key, value in flat.items():
    if key.endswith('key/bias'):  # moves all logits of attention alike
      continue
    assert np.isfinite(value).all() and np.any(value), key


# Those whose layers of torch take seconds to compile here.
DEEP = ('translation', 'voice')


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in HEADS]
)
def test_names_of_s3prl(name):
  head, variables, *_ = make(name)
  arrays = superb.write_head(head, variables)
  hidden = {k: v for k, v in HEADS[name].items() if k in HIDDEN}
  again, back = superb.read_head(arrays, **hidden)
  assert {k: getattr(again, k) for k in HEADS[name]} == {k: getattr(head, k) for k in HEADS[name]}
  jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, dict(variables)))
  with pytest.raises(InputError, match=r'missing|none of the heads'):
    superb.read_head({k: v for k, v in arrays.items() if not k.endswith('bias')}, **hidden)


@pytest.mark.slow
def test_checkpoint_of_s3prl(tmp_path):
  torch = pytest.importorskip('torch')
  head, own, *_ = make('utterance', d=SPEECH['width'])
  arrays = {k: torch.tensor(v) for k, v in superb.write_head(head, own).items()}
  path = tmp_path / 'states-10.ckpt'
  torch.save({'Downstream': arrays, 'Featurizer': {'weights': torch.arange(3.0)}, 'Step': 10}, path)
  found, mix = superb.read_checkpoint(path)
  encoder = dict(name='hubert', args=SPEECH | dict(num_clusters=5, final_dim=4))
  head, own = superb.read_head(found, slots=(2, 3))
  plain = Finetuned(encoder=encoder)
  variables = plain.init(jax.random.key(0), example(plain))
  model, variables = superb.put_on(encoder, variables, head, own, mix)
  out = jax.jit(model.apply)(variables, example(model))
  assert out['logits'].shape == (1, 5)
  np.testing.assert_array_equal(variables['params']['layer_mix'], [0, 1, 2])
  with pytest.raises(InputError, match='another upstream'):
    superb.put_on(encoder, variables, head, own, mix[:2])
  torch.save({'model': arrays}, path)
  with pytest.raises(InputError, match='no checkpoint of s3prl'):
    superb.read_checkpoint(path)


def example(model):
  return {k: jnp.ones(v.shape, v.dtype) for k, v in model.example().items()}


@pytest.mark.parametrize(
  'name, args',
  [
    ('utterance', dict(classes=5, slots=(2, 2))),
    ('utterance', dict(classes=2, labels=('a',))),
    ('phones', dict(vocabulary=())),
    ('recurrent_ctc', dict(blank=99)),
    ('recurrent_ctc', dict(num_layers=0)),
    ('translation', dict(vocab_size=9, width=7, heads=2)),
    ('translation', dict(vocab_size=2)),
    ('voice', dict(width=5)),
  ],
)
def test_refused(name, args):
  with pytest.raises(InputError):
    heads.get(name)(**args)


@pytest.mark.slow
def test_translation_writes_step_by_step():
  head, variables, tokens, mask = make('translation')
  targets = batch_of(mask)['targets']
  teach = jax.jit(lambda batch: head.apply(variables, tokens, mask, {'batch': batch}, False))
  whole = teach({'targets': targets})['logits']
  memories = jax.jit(lambda: head.apply(variables, tokens, mask, method='remember'))()
  state = head.start(2, 8, memories)
  before = jnp.concatenate([jnp.full((2, 1), 2), jnp.maximum(targets, 0)[:, :-1]], axis=1)
  step = jax.jit(lambda token, state: head.apply(variables, token, state, method='step'))
  for i in range(targets.shape[1]):
    logits, state = step(before[:, i : i + 1], state)
    np.testing.assert_allclose(logits[:, 0], whole[:, i], atol=1e-5)
  assert isinstance(head, Generates)
  greedy = translate(head, variables['params'], tokens, mask, beams=1, max_tokens=6)
  best = translate(head, variables['params'], tokens, mask, beams=3, max_tokens=6)
  assert (best.scores().max(1) >= greedy.scores().max(1) - 1e-6).all()


@pytest.mark.slow
def test_voice_hears_its_targets():
  """With its own frames as targets it gives them again."""
  head, variables, tokens, mask = make('voice')
  apply = jax.jit(lambda batch: head.apply(variables, tokens, mask, {'batch': batch}, False))
  free = apply({})
  assert free['mel'].shape == (2, 45, 4)
  np.testing.assert_array_equal(free['mel_frames'].sum(1), [45, 31])
  everywhere = jnp.ones(free['mel'].shape[:2], bool)
  taught = apply({'mel': free['mel'], 'mel_mask': everywhere})
  np.testing.assert_allclose(taught['mel'], free['mel'], atol=1e-5)
  short = apply({'mel': free['mel'][:, :20], 'mel_mask': everywhere[:, :20]})
  assert short['mel'].shape == (2, 20, 4)
