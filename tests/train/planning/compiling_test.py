"""Compilation for a slice: what the compiler says, kept by its program."""

import importlib.util
import os
import subprocess

import pytest

from research.errors import InputError
from research.jobs import children
from research.train.planning import compiling, program
from tests.train.planning import subject


@pytest.mark.parametrize(
  ('message', 'text'),
  [
    (
      'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
      'Used 20.31G of 15.75G hbm. Exceeded hbm capacity by 4.56G.',
      'does not fit: 20.31GiB of 15.75GiB HBM',
    ),
    ('RESOURCE_EXHAUSTED: no figures', 'does not fit: RESOURCE_EXHAUSTED: no figures'),
  ],
)
def test_out_of_memory_is_told(message, text):
  assert compiling.out_of_memory(message) == text
  assert compiling.Compiled(error=text).too_large
  assert not compiling.Compiled(error='the compiler ended with code -9: killed').too_large


def test_without_libtpu_one_sentence_names_the_extra(monkeypatch, tmp_path):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r'\[plan\].*--nocompile'):
    compiling.compile_step(subject.config(), 'v5e:2x2', 0, tmp_path)


@pytest.mark.slow
def test_a_tiny_model_compiles_for_a_tpu(tmp_path):
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("libtpu is not installed: pip install -e '.[plan]'")
  config = subject.config(model=dict(dtype='bfloat16'))
  found = compiling.compile_step(config, 'v5e:2x2', 0, tmp_path)
  assert found.error is None
  made = program.Program(config)
  held = sum(made.state_bytes(program.abstract_mesh(config['mesh'], 4)).values())
  # Arrays are padded to tiles.
  assert held < found.argument_bytes < found.hbm_bytes < 16e9
  count, size, sent = found.collectives['all-reduce']
  assert count > 0 and size == pytest.approx(4 * made.params, rel=0.01)
  assert sent == pytest.approx(1.5 * size, rel=0.01)
  # Asked again, it is read from the folder.
  files = sorted((file, file.stat().st_mtime_ns) for file in tmp_path.iterdir())
  assert len(files) == 2
  assert compiling.compile_step(config, 'v5e:2x2', 0, tmp_path) == found
  assert sorted((file, file.stat().st_mtime_ns) for file in tmp_path.iterdir()) == files


@pytest.mark.slow
def test_embedding_compiles_for_a_tpu(tmp_path):
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("libtpu is not installed: pip install -e '.[plan]'")
  found = compiling.compile_step(subject.config(), 'v5e:2x2', 0, tmp_path, 'embed')
  assert found.error is None and found.hbm_bytes > 0
  # Chips do not wait for each other.
  assert not found.collectives


def test_the_compiler_ends_with_the_planner(monkeypatch, tmp_path):
  """The other half is in tests/jobs/children_test.py."""
  started = []

  def run(command, env, **kwargs):
    started.append(env)
    return subprocess.CompletedProcess(command, -9, '', '')

  monkeypatch.setattr(compiling.subprocess, 'run', run)
  monkeypatch.setattr(compiling, 'check_installed', lambda: None)
  found = compiling.compile_step(subject.config(), 'v5e:2x2', 0, tmp_path)
  assert found.error == 'the compiler ended with code -9: no message'
  assert started[0][children.PARENT] == str(os.getpid())
