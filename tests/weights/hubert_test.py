"""HuBERT and WavLM in and out under all names: what a file holds, what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from research.errors import InputError
from research.nn.layers import unstack_blocks
from research.weights import conversion, convert, load, revert, tables
from tests.models import toy
from tests.models.toy import encoder_of, flat_arguments, kind_of
from tests.weights.toy import check_identical, filled
from tests.weights.wav2vec2_toy import LAYERED, SIZES

SYMBOLS = ('_', '|', 'a', 'b')
KINDS = {
  'pretraining': dict(final_dim=12, num_clusters=5),
  'two sets': dict(final_dim=12, num_clusters=(5, 3), untied=True),
  'two sets, one projection': dict(final_dim=12, num_clusters=(5, 3), untied=False),
  'encoder': {},
  'letters': dict(vocabulary=SYMBOLS),
}
FAMILY = pytest.mark.parametrize('family', ['hubert', 'wavlm'])


def make(family, kind, **args):
  own = KINDS[kind]
  name = family + {'encoder': '+', 'letters': '+ctc'}.get(kind, '')
  relative = dict(buckets=8, max_distance=20) if family == 'wavlm' else {}
  return name, toy.make(name, **{**SIZES, **own, **relative, **args})


@pytest.mark.slow
@FAMILY
@pytest.mark.parametrize('names', ['', '_hf'])
@pytest.mark.parametrize('layered', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_there_and_back(family, names, layered, kind):
  args = {**LAYERED, 'conv_bias': False} if layered else {}
  name, made = make(family, kind, **args)
  release = f'{family}{names}'
  variables = filled(made)
  if names and '+' not in name:
    with pytest.raises(InputError, match=r'transformers has no .* take the encoder alone'):
      revert(release, made, variables)
    # What transformers has a model for is the encoder.
    arrays, files, left = conversion.revert_files(release, made, variables)
    assert left == 'the heads of pre-training' and files['config.json']['model_type'] == family
    model, back = conversion.convert_files(release, arrays, files, {})
    assert kind_of(model) == f'{family}+' and not model.vocabulary
    assert model.frontend.normalise == made.frontend.normalise
    own = tables.flatten(unstack_blocks(variables))
    for key, x in tables.flatten(unstack_blocks(back)).items():
      np.testing.assert_array_equal(x, own[key])
    return
  arrays = revert(release, made, variables)
  given = dict(heads=2, scan_layers=layered)
  given |= {k: v for k, v in KINDS[kind].items() if k in ('vocabulary', 'num_clusters') and v}
  if family == 'wavlm':
    given['max_distance'] = 20
  model, back = convert(release, arrays, **given)
  assert kind_of(model) == name
  own = [*SIZES, *KINDS[kind], 'norm', 'conv_bias', 'pre_norm', 'buckets', 'max_distance']
  got = {k: flat_arguments(model)[k] for k in own if k != 'size'}
  assert got == {k: flat_arguments(made)[k] for k in got}
  assert model.frontend.normalise == layered
  assert ('blocks' in back['params']['encoder']) == layered
  check_identical(revert(release, model, back), arrays)


@FAMILY
def test_the_configuration_of_a_checkpoint_counts(family):
  _, made = make(family, 'pretraining')
  arrays = revert(family, made, filled(made))
  cfg = dict(encoder_attention_heads=2, layer_norm_first=True, normalize=True, label_rate=100.0)
  cfg |= dict(encoder_layers=2, encoder_embed_dim=16, final_dim=12, mask_prob=0.65)
  if family == 'wavlm':
    cfg |= dict(relative_position_embedding=True, num_buckets=8, max_distance=30, gru_rel_pos=True)
  model, _ = conversion.convert_files(family, arrays, {'cfg': cfg}, {})
  assert (model.heads, model.pre_norm, model.frontend.normalise) == (2, True, True)
  assert (model.label_rate, model.mask_prob) == (100.0, 0.65)
  assert (model.num_clusters, model.specials) == (5, 4)
  if family == 'wavlm':
    assert (model.buckets, model.max_distance) == (8, 30)

  for change, says in {
    'final_dim': (dict(final_dim=8), r'final_dim\) says final_dim=8'),
    'heads': (dict(encoder_attention_heads=4), 'heads=2 was given'),
    'activation': (dict(activation_fn='relu'), "activation_fn='relu'"),
    **({} if family == 'hubert' else {
      'buckets': (dict(num_buckets=320), r'num_buckets\) says buckets=320'),
      'none': (dict(relative_position_embedding=False), 'buckets=0'),
      'gates': (dict(gru_rel_pos=False), 'gru_rel_pos=False'),
    }),
  }.items():  # fmt: skip
    given = dict(heads=2) if change == 'heads' else {}
    with pytest.raises(InputError, match=says[1]):
      conversion.convert_files(family, arrays, {'cfg': {**cfg, **says[0]}}, given)
  with pytest.raises(InputError, match='normalise=False'):
    args = dict(frontend={'normalise': False})
    conversion.convert_files(family, arrays, {'cfg': cfg}, args)


def test_hubert_is_no_wavlm(tmp_path):
  _, hubert = make('hubert', 'encoder')
  _, wavlm = make('wavlm', 'encoder')
  theirs = {
    name: revert(name, m, filled(m)) for name, m in dict(hubert=hubert, wavlm=wavlm).items()
  }
  with pytest.raises(InputError, match='grep_a'):
    convert('hubert', theirs['wavlm'], heads=2)
  # WavLM without a bias can be; its files say so.
  model, _ = convert('wavlm', theirs['hubert'], heads=2)
  assert encoder_of(model).buckets == 0
  save_file(revert('hubert_hf', hubert, filled(hubert)), tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='hubert')))
  with pytest.raises(InputError, match=r"model_type='hubert'; expected 'wavlm'.*hubert_hf"):
    load(tmp_path, release='wavlm_hf', heads=2)


def test_sets_of_units_that_do_not_fit_the_vectors():
  _, made = make('hubert', 'two sets')
  arrays = revert('hubert', made, filled(made))
  with pytest.raises(InputError, match=r'num_clusters=.*how many units every set has'):
    convert('hubert', arrays, heads=2)
  with pytest.raises(InputError, match=r'16 vectors .* num_clusters=\[5, 4\] with specials=4'):
    convert('hubert', arrays, heads=2, num_clusters=(5, 4))
  # torchaudio's have no specials.
  vectors = arrays['label_embs_concat'][:5]
  arrays['label_embs_concat'] = vectors
  arrays['final_proj.weight'] = arrays['final_proj.weight'][:12]
  arrays['final_proj.bias'] = arrays['final_proj.bias'][:12]
  model, _ = convert('hubert', arrays, heads=2, specials=0)
  assert (model.num_clusters, model.specials) == (5, 0)
  del arrays['label_embs_concat']
  with pytest.raises(InputError, match='without label_embs_concat'):
    convert('hubert', arrays, heads=2)
  assert np.isfinite(vectors).all()


@pytest.mark.parametrize('has', [False, True])
def test_arrays_say_whether_convolutions_of_hubert_have_biases(tmp_path, has):
  """Folders of HuBERT large declare some that are not there."""
  _, made = make('hubert', 'encoder', **{**LAYERED, 'conv_bias': has})
  arrays, files, _ = conversion.revert_files('hubert_hf', made, filled(made))
  files['config.json']['conv_bias'] = not has
  save_file(arrays, tmp_path / 'model.safetensors')
  for name, content in files.items():
    (tmp_path / name).write_text(json.dumps(content))
  with pytest.warns(
    UserWarning, match=rf'\(conv_bias\) says conv_bias={not has}, but the file has'
  ):
    ours = load(tmp_path, release='hubert_hf')
  assert encoder_of(ours.model).conv_bias == has
  check_identical(revert('hubert_hf', ours.model, ours.variables), arrays)
  with pytest.warns(UserWarning), pytest.raises(InputError, match=r'conv_bias=.* was given, but'):
    load(tmp_path, release='hubert_hf', conv_bias=not has)
