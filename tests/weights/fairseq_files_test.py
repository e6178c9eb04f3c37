"""The way out to fairseq and unilm: what is written beside the arrays, and that nothing is lost."""

import importlib.util
import json
import re

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from research import models
from research.errors import InputError
from research.weights import Pretrained, conversion, load, save
from research.weights.write import write_release
from tests.launch import runner
from tests.models import toy
from tests.weights.toy import check_identical, filled
from tests.weights.wav2vec2_toy import SIZES

# Nothing here is the default of its model.
MASKS = dict(
  mask_prob=0.45, mask_length=7, mask_overlap=False, mask_space=3, mask_channel_prob=0.2,
  mask_channel_length=5,
)  # fmt: skip
RATES = dict(
  feature_grad_mult=0.3, dropout=0.11, attention_dropout=0.12, activation_dropout=0.13,
  input_dropout=0.14, layerdrop=0.15,
)  # fmt: skip
COMMON = {**SIZES, **MASKS, **RATES, 'heads': 8}
UNITS = dict(final_dim=12, num_clusters=(5, 3), untied=False, label_rate=100.0)
LETTERS = dict(vocabulary=('<s>', '<pad>', '|', 'ä', 'b'), head_dropout=0.21, freeze_updates=77)
CODES = dict(
  final_dim=12, latent_dim=8, codebook_size=5, groups=4, negatives=9, temperature_start=1.5,
  temperature_end=0.25, temperature_decay=0.99,
)  # fmt: skip
KINDS = {
  'wav2vec2': ('wav2vec2', CODES),
  'wav2vec2 of continuous targets': ('wav2vec2', dict(final_dim=12, quantise=False, negatives=9)),
  'wav2vec2 with letters': ('wav2vec2+ctc', LETTERS),
  'hubert': ('hubert', UNITS),
  'hubert without special symbols': ('hubert', dict(final_dim=12, num_clusters=6, specials=0)),
  'hubert with six': ('hubert', dict(final_dim=12, num_clusters=6, specials=6)),
  'hubert with letters': ('hubert+ctc', LETTERS),
  'hubert alone': ('hubert+', {}),
  'wavlm': ('wavlm', {**UNITS, 'buckets': 8, 'max_distance': 23}),
  'wavlm without a bias': ('wavlm', {**UNITS, 'buckets': 0}),
  'wavlm with letters': ('wavlm+ctc', {**LETTERS, 'buckets': 8, 'max_distance': 23}),
  'wavlm alone': ('wavlm+', dict(buckets=8, max_distance=23)),
}
# Normalised, or norms first, where the arrays would suggest the other.
NORMS = {
  'group': dict(norm='group', conv_bias=True, pre_norm=True, frontend={'normalise': True}),
  'layer': dict(norm='layer', conv_bias=False, pre_norm=False, frontend={'normalise': False}),
}


def unusual(kind, norms='group'):
  """(release, weights) of a model of that kind with settings of its own."""
  name, own = KINDS[kind]
  model = toy.make(name, **{**COMMON, **own, **NORMS[norms]})
  return kind.split()[0], Pretrained(models.name_of(type(model)), model, filled(model), 'a test')


def settings(model):
  """All but the name of the size, whose figures are all there."""
  return {k: v for k, v in toy.flat_arguments(model).items() if k != 'size'}


def check_there_and_back(release, made, path):
  arrays, files, left = conversion.revert_files(release, made.model, made.variables, path.suffix)
  # unilm's loader of checkpoints takes the encoder alone.
  alone = path.suffix == '.pt' and toy.kind_of(made.model) == 'wavlm'
  assert left == ('the heads of pre-training' if alone else '')
  file = write_release(path, release, arrays, files)
  back = load(file, release=release)
  assert toy.kind_of(back.model) == ('wavlm+' if alone else toy.kind_of(made.model))
  own, found = settings(made.model), settings(back.model)
  if alone:
    # What only pre-training depends on went with its heads.
    kept = own.keys() & found.keys() - {'num_clusters'}
    own, found = ({k: d[k] for k in kept} for d in (own, found))
  assert found == own
  check_identical(conversion.revert(release, back.model, back.variables), arrays)
  return file


@pytest.mark.parametrize('norms', NORMS)
@pytest.mark.parametrize('kind', KINDS)
def test_nothing_is_lost(tmp_path, kind, norms):
  check_there_and_back(*unusual(kind, norms), tmp_path / 'model.safetensors')


def test_sections_are_those_of_the_original_code():
  def cfg(kind):
    release, made = unusual(kind)
    return conversion.get(release).compose(made.model)

  letters = cfg('hubert with letters')
  assert letters['cfg']['model']['_name'] == 'hubert_ctc'
  assert letters['cfg']['task'] | {'labels': ['ltr'], 'fine_tuning': True} == letters['cfg']['task']
  before = letters['cfg']['model']['w2v_args']
  assert before['model']['encoder_attention_heads'] == 8 and before['task']['normalize'] is True
  # Without a place for the units fairseq would look for their file, and it asks for their rate.
  symbols = ['<s>', '<pad>', '|', 'ä', 'b']
  assert letters['task_state'] == {'target_dictionary': symbols, 'dictionaries': [None]}
  assert before['model']['label_rate'] == 50.0
  assert cfg('wav2vec2 with letters')['cfg']['task']['_name'] == 'audio_finetuning'
  units = cfg('hubert')
  assert (
    units['cfg']['model']['conv_feature_layers'] == '[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2'
  )
  assert units['cfg']['task']['labels'] == ['km0', 'km1']
  assert units['task_state']['dictionaries'][1] == ['<s>', '<pad>', '</s>', '<unk>', '0', '1', '2']
  # unilm's is flat.
  flat = cfg('wavlm alone')['cfg']
  assert (flat['num_buckets'], flat['max_distance'], flat['relative_position_embedding']) == (
    8,
    23,
    1,
  )
  assert flat['normalize'] is True and 'model' not in flat
  contrastive = cfg('wav2vec2')['cfg']['model']
  assert contrastive['latent_temp'] == [1.5, 0.25, 0.99] and contrastive['num_negatives'] == 9


@pytest.mark.parametrize(
  'change, says',
  [
    (dict(min_masks=1), r'min_masks=1 \(it has 2\)'),
    (
      dict(frontend={'normalise': True, 'epsilon': 1e-7}),
      r'frontend\.epsilon=1e-07 \(it has 1e-05',
    ),
    (dict(vocabulary=('a', '_'), blank=1), r'blank=1 \(it has 0\)'),
    (dict(channels=16, width=16), 'the projection between equal widths'),
  ],
)
def test_what_the_original_code_has_no_setting_for_is_said(change, says):
  model = toy.make('hubert+ctc', **{**SIZES, **change})
  _, _, left = conversion.revert_files('hubert', model, filled(model))
  assert left and re.search(says, left)


def test_the_command_writes_the_configuration(tmp_path):
  release, made = unusual('wavlm')
  save(made, tmp_path / 'ours')
  done = runner.run(
    'launch.convert', f'--release={release}', f'--source={tmp_path / "ours"}',
    f'--out={tmp_path / "theirs"}', '--reverse',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  file = tmp_path / 'theirs' / 'wavlm.safetensors'
  with safe_open(file, framework='np') as opened:
    assert json.loads(opened.metadata()['cfg'])['encoder_attention_heads'] == 8
  assert settings(load(file, release=release).model) == settings(made.model)


def test_files_that_cannot_be_written_are_refused(tmp_path):
  arrays = {'x': np.zeros(2, np.float32)}
  with pytest.raises(InputError, match=r'give a folder, or a file that ends in \.safetensors or'):
    write_release(tmp_path / 'a.pth', 'hubert', arrays, {})
  with pytest.raises(InputError, match=r'weights of byol_a are written as \.safetensors'):
    write_release(tmp_path / 'a.pt', 'byol_a', arrays, {})
  (tmp_path / 'taken').write_text('')
  with pytest.raises(InputError, match='Cannot write weights to'):
    write_release(tmp_path / 'taken' / 'a.safetensors', 'hubert', arrays, {})


def test_a_header_that_is_no_json_is_refused(tmp_path):
  file = tmp_path / 'a.safetensors'
  save_file({'x': np.zeros(2, np.float32)}, file, metadata={'cfg': 'heads: 2'})
  with pytest.raises(InputError, match='has a cfg that is no JSON'):
    load(file, release='hubert')


def test_torch_is_asked_for_by_name(tmp_path, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name, *args: None if name == 'torch' else find(name, *args)
  )
  release, made = unusual('hubert')
  arrays, files, _ = conversion.revert_files(release, made.model, made.variables)
  with pytest.raises(InputError, match=r'torch is not installed: .*\.safetensors'):
    write_release(tmp_path / 'a.pt', release, arrays, files)
  assert not (tmp_path / 'a.pt').exists()
