"""CLAP: published sizes, clips of any length, texts, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.features.fusion import piece_starts, shrunk
from research.models.htsat import bicubic_table, relative_index, shift_bias
from research.objectives.contrastive import audio_text_contrastive
from research.weights import tables

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
  ('size', 'args', 'audio', 'text'),
  [
    # HTSAT of 30,241,687 parameters, 278,256 of them in a head that nothing uses; with fusion
    # 30,256,327; Cnn14 of 80,753,615; roberta-base, gpt2, bert-base-uncased without its pooler.
    pytest.param('laion', {}, 30_241_687 - 527 * 528, 124_645_632, marks=SLOW),
    ('laion', dict(fusion=True), 30_256_327 - 527 * 528, 124_645_632),
    pytest.param('microsoft_2023', {}, 30_241_687 - 527 * 528, 124_439_808, marks=SLOW),
    pytest.param('microsoft_2022', {}, 80_753_615, 109_482_240 - 768 * 769, marks=SLOW),
  ],
)
def test_published_sizes(size, args, audio, text):
  shapes = tables.expected_shapes(models.get('clap')(size=size, classes=527, **args))
  count = {'audio': 0, 'text': 0}
  for name, shape in shapes.items():
    for side in count:
      if name.startswith(f'params/{side}_tower/'):
        count[side] += int(np.prod(shape))
  assert count == {'audio': audio, 'text': text}


def test_windows_of_swin():
  index = relative_index(2)
  # Offsets (0, 0), (0, -1), (-1, 0), (-1, -1) of the first token to all of a window.
  assert index[0].tolist() == [4, 3, 1, 0]
  assert (np.diagonal(index) == 4).all()
  bias = shift_bias(4, 2, 1)
  assert bias.shape == (4, 4, 4)
  assert not bias[0].any()  # no seam in the first window
  assert (bias[3] == np.where(np.eye(4, dtype=bool), 0, -100)).all()  # four corners of the image


def test_bicubic_keeps_corners_and_constants():
  table = bicubic_table(7, 16)
  np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-6)
  assert table[0, 0] == table[-1, -1] == 1.0
  np.testing.assert_array_equal(bicubic_table(9, 9), np.eye(9, dtype=np.float32))


def test_pieces_of_long_clips():
  """Starts 0 … total - 10 in three parts, longer ones first; an empty part gives 0."""
  total = np.array([16, 12, 11], np.int32)  # 7, 3 and 2 starts
  low, high = (piece_starts(total, 10, np.full((3, 3), u, np.float32)) for u in (0.0, 0.999))
  assert low.tolist() == [[0, 3, 5], [0, 1, 2], [0, 1, 0]]
  assert high.tolist() == [[2, 4, 6], [0, 1, 2], [0, 1, 0]]
  x = jnp.arange(16.0)[None, :, None]
  got = shrunk(x, np.array([16], np.int32), 8)[0, :, 0]
  np.testing.assert_allclose(np.diff(got)[1:-1], 2.0, atol=1e-5)
  np.testing.assert_array_equal(shrunk(x, np.array([8], np.int32), 8)[0, :, 0], np.arange(8.0))


def test_a_pair_that_fits_has_no_loss_and_fillers_do_not_count():
  vectors = np.eye(3, dtype=np.float32)
  out = {
    'audio_embedding': vectors,
    'text_embedding': vectors,
    'logit_scale': np.array([100.0], np.float32),
  }
  loss, metrics = audio_text_contrastive(out, {})
  assert float(loss) < 1e-6 and float(metrics['audio_to_text']) == 1.0
  wrong = out | {'text_embedding': vectors[[1, 0, 2]]}
  loss, metrics = audio_text_contrastive(wrong, {})
  assert float(loss) == pytest.approx(100 * 2 / 3, rel=1e-5)
  assert float(metrics['text_to_audio']) == pytest.approx(1 / 3)
  # The third clip alone is real: nothing else is compared with it.
  loss, metrics = audio_text_contrastive(wrong, {'valid': np.array([False, False, True])})
  assert float(loss) == 0.0 and float(metrics['audio_to_text']) == 1.0


def test_what_does_not_fit_is_refused():
  make = models.get('clap')
  with pytest.raises(InputError, match="Unknown size of CLAP 'laoin'"):
    make(size='laoin')
  with pytest.raises(InputError, match="fusion with audio='cnn14'"):
    make(size='microsoft_2022', fusion=True)
  with pytest.raises(InputError, match='text_width=10 and text_heads=4'):
    make(size='tiny', text_width=10, text_heads=4)
  model = make(size='tiny', vocabulary=20, positions=8)
  shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b), model.example())
  long = (jax.ShapeDtypeStruct((1, 9), jnp.int32), jax.ShapeDtypeStruct((1, 9), jnp.bool_))
  with pytest.raises(InputError, match='9 tokens, and this model 6 positions'):
    jax.eval_shape(lambda v, *b: model.apply(v, *b, method='embed_texts'), shapes, *long)
