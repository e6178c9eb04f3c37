"""FLOPs of a program, counted in its jaxpr: two for each multiply-add of its matrix products and
convolutions.

XLA's own cost analysis counts the body of a loop once, so that it misses all but one of the layers
of a scan and all but one of the parts of an accumulated batch.

- The body of a scan counts as often as it runs. The trip count of a `while_loop` is not known
  before it runs: its body counts once.
- Of branches by platform the default one counts, which is the textbook form on every platform; of
  branches by value the most expensive one.
- Convolutions count the products of real inputs: none with padding or with the zeros of dilation.
- A Pallas kernel counts what its cost estimate says, or its body over its grid.
- What no output depends on does not count, as the gradient of a stem's input.
- Element-wise operations, reductions, sorts and FFTs do not count.
"""

import math
from typing import Any

import numpy as np
from jax.interpreters import partial_eval

# Names under which a primitive keeps the one program that it runs.
_INNER = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')


def count(jaxpr: Any) -> float:
  """FLOPs of a jaxpr (open or closed), over all devices."""
  jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
  used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _sum(used)


def _sum(jaxpr: Any) -> float:
  return sum(_equation(equation) for equation in getattr(jaxpr, 'jaxpr', jaxpr).eqns)


def _equation(equation: Any) -> float:
  params = equation.params
  match equation.primitive.name:
    case 'dot_general':
      left, right = (x.aval.shape for x in equation.invars)
      return dot(left, right, params['dimension_numbers'])
    case 'conv_general_dilated':
      left, kernel = (x.aval.shape for x in equation.invars)
      return convolution(left, kernel, equation.outvars[0].aval.shape, params)
    case 'scan':
      return params['length'] * _sum(params['jaxpr'])
    case 'while':
      return _sum(params['body_jaxpr']) + _sum(params['cond_jaxpr'])
    case 'cond':
      return _branches(params)
    case 'shard_map':
      # Its program is that of one device.
      return params['mesh'].size * _sum(params['jaxpr'])
    case 'pallas_call':
      return _kernel(params)
  inner = next((params[name] for name in _INNER if params.get(name) is not None), None)
  return 0.0 if inner is None else _sum(inner)


def dot(left: tuple[int, ...], right: tuple[int, ...], dimension_numbers: Any) -> float:
  """FLOPs of a `dot_general` of arrays of these shapes."""
  (_, contracted), (_, batch) = dimension_numbers
  # The left array is read once for each free index of the right one.
  free = math.prod(n for i, n in enumerate(right) if i not in (*contracted, *batch))
  return 2.0 * math.prod(left) * free


def convolution(
  left: tuple[int, ...], kernel: tuple[int, ...], out: tuple[int, ...], params: Any
) -> float:
  """FLOPs of a `conv_general_dilated`.

  The inputs of a kernel are those of one group, and each output belongs to one group, of features
  or of the batch. So groups need no further factor.
  """
  numbers = params['dimension_numbers']
  places = zip(
    (left[i] for i in numbers.lhs_spec[2:]),
    (kernel[i] for i in numbers.rhs_spec[2:]),
    (out[i] for i in numbers.out_spec[2:]),
    params['window_strides'],
    params['padding'],
    params['lhs_dilation'],
    params['rhs_dilation'],
  )
  pairs = math.prod(_pairs(*each) for each in places)
  channels = kernel[numbers.rhs_spec[1]]
  return 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * channels * pairs


def _pairs(
  size: int,
  taps: int,
  out: int,
  stride: int,
  padding: tuple[int, int],
  dilation: int,
  kernel_dilation: int,
) -> int:
  """Pairs of an output and a tap along one dimension that meet an input, not padding nor a zero
  between inputs."""
  starts = np.arange(out, dtype=np.int64) * stride - padding[0]
  total = 0
  # The shorter of the two is the loop: a kernel's gradient has few outputs and many taps.
  if taps <= out:
    for tap in range(taps):
      at = starts + tap * kernel_dilation
      total += int(np.sum((at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)))
  else:
    offsets = np.arange(taps, dtype=np.int64) * kernel_dilation
    for start in starts:
      at = offsets + start
      total += int(np.sum((at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)))
  return total


def _branches(params: Any) -> float:
  """FLOPs of a `cond`: of the default branch by platform, or of the most expensive one by value."""
  platforms = params.get('branches_platforms')
  if platforms is not None and None in platforms:
    return _sum(params['branches'][platforms.index(None)])
  return max(_sum(branch) for branch in params['branches'])


def _kernel(params: Any) -> float:
  estimate = params.get('cost_estimate')
  if estimate is not None:
    return float(estimate.flops)
  grid = getattr(params.get('grid_mapping'), 'grid', ())
  return math.prod(n for n in grid if isinstance(n, int)) * _sum(params['jaxpr'])
