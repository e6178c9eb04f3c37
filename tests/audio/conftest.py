"""Small audio files for the tests of research/audio."""

import numpy as np
import pytest
import soundfile

from research.audio.clips import Files, Source, Table


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  """Every test has its own cache folder."""
  monkeypatch.setenv('OIDO_CACHE', str(tmp_path_factory.mktemp('cache')))
  monkeypatch.delenv('OIDO_DATA', raising=False)


@pytest.fixture
def write():
  """write(path, seconds, rate, seed=0, channels=1, **soundfile's) writes noise and returns it."""

  def write_noise(path, seconds=0.1, rate=16000, seed=0, channels=1, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (round(seconds * rate), channels) if channels > 1 else round(seconds * rate)
    audio = np.round(3000 * rng.standard_normal(shape)) / 32768
    soundfile.write(path, audio.astype(np.float32), rate, **kwargs)
    return audio.astype(np.float32)

  return write_noise


@pytest.fixture
def make_source(tmp_path, write):
  """make_source([seconds, …]) is a source of FLAC files of those lengths, with labels a, b, c."""

  def make(lengths, folder='clips', labels=('a', 'b', 'c')):
    paths = [f'{i:03d}.flac' for i in range(len(lengths))]
    for i, seconds in enumerate(lengths):
      write(tmp_path / folder / paths[i], seconds, seed=i)
    columns = {'label': [labels[i % len(labels)] for i in range(len(paths))]}
    return Source(Table(folder, paths, columns, Files(str(tmp_path / folder), paths)))

  return make
