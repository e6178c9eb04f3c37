"""Voice conversion of SUPERB-SG against s3prl's Taco2-AR, with every dropout mask given."""

import jax
import jax.numpy as jnp
import numpy as np

from research.models.heads.voice import resample
from research.objectives.reconstruction import normalised_l1
from research.weights.families import superb
from tests.parity.golden import Case, each_case
from tests.parity.superb_cases import check, check_gradient, kind
from tests.weights.toy import check_identical


def load(case: Case):
  config = case.config
  head, variables = superb.read_head(
    case.weights, ratio=config['resample_ratio'], prenet_dropout=config['prenet_dropout'],
    masked=False, dropout=0.0, cell_dropout=0.0,
  )  # fmt: skip
  check_identical(superb.write_head(head, variables), case.weights)
  assert (head.cells, head.prenet_layers) == (config['lstmp_layers'], config['prenet_layers'])
  return head, jax.tree.map(jnp.asarray, variables)


def inputs(case: Case, name: str):
  features, mel = (jnp.asarray(case.inputs[k]) for k in ('features', 'targets'))
  mask = jnp.arange(features.shape[1]) < case.inputs['lengths'][:, None]
  mel_mask = jnp.arange(mel.shape[1]) < case.inputs['target_lengths'][:, None]
  keep = jnp.asarray(case.inputs[f'{name}/prenet_keep'])
  return features, mask, {'prenet_keep': keep}, {'mel': mel, 'mel_mask': mel_mask}


@each_case('superb', where=kind('superb_vc'))
def test_teacher_forcing(case: Case):
  head, variables = load(case)
  want = case.outputs
  features, mask, draws, targets = inputs(case, 'teacher')
  check(resample(features, head.ratio), want['resampled'], 'resampled')
  rest = {k: v for k, v in variables.items() if k != 'params'}

  def value(params, features):
    batch = {**draws, **targets}
    out = head.apply({'params': params, **rest}, features, mask, {'batch': batch}, False)
    return normalised_l1(out, targets)[0], out

  (loss, out), gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(
    variables['params'], features
  )
  real = np.asarray(out['mel_frames'])
  np.testing.assert_array_equal(real.sum(axis=1), want['teacher/encoder_lengths'])
  check(out['voice_encoder'], want['teacher/encoder'], 'encoder')
  check(out['mel'], want['teacher/output'], 'output')
  np.testing.assert_allclose(loss, want['teacher/loss'], rtol=1e-5)
  own = superb.write_head(head, {'params': gradients[0], **rest})
  for key, recorded in want.items():
    if key.startswith('teacher/grad/'):
      name = key.removeprefix('teacher/grad/')
      check_gradient(gradients[1] if name == 'features' else own[name], recorded, key)


@each_case('superb', where=kind('superb_vc'))
def test_free_running(case: Case):
  head, variables = load(case)
  features, mask, draws, targets = inputs(case, 'free')

  def run(train):
    return lambda variables: head.apply(
      variables, features, mask, {'batch': draws}, train, mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(0)},
    )  # fmt: skip

  out, _ = jax.jit(run(False))(variables)
  check(out['mel'], case.outputs['free/output'], 'output')
  loss = normalised_l1(out, targets)[0]
  np.testing.assert_allclose(loss, case.outputs['free/loss'], rtol=1e-5)

  out, after = jax.jit(run(True))(variables)
  check(out['voice_encoder'], case.outputs['train/encoder'], 'encoder in training')
  for name in ('mean', 'var'):
    recorded = case.outputs[f'train/bn0_running_{name}']
    check(after['batch_stats']['norm_0'][name], recorded, f'running {name}')
