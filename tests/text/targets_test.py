"""Targets of SUPERB's tasks: what they refuse, and cases by hand."""

import numpy as np
import pytest

from research.errors import InputError
from research.text import phones, slots, targets


def test_refused():
  with pytest.raises(InputError, match="'WORLD'"):
    phones.pronounce('HELLO WORLD', {'HELLO': ('HH',)})
  with pytest.raises(InputError, match='as many labels'):
    slots.encode('BOS A EOS\tO O', slots.vocabulary([]))
  with pytest.raises(InputError, match="slot 'city'"):
    slots.encode('BOS ROME EOS\tO city x', slots.vocabulary(['date']))
  with pytest.raises(InputError, match='id10001'):
    targets.speaker_class('wav/10001/x.wav')
  classes = targets.intent_classes([['on', 'light', 'none']])
  with pytest.raises(InputError, match="'off'"):
    targets.intents([['off', 'light', 'none']], classes)


def test_frames_at_the_edges_of_a_chunk():
  said = [('a', 0.0, 1.0), ('b', 0.5, 5.0), ('c', 0.0, 9.0), ('a', 3.9, 4.0)]
  found = targets.speaker_frames(said, (50, 200))
  assert found.shape == (150, 3)
  assert not found[:, 0][:145].any() and found[145:, 0].all()  # ends where the chunk begins
  assert not found[:, 1:].any()  # both span it, as s3prl leaves them out
  assert targets.chunks(4321) == [(0, 2000), (2000, 4000), (4000, 4321)]


def test_random_order_is_one():
  order = targets.random_order(1000, seed=3)
  assert sorted(order) == list(range(1000)) and not np.array_equal(order, np.arange(1000))
  train, dev = targets.random_split(11, 0.8)
  assert (len(train), len(dev)) == (8, 3) and set(train) | set(dev) == set(range(11))
  assert len(targets.random_order(0)) == 0


def test_random_order_of_torch():
  torch = pytest.importorskip('torch')
  for count, seed in ((1, 0), (17, 5), (40000, 1337)):
    generator = torch.Generator().manual_seed(seed)
    want = torch.randperm(count, generator=generator).numpy()
    np.testing.assert_array_equal(targets.random_order(count, seed), want)
