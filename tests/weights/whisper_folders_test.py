"""A Whisper as a repository of the hub, a folder, weights of ours and a run: each finds its
tokenizer."""

import json

import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.text.byte_pairs import alphabet
from research.weights import Pretrained, conversion, load, save
from research.weights.read import read_tokenizer_place
from research.weights.write import write_release
from tests.weights import hub as hubs
from tests.weights.toy import filled

SMALL = dict(
  size='nano', width=16, depth=1, decoder_depth=1, heads=1, decoder_heads=1, n_audio_ctx=32,
  n_text_ctx=16, alignment_heads=((0, 0),),
)  # fmt: skip
END = 50256
VOCABULARY = [*alphabet().values(), *(f'unused{i}' for i in range(END - 256)), '<|endoftext|>']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder of transformers, with its tokenizer."""
  model = models.get('whisper')(**SMALL)
  variables = filled(model)
  path = tmp_path_factory.mktemp('hf')
  arrays, files, _ = conversion.revert_files('whisper_hf', model, variables, '')
  write_release(path, 'whisper_hf', arrays, files)
  (path / 'vocab.json').write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
  (path / 'merges.txt').write_text('#version: 0.2\n')
  return path


def said(pretrained):
  audio = np.sin(np.arange(8000) / 7).astype(np.float32)
  how = dict(temperature=0.0, condition_on_previous_text=False)  # prompts of one width
  return pretrained.transcribe(audio, 16_000, **how).text


@pytest.mark.slow
def test_a_repository_is_fetched_with_its_tokenizer(folder, tmp_path, monkeypatch):
  files = {p.name: p.read_bytes() for p in folder.iterdir()}
  with hubs.running({'org/whisper': {**files, 'README.md': b''}}, monkeypatch, tmp_path / 'hub'):
    found = load('hf://org/whisper')
    assert said(found) == said(load(folder))
    one = load('hf://org/whisper/model.safetensors')
    assert said(one) == said(found)
  # As generation_config.json says, not all heads of the upper half of the decoder.
  assert found.model.alignment_heads == ((0, 0),)


def test_saved_weights_keep_their_tokenizer(folder, tmp_path):
  found = load(folder)
  save(found, tmp_path / 'ours')
  names = {p.name for p in (tmp_path / 'ours').iterdir()}
  assert names == {'model.safetensors', 'vocab.json', 'merges.txt'}
  assert said(load(tmp_path / 'ours')) == said(found)
  # A file alone has none beside it.
  save(found, tmp_path / 'alone' / 'w.safetensors')
  with pytest.raises(InputError, match='is no tokenizer'):
    said(load(tmp_path / 'alone' / 'w.safetensors'))
  named = load(tmp_path / 'alone' / 'w.safetensors')
  audio = np.zeros(8000, np.float32)
  assert named.transcribe(audio, 16_000, tokenizer=str(folder), temperature=0.0).seconds == 0.5


def test_a_run_names_the_tokenizer_it_was_trained_with(tmp_path):
  fields = {'tokens': {'name': 'whisper', 'args': {'tokenizer': 'bytes'}}}
  (tmp_path / 'config.json').write_text(json.dumps({'data': {'fields': fields}}))
  assert read_tokenizer_place(tmp_path) == 'bytes'
  (tmp_path / 'config.json').write_text(json.dumps({'data': {'fields': {'label': 'label'}}}))
  assert read_tokenizer_place(tmp_path) is None


def test_models_that_write_no_text():
  speechless = Pretrained('byol_a', models.get('byol_a')(), {}, 'drawn')
  with pytest.raises(InputError, match='writes no text: give a model with a CTC head, or a Whis'):
    speechless.transcribe(np.zeros(8000, np.float32), 16_000)
