"""Audio language models beside transformers: a folder of several files, and the published sizes."""

import json

import numpy as np
import pytest

from research import models
from research.inference.generate import Settings, generate
from research.models.audio_flamingo3 import time_angles
from research.nn.positions import Rotary, rotary_frequencies
from research.weights import conversion, load, tables
from research.weights.families import audio_language
from tests.contract import jit, wave
from tests.parity.golden import assert_close

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

AUDIO = dict(num_mel_bins=128, max_source_positions=60)
SMALL = dict(
  hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
  intermediate_size=48, vocab_size=96, max_position_embeddings=256,
)  # fmt: skip
TOKEN, STOP = 90, 95


def small(release):
  if release == 'qwen2_audio':
    audio = dict(
      d_model=24, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=40, **AUDIO
    )
    config = transformers.Qwen2AudioConfig(
      audio_config=audio, text_config=SMALL, audio_token_index=TOKEN
    )
    return transformers.Qwen2AudioForConditionalGeneration(config)
  audio = dict(
    hidden_size=40, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
    model_type='audioflamingo3_encoder', **AUDIO,
  )  # fmt: skip
  text = dict(SMALL, model_type='qwen2')
  config = transformers.MusicFlamingoConfig(
    audio_config=audio, text_config=text, audio_token_id=TOKEN
  )
  return transformers.MusicFlamingoForConditionalGeneration(config)


@pytest.mark.slow
@pytest.mark.parametrize('release', ['qwen2_audio', 'music_flamingo'])
def test_a_folder_of_several_files(release, tmp_path):
  """Saved by transformers, opened here: logits from the waveform on, greedy tokens, the way back
  and a folder of ours that transformers opens."""
  torch.manual_seed(0)
  theirs = small(release).eval()
  for x in theirs.parameters():
    x.data.add_(0.05 * torch.randn_like(x))
  theirs.save_pretrained(tmp_path, max_shard_size='60KB')
  assert len(list(tmp_path.glob('model-*.safetensors'))) > 2
  opened = load(tmp_path)
  model, variables = opened.model, opened.variables
  assert opened.name == ('qwen2_audio' if release == 'qwen2_audio' else 'audio_flamingo3')

  samples, rate = [17_000, 6000], model.frontend.sample_rate
  clips = [wave(i, n) for i, n in enumerate(samples)]
  extractor = transformers.WhisperFeatureExtractor(
    feature_size=128, chunk_length=model.window_samples / rate
  )
  padded = [np.pad(clip, (0, model.window_samples - len(clip))) for clip in clips]
  mel = extractor(padded, sampling_rate=rate, return_tensors='pt', padding=False)
  frames = np.arange(model.window_frames)[None] < -(-np.array(samples) // 160)[:, None]
  prompts = [[5, 6, *[TOKEN] * model.placeholders(n), 7, 8 + i] for i, n in enumerate(samples)]
  wide = max(map(len, prompts))
  tokens = np.full((2, wide), -1, np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[wide - len(prompt) :] = prompt
  real = tokens >= 0
  audio = np.full((2, max(samples) + 900), np.nan, np.float32)
  mask = np.zeros(audio.shape, bool)
  for i, clip in enumerate(clips):
    audio[i, : len(clip)], mask[i, : len(clip)] = clip, True
  batch = {'audio': audio, 'audio_mask': mask, 'tokens': tokens}
  model.check_prompts(batch)
  name = 'feature_attention_mask' if release == 'qwen2_audio' else 'input_features_mask'
  inputs = {
    'input_ids': torch.tensor(np.maximum(tokens, 0)).long(),
    'attention_mask': torch.tensor(real).long(),
    'input_features': mel['input_features'],
    name: torch.tensor(frames).long(),
  }
  with torch.no_grad():
    want = theirs(**inputs).logits.numpy()
    written = theirs.generate(
      **inputs, max_new_tokens=6, do_sample=False, eos_token_id=STOP, pad_token_id=STOP
    )[:, wide:].tolist()
  got = np.asarray(jit(model.apply)(variables, batch)['logits'])
  assert_close(got[real], want[real], what='logits')
  memories = jit(lambda v: model.apply(v, batch, method='remember'))(variables)
  settings = Settings(max_tokens=6, stop=(STOP,))
  found = generate(model, variables, prompts, settings, memories=memories).best()
  ends = [row.index(STOP) if STOP in row else len(row) for row in written]
  assert found == [row[:end] for row, end in zip(written, ends, strict=True)]
  check_beams(model, variables, theirs, inputs, prompts, memories, written[0][1])
  back, files, left = conversion.revert_files(release, model, variables)
  own = dict(audio_language.renew({k: v.numpy() for k, v in theirs.state_dict().items()}))
  assert not left and back.keys() == own.keys()
  assert all(np.array_equal(back[k], x) for k, x in own.items())
  ours = type(theirs.config).from_dict(files['config.json'])
  for part in ('text_config', 'audio_config'):
    mine, other = (getattr(c, part).to_dict() for c in (ours, theirs.config))
    for key in json.loads(json.dumps(SMALL | AUDIO)):
      assert mine.get(key) == other.get(key), key


def check_beams(model, variables, theirs, inputs, prompts, memories, stop):
  """Three beams with a stop token that ends some early, and a penalty of length."""
  rows, k, n, power = len(prompts), 3, 7, 2.0
  with torch.no_grad():
    want = theirs.generate(
      **inputs, max_new_tokens=n, do_sample=False, num_beams=k, num_return_sequences=k,
      eos_token_id=stop, pad_token_id=0, length_penalty=power, return_dict_in_generate=True,
      output_scores=True,
    )  # fmt: skip
  tokens = want.sequences[:, inputs['input_ids'].shape[1] :].reshape(rows, k, -1).tolist()
  assert any(stop in row for each in tokens for row in each)
  settings = Settings(
    max_tokens=n, stop=(stop,), beams=k, length_penalty=power, style='transformers'
  )
  found = generate(model, variables, prompts, settings, memories=memories)
  assert_close(
    found.scores(), want.sequences_scores.reshape(rows, k).numpy(), what='scores of beams'
  )
  for i in range(rows):
    for j, row in enumerate(tokens[i]):
      assert found.text(i, j) == row[: row.index(stop) if stop in row else n]


SPARSE = {
  'text_config': dict(
    model_type='qwen2', intermediate_size=11008, max_position_embeddings=8192, rope_theta=10000,
    rms_norm_eps=1e-5, vocab_size=156032, use_sliding_window=False,
  ),
  'audio_config': dict(model_type='qwen2_audio_encoder'),
  'audio_token_index': 151646,
}  # fmt: skip
FLAMINGO = {
  'text_config': dict(
    model_type='qwen2', hidden_size=3584, num_hidden_layers=28, num_attention_heads=28,
    num_key_value_heads=4, intermediate_size=18944, vocab_size=151672, rope_theta=1e6,
    max_position_embeddings=32768, rms_norm_eps=1e-6,
  ),
  'audio_config': dict(model_type='audioflamingo3_encoder'),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  ('release', 'kind', 'title', 'config', 'count'),
  [
    ('qwen2_audio', 'qwen2_audio', 'Qwen2Audio', SPARSE, 8_397_094_912),
    ('audio_flamingo3', 'audioflamingo3', 'AudioFlamingo3', FLAMINGO, 8_267_215_360),
  ],
)
def test_published_sizes_without_memory(release, kind, title, config, count):
  """Every key of the published shape is in the key table, with its shape; sparse configurations
  give the published size."""
  with torch.device('meta'):
    theirs = getattr(transformers, f'{title}ForConditionalGeneration')(
      getattr(transformers, f'{title}Config')(**config)
    )
  shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
  zeros = audio_language.renew({k: np.broadcast_to(np.float32(0), x) for k, x in shapes.items()})
  made = conversion.get(release)
  name, args = made.infer(zeros, {}, made.describe({'config.json': {**config, 'model_type': kind}}))
  model = conversion.build(name, args)
  assert model == models.get(name)(size='7b')
  own = tables.expected(model)
  assert sum(int(np.prod(x.shape)) for x in own.values()) == count
  rows = tables.expand(made.rules(model), model)
  assert {theirs for theirs, *_ in rows} == set(zeros)
  for theirs, ours, layout, heads in rows:
    assert layout.convert(zeros[theirs], heads).shape == own[ours].shape, theirs


def test_angles_of_twenty_windows():
  """At full size rounding in float32 shows: computed in the same order it is the same."""
  from transformers.models.musicflamingo import modeling_musicflamingo as theirs

  config = transformers.MusicFlamingoConfig()
  rotary = theirs.MusicFlamingoRotaryEmbedding(config)
  step = config.audio_frame_step * 4
  windows = torch.arange(20).unsqueeze(1) * 750 * step
  times = windows + torch.arange(750, dtype=torch.float32) * step
  cos, sin = (x.numpy() for x in rotary(times, 750))
  theirs_rates, base = rotary.inv_freq.numpy(), config.rope_parameters['rope_theta']
  angles = time_angles(20, 750, theirs_rates, base, config.audio_frame_step)
  assert_close(np.cos(angles), cos, relative=1e-6, what='cosine')
  assert_close(np.sin(angles), sin, relative=1e-6, what='sine')
  # torch rounds a frequency the other way.
  rates = rotary_frequencies(Rotary(base, 256), 256)
  np.testing.assert_allclose(rates, theirs_rates, rtol=2.0**-23)
  assert models.get('audio_flamingo3')(size='music_7b').time_table(20)[0].shape == cos.shape
