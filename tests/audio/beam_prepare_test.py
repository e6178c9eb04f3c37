import pytest

from research.audio import prepare
from research.audio.beam_prepare import run
from research.audio.sources import open_source
from research.errors import InputError


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_pipeline_writes_what_one_process_writes(make_source, tmp_path):
  pytest.importorskip('apache_beam', reason='Apache Beam is not installed: the [beam] extra')
  make_source([0.1 + 0.02 * k for k in range(10)])
  spec, settings = str(tmp_path / 'clips'), prepare.Settings()
  index = run(spec, tmp_path / 'beam', count=4, settings=settings, parts=3)
  assert index['count'] == 10 and len(index['shards']) == 4
  prepare.prepare(open_source(spec), tmp_path / 'one', count=4, settings=settings)
  assert contents(tmp_path / 'beam') == contents(tmp_path / 'one')
  # Once more changes nothing.
  assert run(spec, tmp_path / 'beam', count=4, settings=settings, parts=3) == index


def test_without_beam_it_says_so(monkeypatch, tmp_path):
  monkeypatch.setitem(__import__('sys').modules, 'apache_beam', None)
  with pytest.raises(
    InputError, match=r"needs Apache Beam, not installed: pip install 'oido\[beam"
  ):
    run('builtin', tmp_path / 'out', count=1, settings=prepare.Settings(), parts=1)
