import math

import numpy as np
import pytest

from research.errors import InputError
from research.metrics import answers, ordinal
from research.text.normalize import normalize_qwen


def test_numbers_in_answers():
  for text, want in (
    ('4', 4.0),
    ('It is about -2.5 dB.', -2.5),
    ('1,250 Hz', 1250.0),
    ('between 3 and 4', None),
    ('3, yes: 3', 3.0),
    ('no idea', None),
    ('1e3', 1000.0),
    ('MP3', None),
    ('', None),
  ):
    assert answers.number(text) == want, text


def test_options_in_answers():
  animals = ['dog', 'hot dog', 'cat', 'a bird']
  for text, want in (
    ('(B)', 1),
    ('b', 1),
    ('C. cat', 2),
    ('The answer is D', 3),
    ('I hear a dog.', 0),
    ('A hot dog', 1),
    ('a cat or a dog', None),
    ('Either (A) or (C)', None),
    ('(A) cat', None),
    ('A horse', None),
    ('', None),
  ):
    assert answers.option(text, animals) == want, text


def test_multiple_choice():
  options = [['yes', 'no']] * 4
  assert answers.option_accuracy(['(A)', 'No.', 'B', 'perhaps'], options, [0, 1, 0, 0]) == (
    0.5,
    0.25,
  )


def test_sequences_and_matches():
  assert answers.exact_match([' Yes', 'no', 'maybe'], ['yes', 'NO ', 'no']) == pytest.approx(2 / 3)
  assert [answers.text_or_none(t) for t in (' a ', 'N/A.', '', 'none')] == ['a', None, None, None]
  errors = answers.sequence_errors(['Hello, world', None, 'a b'], ['hello world', 'x', 'a c'])
  assert errors.rate == 0.25
  assert answers.missing_rate([None, 1, 'a', None]) == 0.5
  assert answers.squared_errors([1.0, None, 4.0], [2.0, 9.0, 6.0]) == 2.5
  assert math.isnan(answers.squared_errors([None], [1.0]))
  for call in (
    lambda: answers.exact_match(['a'], []),
    lambda: answers.missing_rate([]),
    lambda: ordinal.mean_absolute_error(np.array([], int), np.array([], int)),
  ):
    with pytest.raises(InputError):
      call()


def test_kappa_by_hand():
  # Observed mean (1 + 0 + 4) / 3; by chance, of all 9 pairs: (0+1+4 + 1+0+1 + 4+1+0) / 9.
  found = ordinal.quadratic_weighted_kappa(np.array([0, 1, 2]), np.array([1, 1, 0]))
  assert found == pytest.approx(1 - (5 / 3) / ((1 + 1 + 0 + 0 + 0 + 1 + 1 + 1 + 4) / 9))


def test_transcripts_as_qwen_audio_scores_them():
  said = "<|en|>Mr. Smith doesn't  know , does he ?"
  assert normalize_qwen(said) == 'mister smith does not know does he'
  assert normalize_qwen('Ça va , Zoé ? ', 'fr') == 'ça va zoé'
  with pytest.raises(InputError, match='cn_tn'):
    normalize_qwen('你好', 'zh')
