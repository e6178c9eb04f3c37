"""CLAP against the official implementations of LAION and Microsoft and against transformers, on
whatever cases the golden folder holds.

Limits are the golden files': 1e-4 of the largest reference value; LAION's patch embedding, stages
and gradients 3e-4 (a layer norm over the few channels of nearly constant patches amplifies
rounding).
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features import clips
from research.features.frontend import Frontend
from research.features.fusion import fusion_spectrograms
from research.objectives.contrastive import audio_text_contrastive
from research.objectives.supervised import cross_entropy
from research.weights import conversion, convert, load, revert
from research.weights.write import write_release
from tests import contract
from tests.parity.golden import Case, assert_close, assert_near, each_case

# Every operation by itself takes far longer than one program.
COMPILED = pytest.mark.parametrize(
  'compiled', [True, pytest.param(False, marks=pytest.mark.slow)], ids=['jit', 'eager']
)
AMPLIFIED = re.compile(r'patch_embed|stage\d|tokens_normed|grad/')
# Derived, or used by nothing: see the releases.
LEFT_OUT = re.compile(r'\.head\.(weight|bias)$|caption_encoder\.base\.pooler\.')


def laion(case: Case) -> bool:
  return 'joint_embed_shape' in case.config


def microsoft(case: Case) -> bool:
  return 'd_proj' in case.config


def fusion_input(case: Case) -> bool:
  return 'wave0' in case.inputs


def release_of(case: Case) -> str:
  return 'laion_clap' if laion(case) else 'msclap'


def model_of(case: Case, **args):
  args = dict(padding='none', int16=False) | args
  if case.config.get('enable_fusion'):
    args['padding'] = 'repeat'
  text = case.config['text']
  epsilon = text.get('layer_norm_eps')
  if epsilon is not None:
    args['text_epsilon'] = epsilon
  model, variables = convert(
    release_of(case), case.weights, text_heads=text['num_attention_heads'], **args
  )
  return model, jax.tree.map(jnp.asarray, variables)


def batch_of(case: Case) -> dict:
  given = case.inputs
  batch = {
    'text': given['input_ids'].astype(np.int32),
    'text_mask': given['attention_mask'] > 0,
  }
  if 'waveform' in given:
    mask = np.ones(given['waveform'].shape, bool)
    return batch | {'audio': given['waveform'], 'audio_mask': mask}
  longer = given['longer'] > 0
  mels = np.zeros((len(longer), 4, *given['mel_short'].shape[1:]), np.float32)
  mels[longer] = given['mel_fusion_long']
  mels[~longer] = given['mel_short'][:, None]
  return batch | {'spectrogram': mels, 'longer': longer}


def flat(x):
  """[b, y, x, d] as [b, y x, d]."""
  return x.reshape(len(x), -1, x.shape[-1])


def every(x, want):
  """Every n-th token, so that there are as many as recorded."""
  step = -(-x.shape[1] // want.shape[1])
  return x[:, ::step]


def towers(case: Case, out) -> dict:
  """Outputs of both towers under the names of the cases."""
  audio, text, want = out['audio_tower'], out['text_tower'], case.outputs
  got = {
    'audio_embedding': out['embedding'],
    'text_embeddings': text['embedded'],
    'text_pooled': text['pooled'],
    **{f'text_layer{i}': x for i, x in enumerate(text['layers'])},
    'class_scores': audio.get('class_scores'),
    'clipwise_output': audio.get('class_scores'),
    'framewise_output': audio.get('frame_scores'),
    'audio_projected': out['audio_projected'],
    'text_projected': out['text_projected'],
    'audio_features': out['audio_embedding'],
    'text_features': out['text_embedding'],
    'audio_features_mlp': out.get('audio_transformed'),
    'text_features_mlp': out.get('text_transformed'),
    'similarity': out['similarity'],
    'zero_shot_softmax': jax.nn.softmax(out['similarity']),
    'logit_scales': out['logit_scale'],
    'logit_scale': out['logit_scale'],
  }
  if 'stem' in audio:
    got |= {
      'bn0_every_40th_frame': audio['norm'][:, :, ::40],
      'patch_embed': flat(audio['stem']),
      'stage0_block0': flat(audio['blocks'][0]),
      'stage0_block1_shifted': flat(audio['blocks'][1]),
      **{f'stage{i}': flat(x) for i, x in enumerate(audio['stages'])},
      'tokens_normed': flat(audio['normed']),
      'fine_grained_embedding': audio['tokens'].mean(axis=2),
    }
  else:
    got |= {f'conv_block{i + 1}': x.transpose(0, 3, 1, 2) for i, x in enumerate(audio['blocks'])}
  for name in want:
    if re.fullmatch(r'patch_embed|stage\d(_block.*)?', name):
      got[name] = every(got[name], want[name])
    if name.startswith('conv_block'):
      got[name] = got[name][:, :, :: max(1, -(-got[name].shape[2] // want[name].shape[2]))]
  return got


def compare(got, want: dict, names) -> None:
  for name in names:
    amplified = AMPLIFIED.search(name) is not None
    x = np.asarray(got[name])
    x = x.reshape(want[name].shape) if x.size == 1 else x
    assert_close(x, want[name], relative=3e-4 if amplified else 1e-4, what=name)


def outputs_and_losses(case: Case, model, variables, batch) -> tuple[dict, dict]:
  """(outputs, losses and gradients under the names of the cases), of one program."""
  targets = {'label': np.asarray(case.config.get('targets', ()), np.int32)}

  def loss(params):
    out = model.apply({**variables, 'params': params}, batch)
    if microsoft(case):
      value = cross_entropy({'logits': out['similarity']}, targets)[0]
      return value, (jnp.float32(0.0), out)
    both = [audio_text_contrastive(out, batch, transformed=t)[0] for t in (False, True)]
    return both[0], (both[1], out)

  step = contract.jit(jax.value_and_grad(loss, has_aux=True))
  (value, (other, out)), gradients = step(variables['params'])
  named = revert(release_of(case), model, {**variables, 'params': gradients})
  found = {f'grad/{key}': x for key, x in named.items()}
  return out, found | {'loss': value, 'loss_mlp': other, 'classification_loss': value}


@each_case('clap', where=lambda case: laion(case) or microsoft(case))
@COMPILED
def test_outputs(case: Case, compiled: bool):
  """Stem, blocks, towers, projections, losses and gradients."""
  model, variables = model_of(case)
  batch = batch_of(case)
  elsewhere = {'log_mel', 'audio_embedding_none_longer'}
  if not compiled:
    got = towers(case, model.apply(variables, batch))
    compare(got, case.outputs, [n for n in case.outputs if n in got and got[n] is not None])
    return
  out, found = outputs_and_losses(case, model, variables, batch)
  got = towers(case, out) | found
  names = [n for n in case.outputs if n in got and got[n] is not None]
  compare(got, case.outputs, names)
  assert set(case.outputs) - elsewhere <= set(names), set(case.outputs) - elsewhere - set(names)
  if 'audio_embedding_none_longer' in case.outputs:
    none = batch | {'longer': np.zeros(len(batch['longer']), bool)}
    out = jax.jit(model.apply)(variables, none)
    assert_close(out['embedding'], case.outputs['audio_embedding_none_longer'], what='none longer')
  if 'log_mel' in case.outputs:
    want, stride = case.outputs['log_mel'][:, 0], case.config['mel_stride']
    mel, _ = jax.jit(model.frontend.raw)(batch['audio'], batch['audio_mask'])
    loud = want > -80
    assert_near(
      np.asarray(mel)[:, ::stride][loud], want[loud], max_abs=1e-2, mean_abs=1e-4, what='log_mel'
    )


@each_case('clap', where=fusion_input)
def test_fusion_input(case: Case):
  size, numbers = case.config['max_len'], range(len(case.config['lengths']))
  frontend = Frontend.create('laion_clap_fusion')
  waves = [clips.int16_round_trip(case.inputs[f'wave{i}']) for i in numbers]
  width = max(map(len, waves)) + 5
  audio = np.stack([np.pad(w, (0, width - len(w)), constant_values=np.nan) for w in waves])
  mask = np.stack([np.arange(width) < len(w) for w in waves])
  starts = np.stack([case.inputs[f'choice{i}'] for i in numbers]).astype(np.int32)
  for antialias in (True, False):
    mels, longer = jax.jit(
      lambda *a, antialias=antialias: fusion_spectrograms(
        frontend, *a[:2], np.zeros((len(waves), 3), np.float32), samples=size, starts=a[2],
        antialias=antialias,
      )
    )(audio, mask, starts)  # fmt: skip
    for i in numbers:
      assert bool(longer[i]) == bool(case.outputs[f'longer{i}'][0])
      name = f'mel_fusion{i}' if antialias else f'global_no_antialias{i}'
      if name not in case.outputs:
        continue
      got, want = np.asarray(mels[i] if antialias else mels[i, 0]), case.outputs[name]
      loud = want > -80
      assert got.shape == want.shape
      assert_near(got[loud], want[loud], max_abs=1e-2, mean_abs=1e-4, what=name)


@each_case('clap', where=lambda case: laion(case) or microsoft(case))
def test_round_trip_is_bitwise(case: Case):
  """But for what nothing uses."""
  model, variables = model_of(case)
  back = revert(release_of(case), model, variables)
  used = {k for k in case.weights if not LEFT_OUT.search(k)}
  assert set(back) == used
  for key in used:
    assert back[key].tobytes() == case.weights[key].tobytes(), key


# -- transformers ------------------------------------------------------------------------------

RENAMED = (
  ('audio_branch.', 'audio_model.audio_encoder.'), ('.bn0.', '.batch_norm.'),
  ('.attn.proj.', '.attention.output.dense.'),
  ('.attn.relative_position_bias_table', '.attention.self.relative_position_bias_table'),
  ('.norm1.', '.layernorm_before.'), ('.norm2.', '.layernorm_after.'),
  ('.mlp.fc1.', '.intermediate.dense.'), ('.mlp.fc2.', '.output.dense.'),
  ('text_branch.', 'text_model.'), ('_projection.0.', '_projection.linear1.'),
  ('_projection.2.', '_projection.linear2.'),
)  # fmt: skip
ABSENT = re.compile(r'_transform\.|tscam_conv|audio_branch\.head')


def renamed(weights: dict) -> dict:
  """LAION's names as those of transformers (`source_weights_map` of the twins)."""
  found = {}
  for key, x in weights.items():
    if ABSENT.search(key):
      continue
    name = key
    for theirs, ours in RENAMED:
      name = name.replace(theirs, ours)
    if '.attn.qkv.' in name:
      for part, third in zip(('query', 'key', 'value'), np.split(x, 3)):
        found[name.replace('.attn.qkv.', f'.attention.self.{part}.')] = third
    else:
      found[name] = x
  return found


@each_case('clap', where=lambda case: laion(case) and case.twin is not None)
def test_transformers_twin(case: Case, tmp_path):
  """Features, logits and loss of ClapModel; a folder there and back."""
  twin = case.twin
  assert twin is not None
  config = {'model_type': 'clap', **{k: v for k, v in twin.config.items() if k != 'inputs_of'}}
  arrays = renamed(case.weights)
  write_release(tmp_path, 'clap_hf', arrays, {'config.json': config})
  loaded = load(tmp_path)
  batch = batch_of(case)
  if 'log_mel' in twin.inputs:
    batch = {k: v for k, v in batch.items() if not k.startswith('audio')}
    batch['spectrogram'] = twin.inputs['log_mel'][:, 0]
  out = jax.jit(loaded.model.apply)(loaded.variables, batch)
  pairs = np.asarray(out['audio_embedding']) @ np.asarray(out['text_embedding']).T
  scale = np.asarray(out['logit_scale'])
  got = {
    'audio_embeds': out['audio_embedding'],
    'text_embeds': out['text_embedding'],
    'get_audio_features': out['audio_embedding'],
    'get_text_features': out['text_embedding'],
    'logits_per_audio': scale[0] * pairs,
    'logits_per_text': scale[1] * pairs.T,
    # Both of its terms are captions against clips, each with its own factor.
    'loss': -np.mean([np.diagonal(jax.nn.log_softmax(s * pairs.T)) for s in scale]),
    'audio_pooler_output': out['embedding'],
    'text_pooler_output': out['text_tower']['pooled'],
  }
  compare(got, twin.outputs, twin.outputs)

  back, files, left = conversion.revert_files('clap_hf', loaded.model, loaded.variables)
  assert not left
  assert set(back) == set(arrays)
  for key, x in arrays.items():
    assert back[key].tobytes() == x.tobytes(), key
  write_release(tmp_path / 'again', 'clap_hf', back, files)
  assert load(tmp_path / 'again').model == loaded.model
  # From LAION's weights, whose further maps transformers has no place for.
  whole, variables = model_of(case)
  other, _, left = conversion.revert_files('clap_hf', whole, variables)
  assert left.startswith('the heads of pre-training')
  assert {key: x.tobytes() for key, x in other.items()} == {
    key: x.tobytes() for key, x in arrays.items()
  }
