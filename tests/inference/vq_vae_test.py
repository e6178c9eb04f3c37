"""VQ-VAE at work: recordings again from their codes, voices, codes of a language model as audio."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research import models
from research.audio import decode, sources
from research.audio.units import Units
from research.errors import InputError
from research.inference import audio_files, generators
from research.inference.generators import Request
from research.objectives.waveform import vq_vae
from research.units import code_files
from research.weights import Pretrained
from tests.contract import jit

NAMES = ('ann', 'bob')
RATE = 8000


def made(name, seed=0, **args):
  model = models.get(name)(**args)
  example = {k: jnp.zeros(x.shape, x.dtype) for k, x in model.example().items()}
  return Pretrained(name, model, jit(model.init)(jax.random.key(seed), example), 'drawn')


@pytest.fixture(scope='module')
def voice():
  return made(
    'vq_vae', size='tiny', speakers=2, speaker_names=NAMES, frontend=dict(sample_rate=RATE),
    codebook='ema_restarts',
  )  # fmt: skip


@pytest.fixture(scope='module')
def writer():
  """A language model of its codes: 8 samples each."""
  return made(
    'code_lm', width=16, depth=1, heads=2, hidden=16, num_clusters=16, label_rate=1000.0,
    frontend=dict(sample_rate=RATE), conditions=dict(speaker=2), max_steps=64, dropout=0.0,
  )  # fmt: skip


def sound(samples, seed=0):
  time = np.arange(samples) / RATE
  tone = 0.3 * np.sin(2 * np.pi * 300 * time)
  return (tone + 0.05 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


# One compiled program for all tests: two rows, the likeliest of everything.
HOW = dict(batch_size=2, temperature=0.0)


def test_a_recording_is_said_again_from_its_codes(voice):
  audio = sound(150)
  own = generators.make(voice.model, voice.variables, **HOW)
  codes = own.encode(audio)
  ann, bob = own([Request(source=audio, labels={'speaker': i}) for i in (0, 1)])
  (same,) = own([Request(units=codes, labels={'speaker': 0})])
  # 19 codes of 8 samples: silence behind the clip until they are whole.
  assert codes.shape == (19,) and ann.shape == bob.shape == audio.shape and same.shape == (152,)
  np.testing.assert_array_equal(ann, same[:150])
  assert not np.array_equal(ann, bob)

  # Every sample is the likeliest behind those before it, given the vectors and the speaker.
  def likeliest(variables, batch, codes):
    vectors = voice.model.apply(variables, codes, method='vectors_of')
    given = {**batch, 'mel': vectors, 'mel_mask': jnp.ones(codes.shape, bool)}
    inner = {'params': variables['params']['wavenet_decoder']}
    out = voice.model.wavenet().apply(inner, given)
    return out['logits'].argmax(-1), out['targets']

  batch = {'audio': same[None], 'audio_mask': np.ones((1, 152), bool), 'speaker': np.zeros(1, int)}
  best, targets = jit(likeliest)(voice.variables, batch, codes[None])
  np.testing.assert_array_equal(best, targets)


def test_losses_are_those_of_the_paper():
  rng = np.random.default_rng(0)
  x, targets = rng.standard_normal((1, 9, 5)), np.array([[0, 1, 2, 3, 4, 3, 2, -1, -1]])
  penalties = {'quantiser_loss': np.float32(0.7), 'commitment_loss': np.float32(0.2)}
  out = {'logits': x.astype(np.float32), 'targets': targets, **penalties}
  loss, metrics = vq_vae(out, {})
  p = x[0, np.arange(7), targets[0, :7]] - np.log(np.exp(x[0, :7]).sum(-1))
  np.testing.assert_allclose(metrics['bits_per_sample'], -p.mean() / np.log(2), rtol=1e-5)
  np.testing.assert_allclose(loss, -p.mean() + 0.7, rtol=1e-5)
  assert metrics['commitment_loss'] == np.float32(0.2) and metrics['sample_size'] == 7
  mel = {
    'mel': np.ones((1, 3, 2), np.float32), 'mel_mean': np.zeros((1, 3, 2), np.float32),
    'mel_mask': np.array([[True, True, False]]), **penalties,
  }  # fmt: skip
  loss, metrics = vq_vae(mel, {}, sigma=1.0)
  np.testing.assert_allclose(loss, 0.7 + 0.5 * (1 + np.log(2 * np.pi)), rtol=1e-6)
  assert metrics['mse'] == 1 and metrics['sample_size'] == 2


def test_codes_of_a_language_model_become_audio(voice, writer):
  own = generators.make(writer.model, writer.variables, codec=voice, **HOW)
  assert own.generation.labels == {'speaker': NAMES} and own.generation.prompt
  asked = [
    Request(samples=80, labels={'speaker': 1}),
    Request(samples=80, labels={'speaker': 0}, prompt=sound(40)),
  ]
  heard, behind = own(asked)
  assert all(len(x) % 8 == 0 and 0 < len(x) <= 80 for x in (heard, behind)) and len(behind) >= 40

  # Without a codec the codes themselves, which are what was heard.
  bare = generators.make(writer.model, writer.variables, **HOW)
  (codes,) = bare(asked[:1])
  assert codes.shape == (len(heard) // 8, 1) and codes.dtype == np.int32
  said = generators.make(voice.model, voice.variables, **HOW)
  (again,) = said([Request(units=codes[:, 0], labels={'speaker': 1})])
  np.testing.assert_array_equal(again, heard)


def test_codes_are_written_as_a_list(writer, tmp_path):
  rows = [dict(id='a', seconds=0.01), dict(id='b', seconds=0.01, seed=7)]
  own = generators.make(writer.model, writer.variables, **HOW)
  rows = audio_files.completed(rows, own.generation.labels, speaker=1)
  found = audio_files.generate_files(own, rows, tmp_path)
  lines = [line.split('\t') for line in (tmp_path / 'codes.tsv').read_text().splitlines()]
  assert [name for name, _ in lines] == ['a', 'b'] and [row['file'] for row in found] == [
    'codes.tsv'
  ] * 2
  listed = [json.loads(x) for x in (tmp_path / 'files.jsonl').read_text().splitlines()]
  for row, (_, words) in zip(listed, lines, strict=True):
    assert row['seconds'] == len(words.split()) / 1000 and 'codes' not in row


def test_codes_are_units_to_train_on(voice, tmp_path):
  source = sources.open_source('builtin').where(dict(kind='digit')).select([0, 3])
  model, variables = voice.model, voice.variables
  done = code_files.write_units(model, variables, source, tmp_path / 'units')
  units = Units.open(tmp_path / 'units')
  assert done['clips'] == 2 and (units.clusters, units.rate) == (16, 1000.0)
  own = generators.make(model, variables, **HOW)
  audio = decode.decode(source[1], sample_rate=RATE)
  want = own.encode(audio)[: len(audio) // 8]
  np.testing.assert_array_equal(units[source.id(1)][:50], want[:50])
  assert len(units[source.id(1)]) == units.frames(len(audio)) == len(want)


def test_what_cannot_be_asked_for(voice, writer, tmp_path):
  soundfile.write(tmp_path / 'a.wav', sound(100), RATE)
  other = models.get('vq_vae')(size='tiny', strides=(2, 2), frontend=dict(sample_rate=RATE))
  other = Pretrained('vq_vae', other, {}, 'drawn')
  mel = models.get('vq_vae')(size='log_mel', width=8, latent_dim=4, codebook_size=4)
  who = {'speaker': 1}
  for say, match in (
    (lambda: voice.generate(labels=who), 'from their codes: give each result its source'),
    (lambda: voice.generate(labels=who, units=np.array([0, 16])), 'from 0 to 15'),
    (lambda: generators.make(mel, {}), "input='log_mel': it gives spectrograms"),
    (lambda: writer.generate(0.01, labels=who, prompt=str(tmp_path / 'a.wav')), 'parts=codec'),
    (lambda: writer.generate(0.01, labels=who, codec=writer), 'CodeLM makes no audio of codes'),
    (lambda: writer.generate(0.01, labels=who, codec=other), '4 and'),
    (lambda: models.get('vq_vae')(size='log_mel', strides=(3,)), 'even ones'),
    (lambda: models.get('vq_vae')(size='huge'), "'huge'"),
  ):
    with pytest.raises(InputError, match=match):
      say()
