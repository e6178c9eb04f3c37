"""Texts to codes: attention to a text step by step and all at once, alignments, lists of texts."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.errors import InputError
from research.inference import alignment, audio_files, generators, speech_scores
from research.inference.generate_codes import Sampling, generate_codes
from research.inference.generators import Noted, Request, code_by_code
from research.models.code_lm import CodeLM
from research.objectives.autoregressive import BLANK, monotonic_alignment

SMALL = dict(
  width=16, depth=1, heads=2, hidden=32, dropout=0.0, max_steps=40, num_clusters=(5, 7),
  label_rate=50.0, conditions={'speaker': ('ann', 'bob')}, vectors={'voice': 3},
  text={'alphabet': 'english', 'depth': 1, 'max_tokens': 32},
)  # fmt: skip
VOICES = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]], np.float32)


@pytest.fixture(scope='module')
def speaker():
  model = CodeLM(**SMALL)
  example = {k: jnp.zeros(x.shape, x.dtype) for k, x in model.example().items()}
  shapes = jax.eval_shape(model.init, jax.random.key(0), example)
  rng = np.random.default_rng(0)
  # Larger than as they start, so that texts and voices matter.
  return model, jax.tree.map(lambda x: jnp.float32(0.7 * rng.standard_normal(x.shape)), shapes)


@pytest.fixture(scope='module')
def generator(speaker):
  return generators.make(*speaker, batch_size=2, attempts=2)


def given(speaker, texts):
  model, _ = speaker
  ids = [model.spelling.encode(text) for text in texts]
  return {'speaker': [0, 1][: len(ids)], 'voice': VOICES[: len(ids)], 'text': ids}


@pytest.mark.slow
def test_best_codes_equal_those_of_whole_clips_behind_a_text(speaker):
  model, variables = speaker
  texts, frames = ['one', 'seven, two'], 6
  conditions = given(speaker, texts)
  nothing = [np.zeros((0, 2), np.int32)] * 2
  how = Sampling(sample=False, ends=False, guidance=2.0)
  got = generate_codes(model, variables, nothing, frames, how, conditions=conditions)
  whole = jax.jit(
    lambda units, batch: model.apply(variables, {**batch, 'units': units})['logits'],
  )
  padded = np.full((2, 32), -1, np.int32)
  for row, ids in zip(padded, conditions['text']):
    row[: len(ids)] = ids
  batch = {'speaker': np.array([0, 1]), 'voice': VOICES, 'text': padded}
  none = {'speaker': np.full(2, -1), 'voice': np.full((2, 3), np.nan, np.float32)}
  none['text'] = np.full((2, 32), -1, np.int32)
  units = np.full((2, frames, 2), -1, np.int32)
  for step in range(frames + 1):
    # What is not written yet is behind this step, and cannot matter.
    own, without = (np.asarray(whole(np.maximum(units, 0), x))[:, step] for x in (batch, none))
    for q, size in enumerate(model.sets):
      if 0 <= step - q < frames:
        mixed = without[:, q, :size] + 2.0 * (own[:, q, :size] - without[:, q, :size])
        units[:, step - q, q] = mixed.argmax(axis=-1)
  np.testing.assert_array_equal(np.stack(got), units)
  others = {**conditions, 'text': conditions['text'][::-1]}
  swapped = generate_codes(model, variables, nothing, frames, how, conditions=others)
  assert [x.tolist() for x in swapped] != [x.tolist() for x in got]


def test_the_loss_of_alignments_sums_over_all_monotonic_ways():
  rng = np.random.default_rng(0)
  weights = rng.dirichlet(np.ones(3), (2, 5)).astype(np.float32)
  text_real = np.array([[True, True, True], [True, True, False]])
  steps = (5, 4)
  real = np.arange(5) < np.array(steps)[:, None]
  want = []
  for row, count, length in zip(weights, text_real.sum(1), steps):
    seen = np.concatenate([np.full((5, 1), np.exp(BLANK)), row[:, :count]], axis=1)
    seen = seen / seen.sum(axis=1, keepdims=True)
    total = 0.0
    for way in itertools.product(range(count + 1), repeat=length):
      said = [k for k, _ in itertools.groupby(way) if k]
      if said == list(range(1, count + 1)):
        total += np.prod(seen[np.arange(length), list(way)])
    want.append(-np.log(total) / count)
  # A clip that lost its text has no way through it, and one that is not there does not count.
  rows = np.array([0, 1, 0, 1])
  text_real = text_real[rows]
  text_real[2] = False
  out = {'alignment': jnp.log(weights[rows]), 'real': real[rows], 'text_real': text_real}
  valid = np.array([True, True, True, False])
  got = monotonic_alignment(out, {'valid': valid})
  np.testing.assert_allclose(got, np.mean(want), rtol=1e-5)


def along(places, u, weight=0.8):
  """Attention whose steps are at these places."""
  found = np.full((len(places), u), (1 - weight) / (u - 1))
  found[np.arange(len(places)), places] = weight
  return found


def test_skips_repeats_stalls_and_missing_ends_are_found():
  sounding = np.array([True] * 3 + [False] + [True] * 6)  # a space
  good = np.repeat(np.arange(10), 3)

  def judged(places, ended=True):
    return alignment.judge(along(places, 10), sounding, 0.05, ended)

  fine = judged(good)
  assert fine.good and fine.straight == pytest.approx(0.8) and fine.skipped == 0 == fine.back
  assert fine.said()['aligned'] and fine.stall == pytest.approx(0.15)
  # A pause may be as long as it likes.
  assert judged(np.sort(np.r_[good, [3] * 40])).good
  for places, ended, problem in (
    (good, False, 'does not end'),
    (good[good != 5][:-6], True, r'skips 33% of the sounds'),
    (np.r_[good[:24], good[6:]], True, 'goes back by 5 symbols'),
    (np.sort(np.r_[good, [5] * 19]), True, 'stays 1.1 s at one symbol'),
    (good[::-1], True, 'does not follow the text'),
  ):
    verdict = judged(places, ended)
    assert not verdict.good and problem in ', '.join(verdict.problems), verdict
  nowhere = alignment.judge(np.full((30, 10), 0.1), sounding, 0.05, True)
  assert 'does not follow the text' in nowhere.problems


def test_a_bad_alignment_is_said_again_and_the_best_kept(speaker, generator, monkeypatch):
  labels = {'speaker': 1}
  requests = [
    Request(seed=i, labels=labels, vectors={'voice': VOICES[0]}, texts={'text': text})
    for i, text in enumerate(['six', 'nine'])
  ]
  plain = generators.make(*speaker, batch_size=2, attempts=0)(requests)
  seen = []

  def judge(weights, sounding, step, ended):
    assert np.allclose(weights.sum(axis=1), 1.0, atol=1e-5) and weights.shape[1] == len(sounding)
    seen.append(weights.shape)
    good = len(seen) != 2
    return alignment.Verdict(ended, 0.5, 0.0, 0, 0.1, () if good else ('bad',))

  monkeypatch.setattr(alignment, 'judge', judge)
  first, second = generator(requests)
  assert isinstance(first, Noted) and first.said['attempts'] == 1 and second.said['attempts'] == 2
  np.testing.assert_array_equal(first.result, plain[0])
  assert second.said['aligned'] and [u for _, u in seen] == [3, 4, 4]
  # The second attempt is what another seed says.
  other = Request(
    seed=1 + code_by_code.NEXT_SEED, labels=labels, vectors=requests[1].vectors,
    texts=requests[1].texts,
  )  # fmt: skip
  seen.clear()
  np.testing.assert_array_equal(generator([other])[0].result, second.result)


def test_a_list_of_texts(generator, tmp_path):
  (tmp_path / 'list.csv').write_text(
    'text,id,speaker,seed\nseven,a,bob,4\n,b,ann,\nжук,c,ann,\n"two, six",d,bob,\n'
  )
  rows = audio_files.read_texts(tmp_path / 'list.csv')
  own = generator.generation
  known = {**own.labels, **own.texts, **own.vectors}
  rows = audio_files.completed(rows, known, voice=VOICES[0].tolist())
  assert [row['seed'] for row in rows] == [4, 1, 2, 3]
  found = audio_files.generate_files(generator, rows, tmp_path / 'out', block=2)
  assert 'empty: give words' in found[1]['error'] and "'ж'" in found[2]['error']
  lines = [json.loads(x) for x in (tmp_path / 'out/files.jsonl').read_text().splitlines()]
  assert lines == found and {'aligned', 'straight', 'problems', 'attempts'} <= set(found[3])
  codes = (tmp_path / 'out/codes.tsv').read_text().splitlines()
  assert [line.split('\t')[0] for line in codes] == ['a', 'd']
  (tmp_path / 'lines.txt').write_text('one\n\ntwo\n')
  assert audio_files.read_texts(tmp_path / 'lines.txt') == [{'text': 'one'}, {'text': 'two'}]
  for name, text, match in (
    ('bad.csv', 'word\nx\n', 'no text; it has word'),
    ('bad.json', '{}', 'no list of texts'),
    ('bad.txt', '\n', 'is empty'),
  ):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match):
      audio_files.read_texts(tmp_path / name)


def test_what_cannot_be_said(speaker, generator, tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.zeros(800), 16_000)
  asked = dict(labels={'speaker': 'ann', 'text': 'one'}, vectors={'voice': VOICES[0]})
  for change, match in (
    (dict(labels={'speaker': 'ann'}), 'says a text: give text='),
    (dict(vectors={}), 'conditioned on a vector voice'),
    (dict(vectors={'voice': VOICES[0, :2]}), r'shape \(2,\), and the model takes 3'),
    (dict(vectors={'voice': str(tmp_path / 'a.wav')}), 'parts=voice=PATH'),
    (dict(vectors={'tone': 1}), "'tone'"),
    (dict(labels={'speaker': 'cy', 'text': 'one'}), 'cy'),
    (dict(labels={'speaker': 'ann', 'text': 'a' * 40}), '40 symbols, and the model takes 32'),
    (dict(attempts=-1), 'attempts=-1'),
  ):
    with pytest.raises(InputError, match=match):
      generators.generate(*speaker, **{**asked, **change})
  for args, match in (
    (dict(text={'alphabet': 'englisch'}), "no alphabet 'englisch'"),
    (dict(text={'alphabet': 'english', 'units': 5}), 'give one of alphabet, units, states'),
    (dict(text={'depth': 1}), 'give one of'),
    (dict(text={'units': 5, 'deepth': 1}), "Did you mean 'depth'"),
    (dict(text={'units': 5, 'aligned': 2}), 'aligned=2 and 1 layers'),
    (dict(vectors={'units': 3}), 'none of units'),
    (dict(vectors={'voice': 0}), 'needs some width'),
  ):
    with pytest.raises(InputError, match=match):
      CodeLM(**{**SMALL, **args})
  states = CodeLM(**{**SMALL, 'text': {'states': 4}})
  with pytest.raises(InputError, match='states of another text model'):
    generators.make(states, {})


def test_labels_of_a_model_and_its_codec():
  names = {'speaker': ('ann', 'bob'), 'digit': 10}
  assert code_by_code._labels(names, {'speaker': 2}) == names
  assert code_by_code._labels({'speaker': 2}, {'speaker': ['ann', 'bob'], 'room': 3}) == {
    'speaker': ('ann', 'bob'), 'room': 3,
  }  # fmt: skip
  with pytest.raises(InputError, match='as speaker ann, bob, the codec bob, ann'):
    code_by_code._labels(names, {'speaker': ('bob', 'ann')})


def test_what_is_said_is_compared_with_the_text(tmp_path):
  heard = {'a.wav': 'Seven, two!', 'b.wav': 'nine'}
  judges = speech_scores.Judges(transcribe=lambda path: heard[path.rsplit('/', 1)[-1]])
  rows = [
    {'id': 'a', 'file': 'a.wav', 'text': 'seven two', 'aligned': True},
    {'id': 'b', 'file': 'b.wav', 'text': 'five', 'aligned': False},
    {'id': 'c', 'error': 'silent'},
  ]
  found = list(speech_scores.judged(tmp_path, rows, judges))
  assert [(row['wanted'], row['said']) for row in found] == [('72', '72'), ('5', '9')]
  scores = speech_scores.summary(found)
  assert scores['results'] == 2 and scores['aligned'] == 0.5 == scores['exact']
  assert scores['cer'] == pytest.approx(1 / 3)
  nearer = [{'similarity': 0.5, 'similarity_source': s} for s in (0.2, 0.6)]
  assert speech_scores.summary(nearer)['nearer_to_voice'] == 0.5
