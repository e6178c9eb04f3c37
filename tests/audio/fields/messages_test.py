import dataclasses
import json
import pickle

import numpy as np
import pytest
import soundfile

from research.audio import fields, pipeline, sources
from research.audio.bad_files import BadFiles
from research.errors import InputError
from research.text import prompts
from research.text.prompts import qwen2_audio, qwen_audio

RATE = 16_000


@dataclasses.dataclass(frozen=True)
class Model:
  """What the field reads of a model: a token of audio every 40 ms."""

  places: tuple = (300,)
  vocab_size: int = 512
  max_tokens: int = 400

  def placeholders(self, samples):
    if samples < 640:
      raise InputError('too short')
    return min(samples, 5 * RATE) // 640 + (2 if len(self.places) > 1 else 0)


def record(answer, *clips, **columns):
  parts = [*({'audio_path': c} for c in clips), {'text': f'What about {len(clips)}?'}]
  talk = [{'role': 'user', 'content': parts}, {'role': 'assistant', 'content': answer}]
  return {'messages': talk, **columns}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Clips of 0.1 to 0.6 s, each of one value, and records about one or two of them."""
  home = tmp_path_factory.mktemp('instructions')
  (home / 'wav').mkdir()
  for i in range(1, 7):
    soundfile.write(home / f'wav/{i}.wav', np.full(i * 1600, i / 10), RATE)
  rows = [
    record('One.', 'wav/1.wav', id='x', task='a', language='en'),
    record('Two and six.', 'wav/2.wav', 'wav/6.wav', id='x', task='b'),
    record('Three.', 'wav/3.wav', task='b'),
    record('Four, and a long answer.' * 3, 'wav/4.wav', task='b'),
    record([{'audio': 'wav/5.wav'}], 'wav/5.wav', task='c'),
  ]
  (home / 'train.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  return home


def make(**args):
  return fields.make({'tokens': {'name': 'messages', 'args': {'prompt': 'qwen2_audio', **args}}})


def batches(source, model=None, **args):
  own = make(**args)
  rows = source.select(np.flatnonzero(own[0].known(source)))
  how = dict(batch_size=2, fields=own, model=model or Model(), num_threads=0)
  return rows, list(pipeline.eval_batches(rows, **how))


def test_records_are_a_source(folder):
  source = sources.open_source(str(folder / 'train.jsonl'))
  assert len(source) == 5
  assert [source.id(i) for i in range(5)] == ['x', 'x#2', 'train/3', 'train/4', 'train/5']
  assert source.column('answer') == ['text'] * 4 + ['audio']
  assert source.column('clips')[1] == ['wav/2.wav', 'wav/6.wav']
  assert source.column('language') == ['en', '', '', '', '']
  np.testing.assert_allclose(source.durations(), [0.1, 0.6, 0.3, 0.4, 0.5])
  # Rows about one clip are held out together.
  twice = [record('a', 'wav/1.wav'), record('b', 'wav/1.wav'), record('c', 'wav/2.wav')]
  (folder / 'more').mkdir()
  for split in ('train', 'test'):
    (folder / 'more' / f'{split}.jsonl').write_text('\n'.join(map(json.dumps, twice)))
  pooled = sources.open_source(
    {'name': 'messages', 'args': {'path': str(folder / 'more'), 'audio': str(folder)}}
  )
  assert len(set(pooled.recordings().tolist())) == 2
  assert len(pooled.split('test')) == 3 and pooled.column('task')[:3] == ['test'] * 3


def test_what_a_batch_holds(folder):
  rows, found = batches(sources.open_source(str(folder / 'train.jsonl')))
  assert len(rows) == 4
  tokenizer = prompts.bytes_tokenizer(qwen2_audio, (300,))
  seen = {}
  for batch in found:
    b, c, t = batch['audio'].shape
    assert (b, c) == (2, 2) and batch['audio_mask'].shape == (b, c, t)
    assert batch['tokens'].shape == batch['answer_mask'].shape and batch['tokens'].shape[1] % 8 == 0
    for i in np.flatnonzero(batch['valid']):
      seen[int(batch['index'][i])] = {k: v[i] for k, v in batch.items()}
  assert sorted(seen) == [0, 1, 2, 3]
  for row, clips in ((0, [1]), (1, [2, 6]), (2, [3]), (3, [4])):
    one = seen[row]
    lengths = one['audio_mask'].sum(axis=1)
    assert lengths.tolist() == [1600 * c for c in clips] + [0] * (2 - len(clips))
    for k, clip in enumerate(clips):
      values = one['audio'][k][one['audio_mask'][k]]
      np.testing.assert_allclose(values, clip / 10, atol=1e-3)
      assert not one['audio'][k][~one['audio_mask'][k]].any()
    wanted = [Model().placeholders(1600 * c) for c in clips]
    real = one['tokens'][one['tokens'] >= 0]
    assert int((real == 300).sum()) == sum(wanted)
    text = tokenizer.decode(real, special=True)
    for n, count in enumerate(wanted, start=1):
      assert f'Audio {n}: <|audio_bos|>{"<|AUDIO|>" * count}<|audio_eos|>\n' in text
    learned = tokenizer.decode(one['tokens'][one['answer_mask']], special=True)
    assert learned.endswith('<|im_end|>') and learned.startswith(('One', 'Two', 'Three', 'Four'))
    assert text.split('assistant\n')[1] == f'{learned}\n'


def test_training_batches_resume_and_mix(folder):
  source = sources.open_source(str(folder / 'train.jsonl'))
  own = make(mix={'a': 3.0, 'b': 1.0})
  rows = source.select(np.flatnonzero(own[0].known(source)))
  assert own[0].weights(rows).tolist() == [3.0, 1 / 3, 1 / 3, 1 / 3]
  by_row = make(mix={'a': 3.0, 'b': 1.0}, mix_by='row')[0]
  assert by_row.weights(rows).tolist() == [3.0, 1.0, 1.0, 1.0]
  how = dict(batch_size=2, seconds=0.6, fields=own, model=Model(), weights='balanced', seed=5)
  made = pipeline.train_batches(rows, num_threads=2, **how)
  first = iter(made)
  some = [next(first) for _ in range(20)]
  drawn = np.mean([b['index'] == 0 for b in some])
  assert 0.6 < drawn < 0.9
  state = first.get_state()
  after = [next(first) for _ in range(2)]
  first.close()
  again = iter(pipeline.train_batches(rows, num_threads=0, **how))
  again.set_state(state)
  for want in after:
    got = next(again)
    for key in want:
      np.testing.assert_array_equal(got[key], want[key], err_msg=key)
  again.close()
  # Batches of two lengths have two widths.
  how |= {'seconds': None, 'buckets': 2, 'weights': None}
  shapes = {(b['audio'].shape[2], b['tokens'].shape[1])
            for b in pipeline.train_batches(rows, num_threads=0, epochs=2, **how)}  # fmt: skip
  assert len(shapes) == 2 == len({t for t, _ in shapes})
  opened = own[0].open(rows, fields.Context(RATE, Model()))
  pickle.loads(pickle.dumps(opened))
  with pytest.raises(InputError, match="task 'b' has no weight"):
    make(mix={'a': 1.0})[0].weights(rows)
  with pytest.raises(InputError, match='balanced'):
    own[0].check_config({'data': {'weights': None}})


def test_sources_are_pooled(folder, tmp_path):
  import shutil

  shutil.copytree(folder / 'wav', tmp_path / 'wav')
  (tmp_path / 'more.jsonl').write_text(json.dumps(record('Other.', 'wav/2.wav', 'wav/1.wav')))
  pooled = sources.open_source([str(folder / 'train.jsonl'), str(tmp_path / 'more.jsonl')])
  assert pooled.present('task') == {'a', 'b', 'c', 'more'}
  _, found = batches(pooled.where({'task': ['a', 'more']}))
  lengths = {
    int(b['index'][i]): b['audio_mask'][i].sum(axis=1).tolist()
    for b in found for i in np.flatnonzero(b['valid'])
  }  # fmt: skip
  assert lengths == {0: [1600, 0], 1: [3200, 1600]}


def test_a_question_about_any_clip():
  source = sources.open_source('builtin').select(range(8))
  ask = ['What is said?', 'Which word is this?']
  own = make(ask=ask, answer='label')
  tokenizer = prompts.bytes_tokenizer(qwen2_audio, (300,))
  how = dict(batch_size=4, fields=own, model=Model(), seed=0, num_threads=0)
  stream = iter(pipeline.train_batches(source, seconds=float(source.durations().max()), **how))
  phrasings = set()
  for _ in range(4):
    batch = next(stream)
    for i in range(4):
      text = tokenizer.decode(batch['tokens'][i][batch['tokens'][i] >= 0], special=True)
      phrasings |= {a for a in ask if a in text}
      label = source.column('label')[batch['index'][i]]
      learned = tokenizer.decode(batch['tokens'][i][batch['answer_mask'][i]])
      assert learned == label.replace('_', ' ')
  assert phrasings == set(ask)


def test_tags_of_qwen_audio_stand_around_a_clip(folder):
  model = Model(places=(400, 401, 402))
  _, found = batches(sources.open_source(str(folder / 'train.jsonl')), model, prompt='qwen_audio')
  for batch in found:
    for i in np.flatnonzero(batch['valid']):
      clips = batch['audio_mask'][i].sum(axis=1)
      clips = clips[clips > 0]
      places = np.isin(batch['tokens'][i], model.places).sum()
      assert places == sum(model.placeholders(int(n)) for n in clips)
      # The pad is repeated, the two tags stand around it.
      assert (batch['tokens'][i] == 401).sum() == (batch['tokens'][i] == 402).sum() == len(clips)
  assert qwen_audio.FORM.filler == qwen_audio.PAD


def test_bad_rows(folder, tmp_path):
  def source(*rows, **args):
    file = tmp_path / 'data.jsonl'
    file.write_text('\n'.join(map(json.dumps, rows)))
    return sources.open_source(
      {'name': 'messages', 'args': {'path': str(file), 'audio': str(folder), **args}}
    )

  good = record('One.', 'wav/1.wav')
  for rows, sentence in (
    ([good, {'messages': [{'role': 'user', 'content': 'x'}]}], 'line 2: no clip'),
    ([good, record('a', '../x.wav')], r'line 2: .* goes up by'),
    ([good, record('a', '/etc/x.wav')], r'line 2: .* is absolute'),
    ([good, {'messages': [{'role': 'me', 'content': 'x'}]}], r'line 2, message 1\)'),
    ([{**good, 'seconds': 'long'}], 'expected seconds'),
  ):
    with pytest.raises(InputError, match=sentence):
      source(*rows)
  context = fields.Context(RATE, Model())
  with pytest.raises(InputError, match='clips is 1: raise it'):
    make(clips=1)[0].open(source(good, record('b', 'wav/1.wav', 'wav/2.wav')), context)
  with pytest.raises(InputError, match='Every row has more than the 20 tokens'):
    make(max_tokens=20)[0].open(source(good), context)
  with pytest.raises(InputError, match='hears 16000 Hz'):
    make()[0].open(source(good), fields.Context(8000, Model()))
  with pytest.raises(InputError, match='has 301 tokens, the weights have 10'):
    make()[0].open(source(good), fields.Context(RATE, Model(vocab_size=10)))
  with pytest.raises(InputError, match='takes one turn with one clip'):
    make(prompt='audio_flamingo2')[0].open(source(record('b', 'wav/1.wav', 'wav/2.wav')), context)
  with pytest.raises(InputError, match='answer in words'):
    make()[0].known(source(record([{'audio': 'wav/1.wav'}], 'wav/1.wav')))
  # A clip that is too short for a token, and one that is not there, are bad files.
  soundfile.write(folder / 'wav/short.wav', np.zeros(100), RATE)
  rows = source(good, record('b', 'wav/short.wav'), record('c', 'wav/none.wav'))
  bad = BadFiles(None, 1.0)
  how = dict(batch_size=3, fields=make(), model=Model(), bad_files=bad, num_threads=0)
  found = list(pipeline.eval_batches(rows, **how))
  assert sum(int(b['valid'].sum()) for b in found) == 1
  assert [r for b in found for r in b['index'][b['valid']]] == [0]


def test_every_model_has_a_trial_tokenizer():
  for name in prompts.names():
    module = prompts.get(name)
    places = (300, 301, 302) if module.FORM.filler else (300,)
    tokenizer = prompts.bytes_tokenizer(module, places)
    assert [tokenizer.id(mark) for mark in prompts.marks(module)] == list(places)
    # The tags of a clip, and one that is repeated, are of the model's `places`, in their order.
    assert prompts.text_tokens(module, lambda n: n, 10) == 11 - len(places)
    assert prompts.tokenizer_of(name, 'bytes', places, 20_000).size == tokenizer.size
    with pytest.raises(InputError, match='in the tokenizer of bytes'):
      prompts.check_places(module, tokenizer, [place + 1 for place in places])
    for special in module.SPECIALS:
      assert tokenizer.id(special) >= 256
    ids = tokenizer.encode(f'é{module.FORM.placeholder}{module.SPECIALS[0]}')
    mark = tokenizer.id(module.FORM.placeholder)
    assert ids.tolist() == [*'é'.encode(), mark, tokenizer.id(module.SPECIALS[0])]
  with pytest.raises(InputError, match='from 256'):
    prompts.bytes_tokenizer(qwen2_audio, (3,))
