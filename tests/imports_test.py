"""Floors of the packages: imports run downward only, and importing stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A floor may import itself and the floors before it.
FLOORS = (
  'errors',
  'capabilities',
  'distributed',
  'peers',
  'jobs',
  'text',
  'metrics',
  'audio',
  'features',
  'objectives',
  'nn',
  'models',
  'inference',
  'weights',
  'units',
  'report',
  'evals',
  'train',
)
# Packages that may import fewer floors than their position in the list allows.
NARROWER = {
  'capabilities': {'errors'},
  'distributed': {'errors'},
  'peers': set(),
  'text': {'errors'},
  'metrics': {'errors', 'text'},
  'audio': {'errors', 'capabilities', 'jobs', 'text'},
  'features': {'errors'},
  'objectives': {'errors'},
  'nn': {'errors', 'features'},
  'models': {'errors', 'capabilities', 'text', 'features', 'nn'},
}


def imported(file):
  """Names under `research` that a file imports, anywhere in it."""
  tree = ast.parse(file.read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{file}: relative import'
      names = [node.module]
      if node.module == 'research':
        names = [f'research.{alias.name}' for alias in node.names]
    else:
      continue
    for name in names:
      if name.split('.')[0] == 'research' and '.' in name:
        yield name.split('.')[1]


@pytest.mark.parametrize('floor', FLOORS)
def test_imports_run_downward(floor):
  allowed = set(FLOORS[: FLOORS.index(floor)]) | {floor}
  allowed = NARROWER.get(floor, allowed) | {floor}
  path = ROOT / 'research' / floor
  files = sorted(path.rglob('*.py')) if path.is_dir() else [path.with_suffix('.py')]
  assert files
  for file in files:
    wrong = set(imported(file)) - allowed
    assert not wrong, f'{file.relative_to(ROOT)} imports research.{sorted(wrong)}'


def test_every_package_is_a_floor():
  found = {p.stem for p in (ROOT / 'research').iterdir() if p.suffix == '.py' or p.is_dir()}
  assert found - {'__init__', '__pycache__'} == set(FLOORS)


# Papers whose model has that of another in it: VQ-VAE's decoder is a WaveNet, audio language models
# hear by Whisper's encoder or by CLAP's.
BUILT_ON = {
  'vq_vae': {'wavenet'},
  **{
    name: {'whisper_parts'}
    for name in ('audio_prompts', 'audio_flamingo3', 'qwen_audio', 'sift_llm')
  },
  'audio_flamingo': {'clap'},
  'gated_audio': {'clap'},
}


def test_a_paper_does_not_import_another_paper():
  shared = {
    '__init__', 'answering', 'audio_prompts', 'cnn14', 'codec', 'finetuned', 'gated_audio',
    'gated_parts', 'htsat', 'language', 'language_decoder', 'settings', 'spectrogram', 'speech',
    'unit_prediction', 'waveform',
  }  # fmt: skip
  files = sorted((ROOT / 'research' / 'models').glob('*.py'))
  papers = {f.stem for f in files} - shared
  for file in files:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
      if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('research.models'):
        parts = [node.module.rpartition('.')[2], *(alias.name for alias in node.names)]
        other = {p for p in parts if p in papers and p != file.stem}
        # One paper may have several files, named after it.
        other -= BUILT_ON.get(file.stem, set())
        assert all(related(file.stem, p) for p in other), f'{file.name} imports {other}'


def related(a, b):
  """Whether files belong to one paper: audio_mae, and the parts only it uses."""
  parts = {
    'window_decoder': 'audio_mae', 'token_masks': 'audio_mae', 'code_bert': 'wav2vec',
    'audio_ntt': 'byol_a', 'jukebox_attention': 'jukebox', 'jukebox_parts': 'jukebox',
    'jukebox_sizes': 'jukebox', 'jukebox_vqvae': 'jukebox',
  }  # fmt: skip
  a, b = parts.get(a, a), parts.get(b, b)
  return a.startswith(b) or b.startswith(a)


def test_experiments_import_nothing_of_ours():
  for file in sorted((ROOT / 'experiments').rglob('*.py')):
    assert not list(imported(file)), file


def test_light_imports():
  """`research` imports neither torch nor TensorFlow, nor optional dependencies."""
  code = (
    'import sys, pkgutil, importlib, research\n'
    'for m in pkgutil.walk_packages(research.__path__, "research."):\n'
    '  if not m.name.startswith("research.audio.builtin."): importlib.import_module(m.name)\n'
    'bad = {"torch", "tensorflow", "transformers", "timm", "tensorflow_datasets", "librosa",'
    ' "matplotlib", "sklearn", "pyarrow", "gcsfs", "s3fs", "boto3"} & set(sys.modules)\n'
    'print(sorted(bad)); sys.exit(bool(bad))'
  )
  run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
  assert run.returncode == 0, run.stdout + run.stderr[-2000:]


def test_files_stay_readable():
  for folder in ('research', 'launch', 'experiments', 'tests'):
    for file in (ROOT / folder).rglob('*.py'):
      lines = len(file.read_text().splitlines())
      assert lines <= 500, f'{file.relative_to(ROOT)} has {lines} lines: divide it'
  assert len((ROOT / 'research/train/loop.py').read_text().splitlines()) < 300
