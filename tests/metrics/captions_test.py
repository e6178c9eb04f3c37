import math

import pytest

from research.errors import InputError
from research.metrics import captions

REFERENCES = [
  ['a dog barks while rain falls', 'rain falls and a dog barks loudly', 'dog barking in the rain'],
  ['people talk', 'a crowd of people talk in a hall'],
  ['a car passes by on a wet road'],
]
CAPTIONS = ['a dog barks in the rain', 'people talk in a hall', 'a train passes by']
RECORDED = {'bleu4': 0.56133627, 'rouge_l': 0.7370144746433406, 'cider': 3.0948923721966035}


def test_values_of_coco_caption():
  # pycocoevalcap 1.2 on the same words.
  found = captions.caption_scores(REFERENCES, CAPTIONS)
  for key, value in RECORDED.items():
    assert found[key] == pytest.approx(value, rel=1e-8), key


def test_values_by_hand():
  # 4 of 5 words, 3 of 4 pairs, 2 of 3, 1 of 2; the nearest reference has 5 words.
  references, caption = [[['a', 'b', 'c', 'd', 'x'], ['z', 'z']]], [['a', 'b', 'c', 'd', 'e']]
  assert captions.bleu(references, caption) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)
  assert captions.bleu(references, [['a', 'b', 'c', 'd']]) == pytest.approx(math.exp(1 - 5 / 4))
  # Subsequence a c: precision 2/3, recall 2/4.
  p, r, b = 2 / 3, 2 / 4, 1.44
  found = captions.rouge_l([[['a', 'b', 'c', 'd']]], [['a', 'x', 'c']])
  assert found == pytest.approx((1 + b) * p * r / (r + b * p))
  # Two clips: every word is in one of them, so weights are log 2 and cancel. Equal captions get 10
  # for the orders that they have: one word has no pairs.
  assert captions.cider_d([[['a']], [['b']]], [['a'], ['b']]) == pytest.approx(2.5)
  # One word more: cosine 1 / sqrt 2 in single words; lengths in pairs of words differ by one.
  found = captions.cider_d([[['a']], [['b']]], [['a', 'c'], ['b']])
  idf_a, idf_c = math.log(2), math.log(2)
  cosine = idf_a / math.hypot(idf_a, idf_c)
  assert found == pytest.approx((2.5 * cosine * math.exp(-1 / 72) + 2.5) / 2)
  assert captions.cider_d([[['a']]], [['a']]) == 0.0
  assert captions.words("It's a well-known Song, no. 5!") == [
    "it's",
    'a',
    'well-known',
    'song',
    'no',
    '5',
  ]


def test_refused():
  with pytest.raises(InputError, match='Java'):
    captions.spice(REFERENCES, CAPTIONS)
  with pytest.raises(InputError, match='at least one reference'):
    captions.caption_scores([[], ['a'], ['b']], CAPTIONS)
  with pytest.raises(InputError, match='3 lists of references for 2'):
    captions.caption_scores(REFERENCES, CAPTIONS[:2])
