"""Voice in recordings: of the built-in corpus and of LibriSpeech, in silence and in noise."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from research.audio import sources
from research.audio.decode import decode
from research.inference import voice, whisper_windows
from research.inference.whisper_segments import Segment, Word
from tests.parity.golden import CHECKOUT

RATE = 16_000
SPEECH = Path(os.environ.get('OIDO_DATA') or CHECKOUT.parent / 'shared' / 'data')
SPEECH = SPEECH / 'librispeech_test_clean_sub'


def noise(seconds, level=0.1, seed=0):
  rng = np.random.default_rng(seed)
  return (level * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def joined(clips, pauses):
  """Clips behind pauses, and when each is there."""
  parts, times, at = [], [], 0
  for clip, pause in zip(clips, pauses, strict=True):
    parts += [np.zeros(round(pause * RATE), np.float32), clip]
    times.append(((at := at + len(parts[-2])) / RATE, (at := at + len(clip)) / RATE))
  return np.concatenate(parts), times


def uncovered(audio, windows):
  """Fraction of the energy that no window holds."""
  inside = np.zeros(len(audio), bool)
  for start, end in windows:
    inside[start:end] = True
  return float(np.square(audio[~inside]).sum() / np.square(audio).sum())


@pytest.fixture(scope='module')
def words():
  """Recordings of the built-in corpus."""
  source = sources.open_source({'name': 'builtin', 'args': {'where': {'kind': 'digit'}}})
  return [decode(source[i], sample_rate=RATE) for i in range(0, 120, 4)]


def test_words_between_pauses(words):
  pauses = np.random.default_rng(0).uniform(0.8, 1.5, len(words))
  audio, times = joined(words, pauses)
  found = voice.Detector().utterances(audio, RATE)
  assert all(a < b <= c for (a, b), (c, _) in itertools.pairwise(found))
  missed = [t for t in times if not any(a < t[1] and t[0] < b for a, b in found)]
  assert len(missed) <= 1, missed
  padding = 2 * voice.Detector().pad * len(found)
  assert sum(b - a for a, b in found) - padding < sum(b - a for a, b in times)
  assert uncovered(audio, [(round(a * RATE), round(b * RATE)) for a, b in found]) < 0.01
  louder = voice.Detector().utterances(0.3 * audio, RATE)
  np.testing.assert_allclose(louder, found, atol=0.15)


@pytest.mark.parametrize('level', [0.0, 1e-4, 0.1])
def test_no_voice_in_silence_noise_and_hum(level):
  assert voice.Detector().utterances(noise(20, level), RATE) == []
  hum = level * np.sin(2 * np.pi * 50 * np.arange(20 * RATE) / RATE)
  assert voice.Detector().utterances(hum.astype(np.float32), RATE) == []
  assert voice.cut(noise(20, level), RATE) == []
  assert voice.Detector().utterances(np.zeros(3, np.float32), RATE) == []


def test_windows_hold_whole_utterances(words):
  """Of 5 s at most; cut at the longest pauses, and not within words."""
  pauses = np.random.default_rng(1).uniform(0.5, 2.0, len(words))
  audio, times = joined(words, pauses)
  windows = voice.cut(audio, RATE, 5.0)
  assert all(0 <= a < b <= len(audio) and b - a <= 5 * RATE for a, b in windows)
  assert all(b <= c for (_, b), (c, _) in itertools.pairwise(windows))
  for start, end in times:
    middle = (start + end) / 2 * RATE
    holds = [w for w in windows if w[0] <= middle < w[1]]
    if holds:
      assert holds[0][0] <= (start + 0.1) * RATE and (end - 0.15) * RATE <= holds[0][1]
  assert uncovered(audio, windows) < 0.01
  assert len(windows) < len(audio) / RATE / 5.0 * 2


def test_what_has_no_pause_is_cut_where_it_is_quiet(words):
  """A second of voice on and on, with a weaker moment."""
  voiced = np.tile(words[0][: RATE // 4], 60)
  voiced[7 * RATE : 7 * RATE + 1600] *= 0.1
  windows = voice.cut(voiced, RATE, 10.0)
  assert all(b - a <= 10 * RATE for a, b in windows)
  assert uncovered(voiced, windows) < 1e-3
  assert any(abs(b - 7 * RATE - 800) < 1600 for _, b in windows)


def test_fixed_windows():
  assert voice.fixed(70 * RATE, RATE, 30.0, 5.0) == [
    (0, 30 * RATE), (25 * RATE, 55 * RATE), (50 * RATE, 70 * RATE),
  ]  # fmt: skip
  assert voice.fixed(10, RATE, 30.0, 5.0) == [(0, 10)]


@pytest.mark.slow
@pytest.mark.skipif(not SPEECH.is_dir(), reason=f'no {SPEECH}')
def test_librispeech():
  """Forty clips behind pauses of 0.5 to 2.5 s, clean and with noise of 10 dB less."""
  source = sources.open_source(str(SPEECH))
  rng = np.random.default_rng(0)
  clips = [decode(source[int(i)], sample_rate=RATE) for i in rng.permutation(len(source))[:40]]
  audio, _ = joined(clips, rng.uniform(0.5, 2.5, 40))
  noisy = audio + np.float32(10**-0.5 * audio.std()) * noise(len(audio) / RATE, 1.0)[: len(audio)]
  for heard, lost in ((audio, 1e-4), (noisy, 1e-3)):
    windows = voice.cut(heard, RATE)
    assert all(b - a <= 30 * RATE for a, b in windows)
    assert uncovered(audio, windows) < lost
    assert len(windows) < 1.7 * len(audio) / RATE / 30
    # Windows end in pauses: between clips, or in those of a reader.
    level, _ = voice.measures(audio, RATE)
    for _, end in windows:
      near = level[max(0, end // 160 - 5) : end // 160 + 5]
      assert not len(near) or near.min() < np.percentile(level, 60)


# -- Texts of windows as one -------------------------------------------------------------------


def segment(start, end, tokens, words=False):
  span = (end - start) / len(tokens)
  each = [
    Word(f' {t}', [t], start + i * span, start + (i + 1) * span, 0.9) for i, t in enumerate(tokens)
  ]
  return Segment(0, 0, start, end, text(tokens), list(tokens), 0.0, -0.1, 1.0, 0.0, each)


def text(tokens):
  return ''.join(f' {t}' for t in tokens)


def test_overlaps_are_heard_once():
  """The end of one window is the beginning of the next, up to a token that differs."""
  said = list(range(100, 130))
  first = [segment(0.0, 20.0, said[:10]), segment(20.0, 30.0, [*said[10:17], 7])]
  second = [segment(0.0, 10.0, [9, *said[14:20]]), segment(10.0, 25.0, said[20:])]
  found = whisper_windows.joined([(0.0, 30.0), (25.0, 50.0)], [first, second], text, 1000, 100.0)
  assert [t for s in found for t in s.tokens] == said
  assert ''.join(s.text for s in found) == text(said)
  assert [s.id for s in found] == list(range(len(found)))
  starts = [s.start for s in found]
  assert starts == sorted(starts) and found[-1].end == 50.0 and found[-1].seek == 2500
  assert [w.tokens[0] for s in found for w in s.words] == said
  # Nothing in common: everything stays.
  apart = whisper_windows.joined(
    [(0.0, 30.0), (25.0, 50.0)],
    [[segment(26.0, 30.0, [1, 2])], [segment(0.0, 4.0, [3, 4])]], text, 1000, 100.0,
  )  # fmt: skip
  assert [s.tokens for s in apart] == [[1, 2], [3, 4]]


def test_the_middle_of_what_both_have_heard():
  keep, drop = whisper_windows.middle([1, 2, 3, 4, 5], [3, 4, 5, 6])
  assert [1, 2, 3, 4, 5][:keep] + [3, 4, 5, 6][drop:] == [1, 2, 3, 4, 5, 6]
  assert whisper_windows.middle([1, 2], [3, 4]) == (2, 0)
  assert whisper_windows.middle([], [3]) == (0, 0)
