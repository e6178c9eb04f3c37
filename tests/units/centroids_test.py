"""Centroids out of files of others: real dumps are read, and nothing in any file is run."""

import contextlib
import os
import pickle
import struct

import numpy as np
import pytest

from research.errors import InputError
from research.units import centroids
from research.units.centroids import read_centroids


@pytest.fixture(scope='module')
def estimator():
  cluster = pytest.importorskip('sklearn.cluster')
  x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
  return cluster.MiniBatchKMeans(7, n_init=1, random_state=np.random.RandomState(3)).fit(x)


@pytest.mark.parametrize(
  'compress', [0, 3, ('zlib', 1), ('gzip', 3), ('bz2', 3), ('lzma', 3), ('xz', 3)], ids=str
)
def test_dumps_of_joblib(estimator, tmp_path, compress):
  joblib = pytest.importorskip('joblib')
  path = tmp_path / 'codebook.bin'
  joblib.dump(estimator, path, compress=compress)
  found = read_centroids(path)
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, estimator.cluster_centers_)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_dumps_of_every_protocol(estimator, tmp_path, protocol):
  joblib = pytest.importorskip('joblib')
  joblib.dump(estimator, tmp_path / 'a.km', protocol=protocol)
  np.testing.assert_array_equal(read_centroids(tmp_path / 'a.km'), estimator.cluster_centers_)
  (tmp_path / 'b.pkl').write_bytes(pickle.dumps(estimator, protocol=protocol))
  if protocol == 5:  # NumPy's arrays are then calls of a function of its own
    with pytest.raises(InputError, match=r'_frombuffer.*np\.save'):
      read_centroids(tmp_path / 'b.pkl')
    return
  np.testing.assert_array_equal(read_centroids(tmp_path / 'b.pkl'), estimator.cluster_centers_)


def test_double_and_fortran_order(estimator, tmp_path):
  joblib = pytest.importorskip('joblib')
  centroids = np.asfortranarray(estimator.cluster_centers_.astype('>f8'))
  estimator.cluster_centers_, kept = centroids, estimator.cluster_centers_
  try:
    joblib.dump(estimator, tmp_path / 'a.bin')
  finally:
    estimator.cluster_centers_ = kept
  np.testing.assert_array_equal(read_centroids(tmp_path / 'a.bin'), kept)


def test_npy(tmp_path):
  given = np.arange(12.0).reshape(4, 3)
  np.save(tmp_path / 'c.npy', given)
  np.testing.assert_array_equal(read_centroids(tmp_path / 'c.npy'), given)
  np.save(tmp_path / 'objects.npy', np.array([{}, 1], dtype=object), allow_pickle=True)
  with pytest.raises(InputError, match=r'objects\.npy'):
    read_centroids(tmp_path / 'objects.npy')
  np.save(tmp_path / 'flat.npy', np.arange(3.0))
  with pytest.raises(InputError, match=r'float64 \(3,\); centroids \[clusters, features\]'):
    read_centroids(tmp_path / 'flat.npy')
  np.save(tmp_path / 'nan.npy', np.full((2, 2), np.nan))
  with pytest.raises(InputError, match='not finite'):
    read_centroids(tmp_path / 'nan.npy')


class Run:
  """Pickles as a call."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('suffix', centroids.PICKLES)
def test_no_code_is_run(tmp_path, protocol, suffix):
  proof = tmp_path / 'ran'
  path = tmp_path / f'bad{suffix}'
  path.write_bytes(pickle.dumps(Run(os.system, f'touch {proof}'), protocol=protocol))
  with pytest.raises(InputError, match=r'wants to run posix\.system.*cluster_centers_'):
    read_centroids(path)
  assert not proof.exists()


@pytest.mark.parametrize(
  'bad',
  [
    (eval, '1'),
    (getattr, 1, 'real'),
    (np.load, 'x.npy'),
    (np.frombuffer, b'1234'),
    (pickle.loads, b'N.'),
    (__import__, 'os'),
  ],
  ids=lambda bad: bad[0].__name__,
)
def test_calls_that_no_model_needs(tmp_path, bad):
  path = tmp_path / 'a.bin'
  path.write_bytes(pickle.dumps(Run(*bad)))
  with pytest.raises(InputError, match='wants to run'):
    read_centroids(path)


KMEANS = b'csklearn.cluster._kmeans\nKMeans\n'
CRAFTED = {
  # State set on what is no object of ours: a stand-in's class, a plain dict.
  'class': KMEANS + b'}b.',
  'dict': b'}}b.',
  # A stand-in called with what is no tuple of arguments, and a call of a value.
  'arguments': KMEANS + b'}R.',
  'value': b'I1\n(tR.',
  # Steps that nobody needs: persistent ids, extensions, old instances, large empty buffers.
  'persistent': b'Pos\n.',
  'extension': b'\x82\x01.',
  'instance': b'(ios\nsystem\n.',
  'object': b'(' + KMEANS + b'o.',
  'buffer': b'\x80\x05\x96' + struct.pack('<Q', 2**60) + b'.',
  'next buffer': b'\x80\x05\x97.',
  # Names by the stack, and names with dots in them.
  'stack': b'\x80\x04\x8c\x02os\x8c\x06system\x93.',
  'dots': b'\x80\x04\x8c\x05numpy\x8c\x0elib.npyio.load\x93.',
  # Not a model, cut off, nothing.
  'number': b'I1\n.',
  'short': KMEANS,
  'empty': b'',
  'unfitted': b'\x80\x02' + KMEANS + b')\x81}b.',
}


@pytest.mark.parametrize('what', CRAFTED)
def test_crafted_files(tmp_path, what):
  path = tmp_path / 'a.bin'
  path.write_bytes(CRAFTED[what])
  with pytest.raises(InputError, match=r'a\.bin.* is (refused|damaged)'):
    read_centroids(path)


def test_damaged_dumps_are_one_sentence(estimator, tmp_path):
  joblib = pytest.importorskip('joblib')
  joblib.dump(estimator, tmp_path / 'whole.bin')
  whole = (tmp_path / 'whole.bin').read_bytes()
  rng = np.random.default_rng(0)
  path = tmp_path / 'a.bin'
  for size in rng.integers(1, len(whole) - 1, 40):
    path.write_bytes(whole[:size])
    with pytest.raises(InputError):
      read_centroids(path)
  for _ in range(200):
    broken = bytearray(whole)
    broken[rng.integers(len(whole))] = rng.integers(256)
    path.write_bytes(broken)
    with contextlib.suppress(InputError):
      assert read_centroids(path).dtype == np.float32


def test_a_small_file_does_not_fill_the_memory(tmp_path, monkeypatch):
  import gzip
  import zlib

  monkeypatch.setattr(centroids, 'MOST_BYTES', 10_000)
  for pack in (zlib.compress, gzip.compress):
    (tmp_path / 'a.bin').write_bytes(pack(bytes(1_000_000)))
    with pytest.raises(InputError, match='unpacks to more than 10000 bytes'):
      read_centroids(tmp_path / 'a.bin')


def test_files_that_are_none(tmp_path):
  with pytest.raises(InputError, match='no codebook at'):
    read_centroids(tmp_path / 'absent.bin')
  (tmp_path / 'a.txt').write_text('1 2 3')
  with pytest.raises(InputError, match=r'codebook\.npy, or \.npy, \.bin'):
    read_centroids(tmp_path / 'a.txt')
