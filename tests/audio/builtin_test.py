"""The built-in corpus matches its docstring."""

import collections
import itertools
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from research.audio.builtin import events, generate
from research.audio.builtin_sequences import generate as sequences
from research.audio.decode import decode
from research.audio.sources import open_source

FOLDER = pathlib.Path(generate.__file__).parent


@pytest.fixture(scope='module')
def corpus():
  return open_source('builtin')


def test_every_clip_is_16_khz_mono_16_bit_flac_and_not_silent(corpus):
  for example in corpus:
    info = soundfile.info(example.path)
    assert (info.samplerate, info.channels, info.format, info.subtype) == (
      16000, 1, 'FLAC', 'PCM_16',
    )  # fmt: skip
    audio = decode(example, sample_rate=16000)
    assert 0.15 < len(audio) / 16000 < 6
    assert 0.005 < np.abs(audio).max() < 0.2, example.id
    assert np.abs(np.diff(audio)).min() < np.abs(audio).max()


def test_it_is_small():
  size = sum(f.stat().st_size for f in FOLDER.rglob('*') if f.suffix in ('.flac', '.csv'))
  assert 3e6 < size < 5e6


def test_classes_and_splits(corpus):
  kinds = collections.Counter(corpus.column('kind'))
  assert kinds == {'digit': 250, 'word': 250, 'sentence': 25, 'event': 300}
  for kind, classes in (('digit', generate.DIGITS), ('word', generate.WORDS)):
    assert corpus.where({'kind': kind}).classes('label') == tuple(sorted(classes))
  assert corpus.where({'kind': 'event'}).classes('label') == tuple(sorted(events.EVENTS))
  for kind in ('digit', 'word', 'event'):
    part = corpus.where({'kind': kind})
    for split in ('train', 'valid', 'test'):
      assert set(part.split(split).column('label')) == set(part.classes('label')), (kind, split)
  splits = dict(zip(corpus.column('fold'), corpus.column('split')))
  assert splits == {'0': 'train', '1': 'train', '2': 'train', '3': 'valid', '4': 'test'}


def test_no_speaker_is_in_two_folds(corpus):
  folds = collections.defaultdict(set)
  for speaker, fold in zip(corpus.column('speaker'), corpus.column('fold')):
    if speaker:
      folds[speaker].add(fold)
  assert len(folds) == 25
  assert all(len(f) == 1 for f in folds.values())
  assert collections.Counter(f for (f,) in folds.values()) == dict.fromkeys('01234', 5)


def test_files_and_rows_match(corpus):
  listed = {e.id for e in corpus}
  found = {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob('*.flac')}
  assert listed == found


def test_events_are_reproduced_from_the_seed(corpus):
  made = {row['path']: audio for row, audio in generate.sounds(generate.SEED, per_class=3)}
  ids = [e.id for e in corpus if e.id in made]
  assert len(ids) == len(made) == 36
  off = 0
  for id in ids:
    audio, _ = soundfile.read(FOLDER / id, dtype='int16')
    assert len(audio) == len(made[id])
    difference = np.abs(audio.astype(int) - made[id])
    # Another maths library may round a sample differently.
    assert difference.max() <= 1, id
    off += difference.sum()
  assert off < 1000
  other = {row['path']: audio for row, audio in generate.sounds(generate.SEED + 1, per_class=1)}
  assert not np.array_equal(other[ids[0]], made[ids[0]])


@pytest.mark.skipif(shutil.which('espeak-ng') is None, reason='espeak-ng is not installed')
def test_speech_is_reproduced_from_the_seed(corpus):
  rows = generate.speech(generate.SEED)
  for _ in range(3):
    row, audio = next(rows)
    kept, _ = soundfile.read(FOLDER / row['path'], dtype='int16')
    if len(kept) != len(audio):
      pytest.skip('another version of espeak-ng')
    assert np.abs(kept.astype(int) - audio).max() <= 1


@pytest.mark.parametrize('name', events.EVENTS)
def test_events_vary_and_are_finite(name):
  rng = np.random.default_rng(0)
  a, b = events.EVENTS[name](rng, 8000), events.EVENTS[name](rng, 8000)
  for x in (a, b):
    assert x.shape == (8000,) and np.isfinite(x).all() and np.abs(x).max() > 0.05
  assert abs(np.corrcoef(a, b)[0, 1]) < 0.9


# -- The built-in sequences --------------------------------------------------------------------


@pytest.fixture(scope='module')
def sequences_corpus():
  return open_source('builtin_sequences')


def test_sequences_are_a_second_of_opus_and_small(sequences_corpus):
  folder = pathlib.Path(sequences.__file__).parent
  assert 8e6 < sum(f.stat().st_size for f in folder.rglob('*.ogg')) < 10e6
  assert len(sequences_corpus) == len(list(folder.rglob('*.ogg')))
  for example in sequences_corpus.select(range(0, len(sequences_corpus), 97)):
    info = soundfile.info(example.path)
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, 'OPUS')
    audio = decode(example, sample_rate=16000)
    assert len(audio) == 16000 and 0.05 < np.abs(audio).max() <= 1.0, example.id


def test_classes_of_sequences_are_balanced_and_voices_are_in_one_split(sequences_corpus):
  kinds = {'glide': (9, 96), 'pair': (12, 80), 'phrase': (12, 80)}
  for kind, (classes, clips) in kinds.items():
    part = sequences_corpus.where({'kind': kind})
    counts = collections.Counter(part.column('label'))
    assert len(counts) == classes and set(counts.values()) == {clips}
    for split in ('train', 'valid', 'test'):
      assert len(set(collections.Counter(part.split(split).column('label')).values())) == 1
  splits = collections.defaultdict(set)
  for speaker, split in zip(sequences_corpus.column('speaker'), sequences_corpus.column('split')):
    if speaker:
      splits[speaker].add(split)
  assert len(splits) == 80 and all(len(s) == 1 for s in splits.values())


def test_sequences_come_from_their_seed(sequences_corpus):
  rows = {r['path']: audio for r, audio in itertools.islice(sequences.pairs(), 2)}
  for path, audio in rows.items():
    made = sequences.finish(sequences._random('finish', path), audio)
    (example,) = [e for e in sequences_corpus if e.id == path]
    kept = decode(example, sample_rate=16000)
    # Opus changes the samples; what is heard stays.
    assert np.corrcoef(made, kept)[0, 1] > 0.9


def test_parts_of_a_pair_are_in_the_order_of_its_label():
  rng = np.random.default_rng(0)
  made = [audio for row, audio in sequences.pairs() if row['label'] == 'beep then noise burst'][:8]
  for audio in made:
    half = len(audio) // 2

    def flatness(x):
      power = np.abs(np.fft.rfft(x * np.hanning(len(x)))) ** 2 + 1e-12
      return np.exp(np.log(power).mean()) / power.mean()

    assert flatness(audio[:half] + 1e-9 * rng.standard_normal(half)) < flatness(audio[half:])
