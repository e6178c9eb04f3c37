"""Every experiment and variant builds at its published size; each model trains a step on the
built-in corpus."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.audio import sources, units
from research.errors import InputError
from research.train import build, health, optim, selection, sharding
from research.train.config import DATA, changed, complete
from research.train.state import STREAMS, init_state
from tests.evals import toy
from tests.launch import runner

ROOT = Path(__file__).resolve().parents[1]
EVERY = sorted((ROOT / 'experiments').glob('*/*.py'))
# Some describe a sequence of trainings (launch.hubert_iterations), each with its own file.
FILES = [f for f in EVERY if not f.stem.endswith('_iterations')]
SPOKEN = dict(transcript='transcript')
MODEL, MSE = dict(name='audio_mae', args={}), dict(name='masked_patch_mse', args={})
# Variants that are put together, of which docstrings name the parts.
COMBINED = {'audio_mae/audioset_base': ['base,global']}
# Settings that no shape depends on, besides rates.
FREE = ('freeze_updates', 'mask_seconds', 'mask_length')
# Those of Jukebox have 72 layers, which take 20 seconds to trace; numbers of parameters, of models
# with language models too, are in tests/models.
HEAVY = (
  'jukebox/prior', 'jukebox/upsampler', 'audio_flamingo/stages', 'audio_flamingo2/stages',
  'audio_flamingo3/stages', 'qwen2_audio/instructions',
  'qwen2_audio/laptop', 'qwen_audio/stages', 'sift/instructions',
)  # fmt: skip
# Metrics of a step with any objective.
LOGGED = {'loss', 'grad_norm', 'learning_rate', 'finite', 'audio_samples'}


def name_of(file):
  return f'{file.parent.name}/{file.stem}'


def load(file):
  spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def variants(file):
  """The default, '', and the variants in the docstring or a recipe table, except debug."""
  module = load(file)
  named = re.findall(r'(?:`|\.py):(\w+)|\b(\w+_\d+[mh])\b', module.__doc__)
  found = {a or b for a, b in named} | set(getattr(module, 'RECIPES', ()))
  return ['', *sorted(found - {'debug'}), *COMBINED.get(name_of(file), ())]


def labelled(file, variant):
  return f'{name_of(file)}:{variant}' if variant else name_of(file)


def parameters(file):
  """Published numbers of parameters of an experiment, by variant."""
  return getattr(load(file), 'PARAMETERS', {})


def plain(config):
  """Arguments of a model by their paths, those of its parts too."""
  found = {}
  for key, value in config.items():
    inner = plain(value) if isinstance(value, dict) else {None: value}
    found |= {key if k is None else f'{key}.{k}': v for k, v in inner.items()}
  return found


def encoder_args(config):
  """Arguments of a model, or of its encoder."""
  args = config['model']['args']
  return args['encoder']['args'] if 'encoder' in args else args


def different():
  """(file, variant) of every experiment with a distinct program; marked slow unless it has a
  published number or is the first of its system, and where it is heavy."""
  first = {f.parent: f for f in reversed(FILES)}
  for file in FILES:
    seen = []
    for variant in variants(file):
      config = load(file).get_config(*[variant] * bool(variant)).to_dict()
      args = plain(config['model']['args']).items()
      shape = {k: v for k, v in args if not isinstance(v, float) and k.split('.')[-1] not in FREE}
      label = 'label' in config['data'].get('fields', {})
      program = [shape, config['model']['name'], config['objective'], label]
      if program in seen:
        continue
      seen.append(program)
      known = variant in parameters(file) or (not variant and first[file.parent] == file)
      quick = known and name_of(file) not in HEAVY
      marks = () if quick else pytest.mark.slow
      yield pytest.param(file, variant, id=labelled(file, variant), marks=marks)


def units_of(path, args):
  """Random units of the built-in corpus."""
  hop = int(16_000 / args.label_rate)
  source = sources.open_source('builtin')
  frames = 1 + (np.round(source.durations() * 16_000).astype(int) - 400) // hop
  rng = np.random.default_rng(0)
  clusters = args.get('num_clusters') or args.codebook_size
  about = dict(clusters=clusters, sample_rate=16_000, hop=hop, window=400, fingerprint='drawn')
  ids = [source.id(i) for i in range(len(source))]
  units.save(path, ids, (rng.integers(0, clusters, n) for n in frames), about)
  return path


@pytest.mark.parametrize(('file', 'variant'), list(different()))
def test_builds_at_full_size(file, variant):
  own = load(file).get_config(*[variant] * bool(variant))
  config = complete(own)
  total, epoch = build.length(config, 100_000)
  schedule = optim.make_schedule(config['optim'], total, epoch)
  model = build.model(config)
  optimizer = optim.make_optimizer(config['optim'], schedule)
  batch = build.example_batch(config, model, 2, config['data']['seconds'] or 10.0)
  shapes = jax.eval_shape(lambda: init_state(model, optimizer, batch, 0, bool(config['teacher'])))
  count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes.params))
  assert count == parameters(file).get(variant, count)
  rngs = {n: jax.random.key(0) for n in STREAMS}
  changing = list(shapes.variables)
  out = jax.eval_shape(
    lambda v: model.apply(v, batch, train=True, rngs=rngs, mutable=changing)[0],
    {'params': shapes.params, **shapes.variables},
  )
  if config['teacher'] and config['teacher']['forward']:
    out['teacher'] = dict(out)
  objective = build.objective(config)
  loss, metrics = jax.eval_shape(lambda *args: objective(*args), out, batch)
  assert loss.shape == () and loss.dtype == jnp.float32
  # A limit on a metric that is not logged would have no effect.
  signals = jax.eval_shape(health.signals, out)
  assert set(own.get('watch', {})) <= LOGGED | set(metrics) | set(signals)
  # The sharding rules place every parameter on a mesh.
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  layout = sharding.shardings(shapes.params, mesh)
  spread = [s for s in jax.tree.leaves(layout) if any(s.spec)]
  # Of small models few parameters are large enough to be spread.
  assert len(spread) > min(10, len(jax.tree.leaves(layout)) // 4)


@pytest.mark.parametrize('file', FILES, ids=name_of)
def test_every_variant_is_complete(file):
  """Names, arguments and schedules; `test_builds_at_full_size` builds those that differ."""
  for variant in variants(file):
    config = complete(load(file).get_config(*[variant] * bool(variant)))
    build.model(config)
    build.objective(config)
    total, epoch = build.length(config, 100_000)
    assert float(optim.make_schedule(config['optim'], total, epoch)(total // 2)) > 0


def test_every_published_number_is_of_a_variant():
  built = {each.id for each in different()}
  published = {labelled(file, variant) for file in FILES for variant in parameters(file)}
  assert len(published) >= 17 and published <= built
  assert {
    'wav2vec2/finetune_librispeech:vox_100h',
    'hubert/finetune_librispeech:xlarge_10h',
  } <= built


@pytest.mark.parametrize('file', EVERY, ids=name_of)
def test_docstring_says_how_to_run_it(file):
  text = load(file).__doc__
  assert f'--config=experiments/{name_of(file)}.py' in text
  assert ':debug' in text


@pytest.mark.parametrize('file', EVERY, ids=name_of)
def test_unknown_variants_are_refused(file):
  with pytest.raises(ValueError, match='has no variant'):
    load(file).get_config('no such thing')


def quick():
  """The first experiment with a head: it trains in every run of the tests (tests/launch trains one
  without), the others in `make test-all`."""
  heads = (load(file).get_config('debug').to_dict()['model']['args'].get('head') for file in FILES)
  return {next(file for file, head in zip(FILES, heads) if head)}


QUICK = quick()


@pytest.mark.parametrize(
  'file',
  [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FILES],
  ids=name_of,
)
def test_debug_trains(file, tmp_path):
  config = load(file).get_config('debug')
  name = f'experiments/{name_of(file)}.py:debug'
  own = []
  if config.objective.name in ('masked_units', 'next_codes'):
    own.append(f'--config.data.fields.units={units_of(tmp_path / "units", config.model.args)}')
  done = runner.train(tmp_path / 'run', *own, config=name)
  assert done.returncode == 0, done.stderr[-3000:]
  assert (tmp_path / 'run' / 'report.html').exists()
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').open()]
  losses = [r['loss'] for r in rows if 'loss' in r]
  assert len(losses) == config.total_steps and np.isfinite(losses).all()
  assert (tmp_path / 'run' / 'config.json').exists()
  wanted = {'grad_norm', 'learning_rate', 'step_seconds', 'input_wait_fraction', 'compile_seconds'}
  assert wanted <= set(rows[0])
  assert 'audio_seconds_per_second_per_chip' in rows[0]
  if config.model.name == 'audio_mae':
    assert 0.0 < rows[0]['representation_std'] < 2.0
  # Evaluations ran, and the last checkpoint is there.
  if config.evals.get('valid'):
    assert any(k.startswith('valid/') for row in rows for k in row)
  assert (tmp_path / 'run' / 'checkpoints' / str(len(losses))).is_dir()


def test_an_evaluation_can_be_switched_off():
  config = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config().to_dict()
  config['evals']['valid'] = None
  assert list(complete(config)['evals']) == ['pictures']


def test_changes_that_alter_the_numbers_are_named():
  config = complete(load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config())
  other = json.loads(json.dumps(config))
  assert changed(config, other) == []
  other['log_every'] = 3
  other['data']['num_threads'] = 9
  other['mesh']['tensor'] = 2
  assert changed(config, other) == []
  other['optim']['lr'] = 1.0
  assert changed(config, other) == ['optim.lr: 0.0005 -> 1.0']


def test_a_run_older_than_a_setting_continues():
  config = load(ROOT / 'experiments/wav2vec2/finetune_librispeech.py').get_config()
  config = complete(config)
  older = json.loads(json.dumps(config))
  del older['data']['batch_multiple'], older['optim']['accumulate'], older['max_rewinds']
  del older['init']['statistics']
  config['data']['batch_multiple'] = 1
  assert changed(older, config) == []
  config['data']['batch_multiple'] = 8
  assert changed(older, config) == ['data.batch_multiple: 1 -> 8']


@pytest.mark.parametrize(('clips', 'rows', 'steps'), [(396, 396 / 45, 45), (47, 2, 23), (3, 8, 1)])
def test_steps_of_an_epoch(clips, rows, steps):
  config = complete(load(ROOT / 'experiments/audio_mae/finetune_esc50.py').get_config())
  config.update(total_steps=None, epochs=3)
  assert build.length(config, clips, rows) == (3 * steps, steps)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (dict(total_steps=None), 'Set one of config.total_steps and config.epochs'),
    (dict(on_nan='ignore'), "'stop' or 'rewind'"),
    (dict(log_every=0), 'config.log_every is 0'),
    (dict(augment=[dict(name='gane')]), "Did you mean 'gain'"),
    (dict(evals=dict(valid=dict(nam='x'))), 'config.evals.valid.nam'),
    (dict(data=3), 'it is a group'),
  ],
)
def test_wrong_configs_are_refused(change, words):
  config = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config().to_dict()
  with pytest.raises(InputError, match=words):
    complete({**config, **change})


def test_clips_without_a_split_are_held_out(tmp_path):
  toy.tones(tmp_path / 'a', per_class=12)
  toy.tones(tmp_path / 'one', per_class=1, classes=(300,))
  data = dict(DATA, source=str(tmp_path / 'a'))
  train, valid = (
    [clip.id for clip in selection.source({**data, 'split': split})] for split in ('train', 'valid')
  )
  assert len(valid) == 36 // 20 and len(train) == 36 - len(valid)
  assert not set(train) & set(valid)
  # As written on the command line.
  whole = complete(dict(total_steps=1, data=dict(split='None'), model=MODEL, objective=MSE))
  assert len(selection.source({**whole['data'], 'source': str(tmp_path / 'a')})) == 36
  with pytest.raises(InputError, match='has a single clip'):
    selection.source({**data, 'source': str(tmp_path / 'one'), 'split': 'train'})


@pytest.mark.parametrize(
  ('limits', 'says'),
  [
    (dict(min_seconds=50.0), 'has at least 50 s: change'),
    (dict(seconds=0.01, fields=SPOKEN), 'has at most 0.01 s: change'),
    (dict(min_seconds=9.0, seconds=0.5, fields=SPOKEN), 'at least 9 s and at most 0.5 s'),
  ],
)
def test_lengths_that_no_clip_has(limits, says):
  data = {**DATA, 'where': dict(kind='word'), **limits}
  with pytest.raises(InputError, match=says):
    selection.usable(selection.source(data), data)


@pytest.mark.parametrize('name', ['hubert/librilight_large', 'wav2vec2/librilight_large'])
def test_libri_light_is_cut_at_pauses_and_held_out_from(name, tmp_path):
  for i in range(40):
    book = tmp_path / 'libri-light' / ('small', 'medium')[i % 2] / str(i) / 'book'
    book.mkdir(parents=True)
    soundfile.write(book / 'ch.flac', toy.tone(300, 4.0, i), toy.RATE)
    voices = [[0.25, 1.0], [3.0, 3.5]] if i else [[0.25, 60.0], [61.0, 100.0]]
    (book / 'ch.json').write_text(json.dumps({'speaker': str(i), 'voice_activity': voices}))
  config = complete(load(ROOT / f'experiments/{name}.py').get_config())
  data = {**config['data'], 'root': tmp_path}
  valid = {**data, **config['evals']['valid']['data']}
  train, valid = ([clip.id for clip in selection.source(d)] for d in (data, valid))
  assert len(train) == 39 and len(valid) == 2 and not set(train) & set(valid)
  assert [each.split('@')[1] for each in train + valid if '/0/' in each] == ['0.25', '61.00']
  assert len(selection.source({**data, 'split': 'unlab-580'})) == 21


def test_windows_of_one_recording_are_held_out_together(tmp_path):
  (tmp_path / 'long').mkdir()
  for hertz in (300, 400, 500, 600):
    soundfile.write(tmp_path / f'long/{hertz}.flac', toy.tone(hertz, 3.0, hertz), toy.RATE)
  cut = dict(name=str(tmp_path / 'long'), args=dict(cut_seconds=1.0))
  parts = [
    {clip.id.split('@')[0] for clip in selection.source({**DATA, 'source': cut, 'split': split})}
    for split in ('train', 'valid')
  ]
  assert len(parts[1]) == 1 and not parts[0] & parts[1]
