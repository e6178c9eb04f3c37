"""Answers of models that listen through gates (Audio Flamingo 1 and 2)."""

import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.inference.chat import Chat
from research.text import prompts
from research.text.messages import question
from research.weights import tables
from tests.contract import jit, wave
from tests.models.subjects.audio_flamingo import SMALL
from tests.models.subjects.audio_flamingo2 import SMALL2
from tests.weights.toy import filled

ARGS = dict(tied=False, vocab_size=512, audio_token=300, max_tokens=400)


def chat(name, small, **options):
  model = models.get(name)(**(small | ARGS))
  flat = tables.flatten(filled(model))
  # Large enough that answers differ.
  flat = {k: x if k.endswith('/var') else 4.0 * x for k, x in flat.items()}
  # Printable bytes alone.
  head = flat['params/language_model/lm_head/kernel']
  head[:, :33] = head[:, 127:] = 0.0
  tokenizer = prompts.tokenizer_of(name, 'bytes', (300,), 512)
  return Chat(model, tables.nest(flat, model), tokenizer, max_new_tokens=5, **options)


def turns(*texts):
  """A clip in every turn of the user."""
  found = []
  for i, text in enumerate(texts):
    found.append({'role': 'user', 'content': [{'audio': i}, {'text': text}]})
    found.append({'role': 'assistant', 'content': 'no'})
  return found[:-1]


@pytest.mark.slow
@pytest.mark.parametrize('name, small', [('audio_flamingo', SMALL), ('audio_flamingo2', SMALL2)])
def test_answers_are_the_likeliest_tokens_and_alone_as_in_a_batch(name, small):
  own = chat(name, small, num_beams=1, do_sample=False)
  clips = [wave(0, 3000), wave(1, own.model.max_samples)]
  asked = [own.ask([clips[0]], question('What is it?', 0)), own.ask([clips[1]], question('A?', 0))]
  if name == 'audio_flamingo':
    asked.append(own.ask(clips, turns('One?', 'And two?')))
  texts = own.answers(asked)
  # The last word counts more than what was heard in the second one.
  assert all(texts) and (name == 'audio_flamingo2' or len(set(texts)) > 1)
  assert [own.answers([each])[0] for each in asked] == texts
  # All at once, without a cache.
  rows = [[*each.ids, *own.tokenizer.encode(text)] for each, text in zip(asked, texts, strict=True)]
  tokens = np.full((len(rows), max(map(len, rows))), -1, np.int32)
  c = max(len(each.clips) for each in asked)
  audio = np.zeros((len(rows), c, own.model.max_samples), np.float32)
  lengths = np.zeros(audio.shape[:2], int)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
    for j, clip in enumerate(asked[i].clips):
      audio[i, j, : len(clip)], lengths[i, j] = clip, len(clip)
  mask = np.arange(audio.shape[2]) < lengths[..., None]
  batch = {'audio': audio, 'audio_mask': mask, 'tokens': tokens}
  own.model.check_prompts(batch)
  out = jit(lambda v: own.model.apply(v, batch)['logits'])(own._variables)
  for i, (each, row) in enumerate(zip(asked, rows, strict=True)):
    best = np.asarray(out)[i, len(each.ids) - 1 : len(row) - 1].argmax(axis=-1)
    assert best.tolist() == row[len(each.ids) :]


def test_published_decoding_and_clips_that_are_too_many():
  own = chat('audio_flamingo', SMALL)
  assert own.settings.beams == 3 and own.settings.style == 'transformers_4_27'
  clips = [wave(i, 2000) for i in range(3)]
  with pytest.raises(InputError, match='has 3 clips and this audio_flamingo takes up to 2'):
    own.ask(clips, turns('One?', 'Two?', 'Three?'))
  with pytest.raises(InputError, match='A clip has 0'):
    own.ask([wave(0, 12_000)], question('What?', 0))
  other = chat('audio_flamingo2', SMALL2)
  assert other.settings.sample and other.settings.top_k == 30
  with pytest.raises(InputError, match='one turn with one clip'):
    other.ask(clips[:2], turns('One?', 'Two?'))
