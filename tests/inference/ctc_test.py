"""Greedy decoding, word times, and error rates against cases counted by hand."""

import numpy as np
import pytest

from research.errors import InputError
from research.inference import ctc
from research.metrics import asr
from research.text import characters

SYMBOLS = ('<s>', '<unk>', '|', 'A', 'B', 'C')


def logits(path):
  """Scores whose best symbols are a path."""
  x = np.random.default_rng(0).normal(size=(len(path), len(SYMBOLS))).astype(np.float32)
  x[np.arange(len(path)), path] = 9.0
  return x


def test_greedy_takes_the_best_symbol_of_every_frame():
  path = [0, 3, 3, 0, 3, 2, 5]
  found = ctc.Greedy()(logits(path))
  assert found.dtype == np.int32 and found.tolist() == path


def test_runs_collapse_and_blanks_keep_equal_letters_apart():
  letters = ctc.collapse(np.array([0, 3, 3, 0, 0, 3, 2, 2, 0, 5]))
  assert letters.ids.tolist() == [3, 3, 2, 5]
  assert letters.first.tolist() == [1, 5, 6, 9]
  assert letters.last.tolist() == [2, 5, 7, 9]
  # Another symbol may be the blank.
  assert ctc.collapse(np.array([3, 0, 0, 3]), blank=3).ids.tolist() == [0]
  for nothing in ([], [0, 0, 0]):
    assert [len(x) for x in ctc.collapse(np.array(nothing, np.int32))] == [0, 0, 0]


def test_words_have_the_times_of_their_letters():
  #       0  1  2  3  4  5  6  7  8  9 10 11
  path = [2, 3, 3, 0, 4, 2, 0, 2, 1, 5, 5, 0]
  found = ctc.transcript(np.array(path, np.int32), SYMBOLS, 0, 0.02, 0.245)
  assert found.text == 'AB C' and found.seconds == 0.245
  assert [w.word for w in found.words] == ['AB', 'C']
  # A starts frame 1, B is frame 4; C has frames 9 and 10: the '<unk>' before is no letter.
  np.testing.assert_allclose([w[1:] for w in found.words], [(0.02, 0.10), (0.18, 0.22)])
  silent = ctc.transcript(np.zeros(5, np.int32), SYMBOLS, 0, 0.02, 0.1)
  assert silent == ctc.Transcript('', (), 0.1)


def test_the_words_are_those_of_the_text():
  rng = np.random.default_rng(1)
  for _ in range(20):
    path = rng.choice(32, p=[0.4, *[0.02] * 3, 0.1, *[0.44 / 27] * 27], size=80).astype(np.int32)
    found = ctc.transcript(path, characters.CHARACTERS, 0, 0.02, 1.6)
    assert ' '.join(w.word for w in found.words) == found.text
    times = np.array([w[1:] for w in found.words])
    assert (times[:, 0] < times[:, 1]).all() and (times[1:, 0] >= times[:-1, 1]).all()


def test_word_errors_counted_by_hand():
  references = ['the cat sat', 'on  the mat', 'a b c d']
  hypotheses = ['the hat sat', 'on mat', 'a b c d e f']
  # hat for cat; "the" is missing; e and f are too many.
  found = asr.word_errors(references, hypotheses)
  assert found == asr.Errors(hits=8, substitutions=1, deletions=1, insertions=2)
  assert found.reference == 10 and found.rate == pytest.approx(0.4)
  assert asr.word_errors(['a'], ['b c d']).rate == 3.0
  assert asr.word_errors(['Cat'], ['cat']).substitutions == 1


def test_character_errors_count_the_spaces_between_words():
  found = asr.character_errors(['ab  cd ', 'xyz'], ['abcd', 'xaz'])
  # One space is missing of the 5 characters of 'ab cd'; a for y.
  assert found == asr.Errors(hits=6, substitutions=1, deletions=1, insertions=0)
  assert found.rate == pytest.approx(2 / 8)


def test_empty_references_count_what_was_heard_there():
  assert asr.word_errors(['', 'a b'], ['x', 'a']) == asr.Errors(1, 0, 1, 1)
  assert asr.word_errors(['', 'a b'], ['x', 'a']).rate == 1.0
  assert asr.word_errors([''], ['']).rate == 0.0
  assert asr.word_errors([''], ['x y']) == asr.Errors(0, 0, 0, 2)
  assert asr.word_errors([''], ['x y']).rate == float('inf')
  assert asr.character_errors([' '], ['']).rate == 0.0
  assert asr.word_errors([], []) == asr.Errors(0, 0, 0, 0)


def test_each_hypothesis_needs_its_reference():
  with pytest.raises(InputError, match=r'2 references .* 1 hypotheses'):
    asr.word_errors(['a', 'b'], ['a'])


def test_a_model_without_letters_is_refused():
  from tests.evals import toy

  with pytest.raises(InputError, match='Toy gives no letters'):
    ctc.check_ctc(toy.Toy())
