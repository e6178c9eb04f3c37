"""A head of SUPERB with the weights of a case: outputs, a loss, its gradients by s3prl's names."""

import jax
import jax.numpy as jnp
import numpy as np

from research.weights.families import superb
from tests.parity.golden import Case
from tests.parity.superb_cases import check_gradient
from tests.weights.toy import check_identical


def load(case: Case, **args):
  """(head, its parameters); the way back gives the recorded arrays."""
  head, variables = superb.read_head(case.weights, **args)
  check_identical(superb.write_head(head, variables), case.weights)
  return head, jax.tree.map(jnp.asarray, variables['params'])


def real(case: Case):
  return jnp.arange(case.inputs['features'].shape[1]) < case.inputs['lengths'][:, None]


def run(case, head, params, loss, *, train=False, batch=None):
  """Outputs, and the loss with its gradients, compiled; they equal those without."""
  batch = {} if batch is None else batch

  def value(params, features):
    out = head.apply({'params': params}, features, real(case), {'batch': batch}, train, rngs={})
    return loss(out), out

  features = jnp.asarray(case.inputs['features'])
  (found, out), gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(
    params, features
  )
  eager, _ = value(params, features)
  np.testing.assert_allclose(found, eager, rtol=1e-5)
  return out, found, gradients


def check_gradients(case, head, gradients, prefix='grad/'):
  own = superb.write_head(head, {'params': gradients[0]})
  wanted = {k.removeprefix(prefix): v for k, v in case.outputs.items() if k.startswith(prefix)}
  assert wanted
  for key, want in wanted.items():
    check_gradient(gradients[1] if key == 'features' else own[key], want, f'{prefix}{key}')
