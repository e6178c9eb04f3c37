"""Saving, loading, converting: the same tensors back, and a sentence for what does not fit."""

import json
import re
import shlex

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from launch.convert import parse_args
from research import models
from research.errors import InputError
from research.models.audio_mae import AudioMAE
from research.nn.layers import stack_blocks
from research.weights import Pretrained, conversion, convert, load, revert, save, tables
from tests.models.toy import make
from tests.weights.toy import filled, same

SIZES = dict(size='tiny', width=32, depth=2, heads=2, frames=64)
DECODER = dict(decoder_width=16, decoder_depth=2, decoder_heads=2)


def pretrained(**args):
  model = AudioMAE(**SIZES, **DECODER, **args)
  return Pretrained('audio_mae', model, filled(model), 'a test')


# -- Our own files -----------------------------------------------------------------------------


def test_saved_weights_carry_everything(tmp_path):
  ours = pretrained(frontend={'statistics': 'esc50'}, padding='masked', decoder='global')
  file = save(ours, tmp_path / 'export')
  for path in (file, tmp_path / 'export'):
    back = load(path)
    assert back.model == ours.model and back.name == 'audio_mae' and back.origin == 'a test'
    assert back.frontend.mean == -6.6268077
    assert same(back.variables, ours.variables)
    assert back.fingerprint == ours.fingerprint
  assert not list((tmp_path / 'export').glob('*.partial'))


def test_a_scalar_stays_one(tmp_path):
  """Counters of updates have no axis, on disk neither."""

  sizes = dict(size='tiny', channels=24, width=32, depth=2, heads=2, hidden=64, conv_pos_groups=4)
  model = make('wav2vec2+ctc', **sizes)
  batch = {'audio': np.zeros((1, 4000), np.float32), 'audio_mask': np.ones((1, 4000), bool)}
  variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), batch))
  variables['counters']['updates'] = np.int32(7)
  file = save(Pretrained('finetuned', model, variables, 'random'), tmp_path)
  assert load_file(file)['counters/updates'].shape == ()
  loaded = load(tmp_path).variables['counters']['updates']
  assert loaded.shape == () and loaded == 7


def test_a_front_end_of_waveforms_and_counters_survive(tmp_path):
  sizes = dict(size='tiny', channels=8, kernels=(2, 3), vq_type='gumbel', codebook_size=4)
  model = models.get('wav2vec')(**sizes)
  save(Pretrained('wav2vec', model, filled(model), 'a test'), tmp_path)
  back = load(tmp_path, frontend={'normalise': False})
  assert back.model == model and back.frontend.window == 465
  assert back.variables['counters']['updates'].shape == ()
  with pytest.raises(InputError, match='normalise is False in the weights, True was asked for'):
    load(tmp_path, frontend={'normalise': True})


def test_fingerprint_follows_weights_and_frontend():
  ours = pretrained()
  other = pretrained(frontend={'statistics': 'esc50'})
  nudged = jax.tree.map(np.copy, ours.variables)
  nudged['params']['mask_token'][0, 0, 0] += 1e-6
  prints = {p.fingerprint for p in (ours, other, Pretrained('audio_mae', ours.model, nudged, ''))}
  assert len(prints) == 3
  scanned = ours.model.clone(scan_layers=True)
  stacked = Pretrained('audio_mae', scanned, stack_blocks(ours.variables), 'elsewhere')
  assert stacked.fingerprint == ours.fingerprint


def test_arguments_may_change_how_but_not_what(tmp_path):
  ours = pretrained()
  save(ours, tmp_path)
  scanned = load(tmp_path, scan_layers=True)
  assert 'blocks' in scanned.variables['params']['encoder']
  assert scanned.fingerprint == ours.fingerprint
  with pytest.raises(InputError, match=r'width=48 was given.*width=32'):
    load(tmp_path, width=48)
  with pytest.raises(InputError, match=r"'wdith'.*Did you mean 'width'"):
    load(tmp_path, wdith=3)


def test_another_frontend_is_refused_with_both_values(tmp_path):
  save(pretrained(), tmp_path)
  assert load(tmp_path, frontend={'statistics': 'audioset'}).frontend.mean == -4.2677393
  with pytest.raises(
    InputError, match=r'mean is -4\.2677393 in the weights, -6\.6268077 was asked'
  ):
    load(tmp_path, frontend={'statistics': 'esc50'})


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('nothing', None, 'no weights at'),
    ('a.safetensors', b'not a tensor', 'damaged or not a safetensors'),
    ('a.zip', b'PK', 'not a kind of weights file'),
  ],
)
def test_what_cannot_be_loaded(tmp_path, name, content, message):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(InputError, match=message):
    load(path)


def test_an_unknown_safetensors_file_asks_for_its_release(tmp_path):
  save_file({'a': np.zeros(2, np.float32)}, tmp_path / 'a.safetensors')
  with pytest.raises(InputError, match='name its release, one of ast, ast_hf, audio_flamingo,'):
    load(tmp_path / 'a.safetensors')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(InputError, match='holds no weights'):
    load(tmp_path / 'empty')


# -- Our runs ----------------------------------------------------------------------------------


def write_run(workdir, steps=(2, 4), teacher=False):
  """A workdir as the training loop leaves it; weights grow by 1 a step."""
  ours = pretrained()
  args = {**SIZES, **DECODER}
  workdir.mkdir()
  (workdir / 'config.json').write_text(
    json.dumps({'model': {'name': 'audio_mae', 'args': args}, 'seed': 1})
  )
  params = ours.variables['params']
  rest = {k: v for k, v in ours.variables.items() if k != 'params'}
  for step in steps:
    grown = jax.tree.map(lambda x, s=step: x + s, params)
    state = dict(
      step=np.int32(step),
      params=grown,
      opt_state=(params, {}),
      variables=rest,
      key=jax.random.key(0),
    )
    if teacher:
      state['teacher'] = {'params': jax.tree.map(lambda x: x - 1, params), 'variables': rest}
    path = (workdir / 'checkpoints' / str(step) / 'state').absolute()
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path, state)
  return ours


def test_a_run_gives_its_newest_checkpoint(tmp_path):
  ours = write_run(tmp_path / 'run')
  newest, first = load(tmp_path / 'run'), load(tmp_path / 'run' / 'checkpoints' / '2')
  assert (newest.origin, first.origin) == ('run run, step 4', 'run run, step 2')
  token = ours.variables['params']['mask_token']
  np.testing.assert_array_equal(newest.variables['params']['mask_token'], token + 4)
  np.testing.assert_array_equal(first.variables['params']['mask_token'], token + 2)
  table = ours.variables['buffers']['encoder']['pos_embed']
  np.testing.assert_array_equal(newest.variables['buffers']['encoder']['pos_embed'], table)
  with pytest.raises(InputError, match='has no teacher'):
    load(tmp_path / 'run', teacher=True)


def test_a_run_that_says_what_counts_gives_its_best_checkpoint(tmp_path):
  ours = write_run(tmp_path / 'run', steps=(2, 4, 6, 8))
  file = tmp_path / 'run' / 'config.json'
  config = json.loads(file.read_text())
  for step, score in {2: -70.0, 4: -81.5, 6: -81.5}.items():
    place = tmp_path / 'run' / 'checkpoints' / str(step) / 'metrics'
    place.mkdir()
    (place / 'metrics').write_text(json.dumps({'valid/cer': score}))
  assert load(tmp_path / 'run').origin == 'run run, step 8'
  for mode, step, score in (('min', 6, '-81.5'), ('max', 2, '-70')):
    file.write_text(json.dumps({**config, 'checkpoint': {'best': 'valid/cer', 'best_mode': mode}}))
    best = load(tmp_path / 'run')
    assert best.origin == f'run run, step {step} (best valid/cer, {score})'
    token = ours.variables['params']['mask_token']
    np.testing.assert_array_equal(best.variables['params']['mask_token'], token + step)
  assert load(tmp_path / 'run' / 'checkpoints' / '8').origin == 'run run, step 8'
  for damaged in (tmp_path / 'run' / 'checkpoints' / '2' / 'state').rglob('*'):
    if damaged.is_file():
      damaged.write_bytes(b'')
  with pytest.warns(UserWarning, match='Another one of the run is used'):
    assert load(tmp_path / 'run').origin == 'run run, step 8'


def test_a_teacher_can_be_taken(tmp_path):
  ours = write_run(tmp_path / 'run', steps=(3,), teacher=True)
  token = load(tmp_path / 'run', teacher=True).variables['params']['mask_token']
  np.testing.assert_array_equal(token, ours.variables['params']['mask_token'] - 1)


def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path):
  write_run(tmp_path / 'run')
  for file in (tmp_path / 'run' / 'checkpoints' / '4').rglob('*'):
    if file.is_file():
      file.write_bytes(b'')
  with pytest.warns(UserWarning, match='cannot be read'):
    assert load(tmp_path / 'run').origin == 'run run, step 2'
  for file in (tmp_path / 'run' / 'checkpoints' / '2').rglob('*'):
    if file.is_file():
      file.write_bytes(b'')
  with pytest.warns(UserWarning), pytest.raises(InputError, match='No checkpoint of'):
    load(tmp_path / 'run')


# -- Releases ----------------------------------------------------------------------------------


def original(model, release='audio_mae'):
  return revert(release, model, filled(model))


@pytest.mark.parametrize(
  'args', [{}, {'decoder': 'global'}, {'stride': 10, 'frames': 116}], ids=str
)
def test_pretraining_weights_there_and_back(args):
  model = AudioMAE(**{**SIZES, **DECODER, **args})
  arrays = original(model)
  assert arrays['patch_embed.proj.weight'].shape == (32, 1, 16, 16)
  assert arrays['blocks.1.attn.qkv.weight'].shape == (96, 32)
  given = {'heads': 2} | ({'decoder_heads': 2} if 'decoder' in args else {})
  found, variables = convert('audio_mae', arrays, **given)
  assert (found.decoder, found.width, found.stride) == (model.decoder, 32, model.stride)
  assert (found.frames, found.decoder_heads) == (model.frames, 2)
  back = revert('audio_mae', found, variables)
  assert set(back) == set(arrays)
  assert all(back[k].tobytes() == arrays[k].tobytes() for k in arrays)


def test_what_official_arrays_do_not_show_is_said_and_can_be_given_back():
  usual = AudioMAE(**SIZES, **DECODER)
  assert conversion.revert_files('audio_mae', usual, filled(usual))[2] == ''
  unlike = dict(padding='masked', positions='time_frequency', frontend=dict(mean=-3.0))
  model = AudioMAE(**SIZES, **DECODER, **unlike)
  arrays, _, left = conversion.revert_files('audio_mae', model, filled(model))
  assert left.startswith('padding, positions, frontend (on the way back: ')
  flags = shlex.split(left[left.index('--args') : -1])
  args = parse_args([flag.removeprefix('--args=') for flag in flags])
  assert args == unlike
  found, _ = convert('audio_mae', arrays, heads=2, **args)
  assert conversion.revert_files('audio_mae', found, filled(found))[2] == left
  for name in ('log_mel', 'whisper'):
    other = AudioMAE(**SIZES, **DECODER, frontend=dict(name=name))
    assert name in conversion.revert_files('audio_mae', other, filled(other))[2]


@pytest.mark.parametrize('release', ['audio_mae', 'timm_vit'])
@pytest.mark.parametrize('pooling, classes', [('mean', 5), ('cls', 5), ('mean', 0)])
def test_classifier_weights_there_and_back(release, pooling, classes):
  model = make('audio_mae+classifier', classes=classes, pooling=pooling, scan_layers=True, **SIZES)
  arrays = original(model, release)
  found, variables = convert(release, arrays, heads=2, scan_layers=True)
  assert found.top.pooling == pooling and found.top.classes == classes
  back = revert(release, found, variables)
  assert set(back) == set(arrays)
  assert all(back[k].tobytes() == arrays[k].tobytes() for k in arrays)


def test_layouts_are_not_mixed_up():
  """One element of each kind of kernel, followed through the conversion by hand."""
  model = AudioMAE(**SIZES, **DECODER)
  arrays = original(model)
  _, v = convert('audio_mae', arrays, heads=2)
  block = v['params']['encoder']['blocks_1']
  qkv = arrays['blocks.1.attn.qkv.weight']  # rows: q of head 0, of head 1, k of head 0 …
  assert block['attn']['qkv']['kernel'][7, 1, 1, 3] == qkv[32 + 16 + 3, 7]
  proj = arrays['blocks.1.attn.proj.weight']
  assert block['attn']['proj']['kernel'][1, 3, 7] == proj[7, 16 + 3]
  patch = arrays['patch_embed.proj.weight']
  assert v['params']['encoder']['patch_embed']['kernel'][16 * 2 + 5, 9] == patch[9, 0, 2, 5]


def test_missing_and_unexpected_keys_are_listed():
  arrays = original(AudioMAE(**SIZES, **DECODER))
  arrays['decoder_emb_pixel.weight'] = arrays['encoder_emb.bias'] = np.zeros(3, np.float32)
  convert('audio_mae', arrays, heads=2)  # ignored: left over in old files
  del arrays['blocks.1.norm2.bias']
  arrays['surprise'] = np.zeros(3, np.float32)
  with pytest.raises(
    InputError, match=r'missing: blocks\.1\.norm2\.bias; not expected: surprise\.'
  ):
    convert('audio_mae', arrays, heads=2)


@pytest.mark.parametrize(
  'args, message',
  [
    (dict(), 'give its number of heads'),
    (dict(heads=5), 'multiple of heads'),
    (dict(heads=2, width=48), 'width=48 was given, but the weights have width=32'),
    (
      dict(heads=2, decoder='global'),
      "decoder='global' was given, but the weights have decoder='swin'",
    ),
    (dict(heads=2, frames=128), 'give frames from 64 to 79'),
    (dict(heads=2, wdith=3), "'wdith'"),
    (dict(heads=2, stride=10), 'position table holds 32 tokens'),
  ],
  ids=str,
)
def test_contradictions_are_refused(args, message):
  arrays = original(AudioMAE(**SIZES, **DECODER))
  with pytest.raises(InputError, match=message):
    convert('audio_mae', arrays, **args)


def test_names_are_checked():
  with pytest.raises(InputError, match=r"Unknown release 'audiomae'\. Did you mean 'audio_mae'"):
    convert('audiomae', {})
  with pytest.raises(InputError, match='holds no patch_embed'):
    convert('audio_mae', {'x': np.zeros(2)})


def test_a_release_file_loads_and_exports(tmp_path):
  arrays = original(AudioMAE(**SIZES, **DECODER))
  save_file(arrays, tmp_path / 'official.safetensors')
  ours = load(tmp_path / 'official.safetensors', release='audio_mae', heads=2)
  assert ours.origin == 'audio_mae weights from official.safetensors'
  file = save(ours, tmp_path / 'out')
  back = revert('audio_mae', ours.model, load(file).variables)
  assert all(back[k].tobytes() == arrays[k].tobytes() for k in arrays)
  assert re.fullmatch(r'[0-9a-f]{64}', ours.fingerprint)
  assert set(load_file(file)) == set(tables.flatten(ours.variables))


@pytest.mark.slow
def test_how_a_speech_model_is_trained_is_not_in_its_fingerprint(tmp_path):
  sizes = dict(size='tiny', channels=16, width=32, depth=1, heads=2, hidden=32, conv_pos_groups=4)
  model = make('wav2vec2+ctc', **sizes, vocabulary=('_', 'a', 'b'))
  batch = {'audio': np.zeros((1, 800), np.float32), 'audio_mask': np.ones((1, 800), bool)}
  variables = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0), batch))
  ours = Pretrained('finetuned', model, variables, 'a test')
  save(ours, tmp_path)
  other = load(tmp_path, mask_seconds=3.0, mask_prob=0.2, dropout=0.3, freeze_updates=7)
  assert other.model.upstream.mask_seconds == 3.0 and other.fingerprint == ours.fingerprint
  assert load(tmp_path, padding='published').fingerprint != ours.fingerprint
  # Files of older versions name what is gone.
  file = tmp_path / 'model.safetensors'
  with safe_open(file, 'np') as held:
    about = json.loads(held.metadata()['oido'])
  about['model']['args']['mask_rows'] = 6
  save_file(load_file(file), file, metadata={'oido': json.dumps(about)})
  assert load(tmp_path).fingerprint == ours.fingerprint
