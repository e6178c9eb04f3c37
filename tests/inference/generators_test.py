"""Audio of a small WaveNet: what it continues is what the whole network says; rows, chunks, folds,
lists of requests."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.errors import InputError
from research.inference import audio_files, generators
from research.inference.generators import Request, sample_by_sample
from research.models.wavenet import WaveNet
from research.report import generated

SMALL = dict(
  size='tiny', layers=4, stacks=2, full_context=False, frontend=dict(sample_rate=8000),
)  # fmt: skip
MEL = dict(
  size='r9y9_mol', layers=2, stacks=1, residual_channels=8, gate_channels=16, skip_channels=8,
  mixtures=2, local_channels=6, local_pad=1, scales=(4, 4), upsample_bands=3, preemphasis=0.5,
  frontend={'sample_rate': 8000},
  mel=dict(sample_rate=8000, n_fft=64, hop=16, bands=6, lowest=60.0, highest=3900.0),
)  # fmt: skip


def made(seed=0, **args):
  model = WaveNet(**args)
  example = {k: jnp.zeros(x.shape, x.dtype) for k, x in model.example().items()}
  return model, jax.jit(model.init)(jax.random.key(seed), example)


@pytest.fixture(scope='module')
def digits():
  return made(**SMALL, speakers=3, speaker_channels=4, speaker_names=('ann', 'bob', 'cy'))


@pytest.fixture(scope='module')
def vocoder():
  return made(**MEL)


def sound(samples, seed=0):
  time = np.arange(samples) / 8000
  tone = 0.3 * np.sin(2 * np.pi * 300 * time)
  return (tone + 0.05 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.mark.slow
def test_a_prompt_is_continued_as_the_whole_network_says(digits):
  model, variables = digits
  prompts = [sound(70), sound(40, 1), None]
  requests = [
    Request(samples=(0 if p is None else len(p)) + 12, prompt=p, labels={'speaker': i})
    for i, p in enumerate(prompts)
  ]
  own = generators.make(model, variables, temperature=0.0, batch_size=4)
  for i, (audio, prompt) in enumerate(zip(own(requests), prompts)):
    given = 0 if prompt is None else len(prompt)
    assert len(audio) == given + 12
    if prompt is not None:
      np.testing.assert_allclose(audio[:given], prompt, atol=1e-6)
    # Codes of the whole, each the best one behind those before it.
    samples = model.emphasised(jnp.asarray(audio)[None])
    codes = model.encode_samples(samples)
    inputs = model.inputs_of(samples, codes)
    inputs = jnp.concatenate([model.silence(1)[:, None], inputs], axis=1)
    speaker = model.apply(variables, {'speaker': np.array([i])}, method='speaker_vectors')
    out = model.apply(variables, inputs, None, speaker, method='network')[0]
    # A prompt's own samples stand at the beginning, with no silence before them.
    if prompt is not None:
      out = model.apply(variables, inputs[:, 1:], None, speaker, method='network')[0]
      best = np.asarray(out.argmax(-1))[0, given - 1 : -1]
    else:
      best = np.asarray(out.argmax(-1))[0, :-1]
    assert best.tolist() == np.asarray(codes)[0, given:].tolist()


def test_a_row_is_the_same_in_any_batch(digits):
  own = generators.make(*digits, batch_size=4)
  one = Request(samples=30, seed=5, labels={'speaker': 1})
  others = [
    Request(samples=50, seed=i, prompt=sound(20, i), labels={'speaker': i}) for i in range(3)
  ]
  (alone,) = own([one])
  together = own([*others, one])[-1]
  np.testing.assert_array_equal(alone, together)
  other = Request(samples=30, seed=6, labels={'speaker': 1})
  assert not np.array_equal(own([other])[0], alone)


def test_conditions_of_chunks_are_those_of_the_whole(vocoder):
  model, variables = vocoder
  own = generators.make(model, variables)
  frames = np.random.default_rng(0).standard_normal((1, 42, 6)).astype(np.float32)
  rows = own._rows(0, Request(source=sound(40 * 16)))
  rows = [row._replace(frames=frames[0]) for row in rows]
  conditions = sample_by_sample._Conditions(own, rows, 8 * 16)
  parts = [np.asarray(conditions(start)) for start in range(0, 40 * 16, 8 * 16)]
  whole = np.asarray(model.apply(variables, jnp.asarray(frames), method='upsampled'))
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole[:, : 40 * 16], atol=1e-5)


def test_a_vocoder_says_a_recording_again(vocoder):
  audio = sound(1000)
  (whole,) = generators.make(*vocoder)([Request(source=audio)])
  assert whole.shape == audio.shape and np.isfinite(whole).all() and whole.std() > 0
  own = generators.make(*vocoder, fold_seconds=0.04, overlap_seconds=0.01)
  (folded,) = own([Request(source=audio)])
  assert folded.shape == audio.shape
  # Folds of known samples fade into each other: their powers sum to one.
  step, shared = own.fold * 16, own.overlap * 16
  parts = [np.ones(step + shared, np.float32), np.zeros(step + shared, np.float32)]
  ups, downs = own._joined(parts), own._joined(parts[::-1])
  np.testing.assert_allclose(ups**2 + downs**2, 1.0, atol=1e-6)


def test_a_list_of_requests_goes_on(digits, tmp_path):
  soundfile.write(tmp_path / 'start.wav', sound(100), 8000)
  lines = [
    dict(id='one', seconds=0.01, speaker='bob'),
    dict(prompt='start.wav', seconds=0.01, speaker='cy'),
    dict(id='lost', prompt='missing.wav', speaker='ann'),
  ]
  (tmp_path / 'list.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  rows = audio_files.read_list(tmp_path / 'list.jsonl')
  labels = digits[0].generation.labels
  rows = audio_files.completed(rows, labels, seconds=0.02, seed=3)
  assert [row['id'] for row in rows] == ['one', 'start', 'lost']
  assert [row['seed'] for row in rows] == [3, 4, 5]
  own = generators.make(*digits, batch_size=2)

  def write(out):
    return audio_files.generate_files(own, rows, out, block=1)

  found = write(tmp_path / 'a')
  assert [row.get('seconds') for row in found[:2]] == [0.01, 0.0225]
  assert 'missing.wav' in found[2]['error'] and 'file' not in found[2]
  audio, rate = soundfile.read(tmp_path / 'a/one.wav', dtype='float32')
  assert (rate, len(audio)) == (8000, 80)
  with pytest.raises(InputError, match='is there already'):
    write(tmp_path / 'a')

  # Killed behind the first block: it is kept, and the whole is the same.
  class Killed(Exception):
    pass

  class Once:
    model, generation, calls = own.model, own.generation, 0

    def __call__(self, requests):
      self.calls += 1
      if self.calls > 1:
        raise Killed
      return own(requests)

  with pytest.raises(Killed):
    audio_files.generate_files(Once(), rows, tmp_path / 'b', block=1)
  assert (tmp_path / 'b/one.wav').exists() and not (tmp_path / 'b/files.jsonl').exists()
  assert write(tmp_path / 'b') == found
  assert (tmp_path / 'a/files.jsonl').read_bytes() == (tmp_path / 'b/files.jsonl').read_bytes()
  for name in ('one.wav', 'start.wav'):  # the header has the time of writing
    x, y = (soundfile.read(tmp_path / folder / name)[0] for folder in 'ab')
    np.testing.assert_array_equal(x, y)
  page = generated.write(tmp_path / 'a', found, 'a model').read_text()
  assert page.count('<audio') == 2 and 'missing.wav' in page


def test_what_cannot_be_asked_for(digits, vocoder):
  model, _ = digits
  who = {'speaker': 'ann'}
  for pair, args, match in (
    (digits, dict(labels={'speaker': 'dee'}), 'dee'),
    (digits, dict(), r'conditioned on speaker: give speaker=.*ann, bob, cy'),
    (
      digits,
      dict(labels=who, source=sound(100), sample_rate=8000),
      'not conditioned on recordings',
    ),
    (digits, dict(labels=who, temperature=-1.0), 'temperature=-1.0'),
    (digits, dict(labels=who, heat=1.0), "option of generation 'heat'"),
    (digits, dict(labels=who, temperature='hot'), "temperature='hot'"),
    (vocoder, dict(), 'give each result its source'),
    (vocoder, dict(source=sound(100), prompt=sound(100), sample_rate=8000), 'cannot continue'),
  ):
    with pytest.raises(InputError, match=match):
      generators.generate(*pair, 0.01, **args)
  for row, match in (
    (dict(id='../up'), 'no name of a file'),
    (dict(seed=-1), 'seed=-1'),
    (dict(seconds='long'), "seconds='long'"),
    (dict(pitch=3), "field of a request 'pitch'"),
  ):
    with pytest.raises(InputError, match=match):
      audio_files.completed([row], model.generation.labels)
