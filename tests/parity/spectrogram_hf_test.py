"""AST and CLAP against transformers from the waveform on, through the folders that it saves."""

import jax
import numpy as np
import pytest

from research.weights import conversion, load
from research.weights.write import write_release
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


SMALL_AST = dict(
  hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, max_length=260,
  frequency_stride=8, time_stride=12, id2label={0: 'dog', 1: 'rain', 2: 'speech'},
)  # fmt: skip
# MIT/ast-finetuned-audioset-10-10-0.4593: the defaults, and 527 classes.
BASE_AST = dict(id2label={i: f'class {i}' for i in range(527)})


@pytest.mark.parametrize(
  ('settings', 'seconds'),
  [
    pytest.param(SMALL_AST, (1.5, 4.0), id='small'),
    pytest.param(BASE_AST, (6.0, 12.0), id='base', marks=pytest.mark.slow),
  ],
)
def test_ast(tmp_path, settings, seconds):
  """Padded, and cut; and the way back, which their class opens."""
  config = transformers.ASTConfig(**settings)
  theirs = randomized(transformers.ASTForAudioClassification(config))
  extractor = transformers.ASTFeatureExtractor(max_length=config.max_length, mean=-5.5, std=3.5)
  theirs.save_pretrained(tmp_path)
  extractor.save_pretrained(tmp_path)
  loaded = load(tmp_path)
  assert loaded.model.labels == tuple(settings['id2label'].values())
  run = jax.jit(loaded.model.apply)
  for length in seconds:
    audio = wave(RATES['ast'], length)
    with torch.no_grad():
      given = extractor(audio, sampling_rate=RATES['ast'], return_tensors='pt')
      want = theirs(**given).logits.numpy()
    batch = {'audio': audio[None], 'audio_mask': np.ones((1, len(audio)), bool)}
    assert_close(run(loaded.variables, batch)['logits'], want, what=f'{length} s')
  check_way_back(theirs, loaded, 'ast_hf', tmp_path / 'again')


def check_way_back(theirs, loaded, release, folder):
  """Every tensor comes back with its bits, in a folder that their class opens."""
  arrays, files, left = conversion.revert_files(release, loaded.model, loaded.variables)
  assert not left
  write_release(folder, release, arrays, files)
  opened, notes = type(theirs).from_pretrained(folder, output_loading_info=True)
  assert not notes['unexpected_keys'] and not notes['mismatched_keys']
  computed = ('relative_position_index', 'num_batches_tracked', 'position_ids', 'token_type_ids')
  assert all(key.endswith(computed) for key in notes['missing_keys'])
  want, got = theirs.state_dict(), opened.state_dict()
  assert set(want) == set(got)
  for key, x in want.items():
    if not key.endswith(computed):
      assert torch.equal(x, got[key]), key


SMALL_TEXT = dict(
  vocab_size=60, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=48,
  max_position_embeddings=30,
)  # fmt: skip
SMALL_AUDIO = dict(
  hidden_size=64, patch_embeds_hidden_size=8, depths=[2, 1, 1, 1], num_attention_heads=[2, 2, 4, 4]
)
# laion/clap-htsat-unfused and -fused; laion/larger_clap_general: HTSAT-base.
LARGER = dict(hidden_size=1024, patch_embeds_hidden_size=128, depths=[2, 2, 12, 2])
FUSED = dict(enable_fusion=True, fusion_type='aff_2d')
PLAIN = dict(enable_fusion=False, fusion_type=None)


@pytest.mark.parametrize(
  ('text', 'audio'),
  [
    pytest.param(SMALL_TEXT, SMALL_AUDIO | PLAIN, id='small'),
    pytest.param(SMALL_TEXT, SMALL_AUDIO | FUSED, id='small, fused'),
    pytest.param({}, PLAIN, id='unfused', marks=pytest.mark.slow),
    pytest.param({}, FUSED, id='fused', marks=pytest.mark.slow),
    pytest.param({}, LARGER | PLAIN, id='larger', marks=pytest.mark.slow),
  ],
)
def test_clap(tmp_path, text, audio):
  fusion, whole = audio['enable_fusion'], not text
  config = transformers.ClapConfig(
    text_config=text, audio_config=audio, projection_dim=512 if whole else 20
  )
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
  if whole:
    check_way_back(theirs, loaded, 'clap_hf', tmp_path / 'again')
