"""Every notebook runs from top to bottom, with fewer training steps."""

from pathlib import Path

import pytest

from tests.conftest import CACHE

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'colabs').glob('*.ipynb'))
# Text that each notebook prints, and its minimum number of pictures.
SHOWS = {
  'audio_chat': (('expected:', 'held-out phrasing'), 3),
  'byol_a': (('largest difference', 'builtin_words'), 11),
  'clap': (('captions of this one', 'chance 10.0 %'), 3),
  'codec': (('bytes of codes', 'largest difference of the audio'), 4),
  'hubert': (('train: 300 clips', 'iteration 2'), 7),
  'jukebox': (('level 1:', 'codes of each level'), 5),
  'superb': (('commands understood', 'caches of layers', 'words     FBANK'), 3),
  'quickstart': (('builtin_digits', 'builtin_events'), 4),
  'wavenet': (('sample by sample and all at once', 'samples are'), 7),
  'whisper': (('1760 clips', 'of the words of unknown voices are wrong'), 4),
  'wav2vec2': (('train 315 clips', 'of the letters wrong'), 7),
}


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, monkeypatch):
  nbformat = pytest.importorskip('nbformat')
  nbclient = pytest.importorskip('nbclient')
  monkeypatch.setenv('OIDO_COLAB_STEPS', '6')
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', CACHE)
  # Pictures go into the notebook.
  monkeypatch.delenv('MPLBACKEND', raising=False)
  # One device, as on a laptop: the eight devices of the tests are slower.
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=1')
  # Few threads: on busy cores, waiting threads of scikit-learn spin.
  monkeypatch.setenv('OMP_NUM_THREADS', '1')
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook,
    timeout=400,
    # On a busy machine output arrives long after a cell ends: the default of 4 s would drop it.
    iopub_timeout=120,
    kernel_name='python3',
    resources={'metadata': {'path': str(path.parent)}},
  )
  client.execute()
  printed = ''.join(
    o['text']
    for c in notebook.cells
    if c.cell_type == 'code'
    for o in c.outputs
    # Warnings may interrupt a line.
    if o.get('name') == 'stdout'
  )
  pictures = [
    o
    for c in notebook.cells
    if c.cell_type == 'code'
    for o in c.outputs
    if 'image/png' in o.get('data', {})
  ]
  words, count = SHOWS[path.stem]
  for word in words:
    assert word in printed
  assert len(pictures) >= count


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_without_outputs(path):
  nbformat = pytest.importorskip('nbformat')
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert not cell.outputs and cell.execution_count is None
