"""AST and CLAP against transformers from the waveform on, through the folders that it saves."""

import jax
import numpy as np
import pytest

from research.weights import load
from tests.parity.golden import assert_close

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

RATES = {'ast': 16_000, 'clap': 48_000}


def wave(rate, seconds, seed=0):
  rng = np.random.default_rng(seed)
  t = np.arange(round(rate * seconds)) / rate
  tones = np.sin(2 * np.pi * 440 * t) * np.sin(2 * np.pi * 2 * t)
  return (0.3 * tones + 0.05 * rng.standard_normal(len(t))).astype(np.float32)


def randomized(model):
  """Every parameter and statistic moved, so that a forgotten one shows."""
  torch.manual_seed(0)
  for x in (*model.parameters(), *model.buffers()):
    if x.dtype == torch.float32:
      x.data.add_(0.02 * torch.rand_like(x))
  return model.eval()


def test_ast(tmp_path):
  config = transformers.ASTConfig(
    hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
    max_length=260, frequency_stride=8, time_stride=12,
    id2label={0: 'dog', 1: 'rain', 2: 'speech'},
  )  # fmt: skip
  theirs = randomized(transformers.ASTForAudioClassification(config))
  extractor = transformers.ASTFeatureExtractor(max_length=260, mean=-5.5, std=3.5)
  theirs.save_pretrained(tmp_path)
  extractor.save_pretrained(tmp_path)
  loaded = load(tmp_path)
  assert loaded.model.labels == ('dog', 'rain', 'speech')
  for seconds in (1.5, 4.0):  # padded, and cut
    audio = wave(RATES['ast'], seconds)
    with torch.no_grad():
      given = extractor(audio, sampling_rate=RATES['ast'], return_tensors='pt')
      want = theirs(**given).logits.numpy()
    batch = {'audio': audio[None], 'audio_mask': np.ones((1, len(audio)), bool)}
    got = jax.jit(loaded.model.apply)(loaded.variables, batch)['logits']
    assert_close(got, want, what=f'{seconds} s')


@pytest.mark.parametrize('fusion', [False, True])
def test_clap(tmp_path, fusion):
  text = dict(
    vocab_size=60, hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
    intermediate_size=48, max_position_embeddings=30,
  )  # fmt: skip
  audio = dict(
    hidden_size=64, patch_embeds_hidden_size=8, depths=[2, 1, 1, 1],
    num_attention_heads=[2, 2, 4, 4], enable_fusion=fusion,
    fusion_type='aff_2d' if fusion else None,
  )  # fmt: skip
  config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=20)
  theirs = randomized(transformers.ClapModel(config))
  extractor = transformers.ClapFeatureExtractor(
    frequency_min=50, truncation='fusion' if fusion else 'rand_trunc'
  )
  theirs.save_pretrained(tmp_path)
  extractor.save_pretrained(tmp_path)
  loaded = load(tmp_path)
  clip = wave(RATES['clap'], 3.7)
  ids = np.random.default_rng(0).integers(4, 60, (2, 9))
  mask = np.ones((2, 9), int)
  ids[1, 6:], mask[1, 6:] = 1, 0
  given = extractor(clip, sampling_rate=RATES['clap'], return_tensors='pt')
  # The extractor marks a random clip as longer.
  given['is_longer'] = torch.zeros((1, 1), dtype=torch.bool)
  with torch.no_grad():
    want = theirs(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **given)
  batch = {
    'audio': clip[None],
    'audio_mask': np.ones((1, len(clip)), bool),
    'text': ids.astype(np.int32),
    'text_mask': mask > 0,
  }
  got = jax.jit(loaded.model.apply)(loaded.variables, batch)
  assert_close(got['audio_embedding'], want.audio_embeds.numpy(), what='audio')
  assert_close(got['text_embedding'], want.text_embeds.numpy(), what='text')
  assert_close(got['similarity'], want.logits_per_audio.numpy(), what='similarity')
