"""Optimisers and learning-rate schedules from plain values.

`optim = dict(name='adamw', lr=1e-3, b1=0.9, b2=0.95, eps=1e-8, mu_dtype=None, weight_decay=0.05,
no_decay=REGEX, clip_norm=None, accumulate=1, layer_decay=None, frozen=(), groups={},
schedule=dict(name='cosine', warmup_steps=100, final_lr=0.0))`.

`groups = dict(critic=dict(match='^critic/', lr=1e-4, b1=0.5, probability=2 / 3))`: parameters whose
path `match` finds learn by themselves, with the settings of GROUP that are given and else those of
`optim`, on the same schedule. Gradients are clipped by the norm of their own group. With a
`probability` a group is updated at some steps only; at the others its parameters and its state of
the optimiser stay. Whether it is depends on the number of the step alone, so that a resumed run
draws the same.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from research.errors import InputError, unknown
from research.train.state import path_name

Schedule = Callable[[Any], jax.Array]

# Parameters without weight decay by default: biases, norm scales, and Swin-V2's temperature.
NO_DECAY = r'(^|/)(bias|scale|tau)$'
# Layer-wise decay: parameters of the stem, and numbered or scanned blocks.
STEM = r'(^|/)(patch_embed|pos_embed|cls_token|stem)(/|$)'
BLOCK = r'(^|/)blocks_(\d+)/'
STACKED = r'(^|/)blocks/'

DEFAULTS: dict[str, Any] = dict(
  name='adamw',
  lr=1e-3,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  mu_dtype=None,
  momentum=0.9,
  trust_coefficient=0.001,
  weight_decay=0.0,
  no_decay=NO_DECAY,
  clip_norm=None,
  accumulate=1,
  layer_decay=None,
  frozen=(),
  groups={},
  schedule=dict(name='constant'),
)
# Settings of a group of parameters; those that are None are as for all others.
GROUP: dict[str, Any] = dict(
  match=None, probability=1.0, lr=None, b1=None, b2=None, eps=None, weight_decay=None,
  clip_norm=None,
)  # fmt: skip
# Of Adam's first moment; None: float32. In 16 bits it takes half of the memory.
MU_DTYPES = (None, 'float32', 'bfloat16')
SCHEDULE_DEFAULTS: dict[str, Any] = dict(
  name='constant',
  warmup_steps=None,
  warmup_epochs=None,
  warmup_fraction=None,
  final_lr=0.0,
  initial_scale=0.01,
  hold_fraction=0.4,
  final_scale=0.05,
  power=1.0,
  first_drop=10,
  drop_every=1,
  drop=0.5,
)


def _warmup(lr: float, warmup: float, step: jax.Array) -> jax.Array:
  return lr * step / max(warmup, 1e-9)


def cosine(lr: float, total: int, warmup: float, args: Mapping[str, Any]) -> Schedule:
  """Linear warm-up from 0, then a half cosine to `final_lr` (AudioMAE's util/lr_sched.py)."""

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    left = jnp.clip((total - step) / max(total - warmup, 1), 0.0, 1.0)
    low = args['final_lr']
    # (1 + cos(pi t)) / 2 = sin(pi (1 - t) / 2)^2; the sine form is accurate in float32 near the
    # end, where 1 + cos cancels.
    decayed = low + (lr - low) * jnp.sin(0.5 * jnp.pi * left) ** 2
    return jnp.where(step < warmup, _warmup(lr, warmup, step), decayed)

  return schedule


def polynomial(lr: float, total: int, warmup: float, args: Mapping[str, Any]) -> Schedule:
  """Linear warm-up from 0, then `(1 - t) ** power` to `final_lr` (fairseq's polynomial_decay)."""

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    left = jnp.clip((total - step) / max(total - warmup, 1), 0.0, 1.0)  # 1 - t, without rounding
    low = args['final_lr']
    return jnp.where(
      step < warmup, _warmup(lr, warmup, step), low + (lr - low) * left ** args['power']
    )

  return schedule


def tri_stage(lr: float, total: int, warmup: float, args: Mapping[str, Any]) -> Schedule:
  """Linear from `initial_scale * lr`, hold, exponential decay to `final_scale * lr` (fairseq)."""
  hold = args['hold_fraction'] * total
  decay = max(total - warmup - hold, 1)

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    first = args['initial_scale'] * lr
    rising = first + (lr - first) * step / max(warmup, 1e-9)
    t = jnp.clip((step - warmup - hold) / decay, 0.0, 1.0)
    falling = lr * jnp.exp(t * jnp.log(args['final_scale']))
    return jnp.where(step < warmup, rising, falling)

  return schedule


def constant(lr: float, total: int, warmup: float, args: Mapping[str, Any]) -> Schedule:
  """Linear warm-up from 0, then constant."""
  del total, args

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    return jnp.where(step < warmup, _warmup(lr, warmup, step), jnp.float32(lr))

  return schedule


def step(lr: float, total: int, warmup: float, args: Mapping[str, Any]) -> Schedule:
  """Linear warm-up from 0, then constant, times `drop` after `first_drop` epochs and every
  `drop_every` after that (torch's MultiStepLR as AST has it)."""
  del total

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    epochs = jnp.floor(step / args['epoch_steps'])
    drops = jnp.floor((epochs - args['first_drop']) / args['drop_every']) + 1.0
    low = lr * jnp.power(jnp.float32(args['drop']), jnp.maximum(drops, 0.0))
    return jnp.where(step < warmup, jnp.minimum(_warmup(lr, warmup, step), low), low)

  return schedule


def inverse_sqrt(lr: float, total: int, warmup: float, args: Mapping[str, Any]) -> Schedule:
  """Linear warm-up from 0, then `lr / sqrt(step)` (s3prl's sqrt_decay_schedule_with_warmup, which
  falls at the end of the warm-up: SUPERB's speech translation)."""
  del total, args

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    return jnp.where(step < warmup, _warmup(lr, warmup, step), lr / jnp.sqrt(jnp.maximum(step, 1)))

  return schedule


SCHEDULES = dict(
  cosine=cosine, polynomial=polynomial, tri_stage=tri_stage, constant=constant, step=step,
  inverse_sqrt=inverse_sqrt,
)  # fmt: skip


def make_schedule(optim: Mapping[str, Any], total_steps: int, epoch_steps: float = 1.0) -> Schedule:
  """The learning rate as a function of the (possibly fractional) step.

  Args:
    optim: the `optim` config.
    total_steps: number of steps of the run.
    epoch_steps: steps per epoch, for `warmup_epochs` and the schedule 'step'.

  Raises:
    InputError: an unknown schedule, or a warm-up longer than the run.
  """
  args = {**SCHEDULE_DEFAULTS, **optim['schedule']}
  if args['name'] not in SCHEDULES:
    raise unknown('schedule', args['name'], SCHEDULES)
  given = {k: args[k] for k in ('warmup_steps', 'warmup_epochs', 'warmup_fraction') if args[k]}
  if len(given) > 1:
    raise InputError(f'optim.schedule has {" and ".join(given)}; give only one of them.')
  unit = dict(warmup_steps=1.0, warmup_epochs=epoch_steps, warmup_fraction=float(total_steps))
  warmup = sum(value * unit[k] for k, value in given.items())
  if warmup >= total_steps > 0:
    raise InputError(
      f'optim.schedule warms up for {warmup:g} steps, but the run has {total_steps}. Shorten the '
      f'warm-up ({" or ".join(f"--config.optim.schedule.{k}=…" for k in given)}) or raise '
      'total_steps.'
    )
  args['epoch_steps'] = max(epoch_steps, 1.0)
  return SCHEDULES[args['name']](optim['lr'], total_steps, warmup, args)


def decay_mask(params: Any, no_decay: str) -> Any:
  """Tree of bools: True where weight decay applies (paths that `no_decay` does not match)."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: re.search(no_decay, path_name(path)) is None, params
  )


def block_count(params: Any) -> int:
  """Blocks in the longest row of them."""
  count = 0
  for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = path_name(path)
    if block := re.search(BLOCK, name):
      count = max(count, int(block.group(2)) + 1)
    elif re.search(STACKED, name):
      count = max(count, x.shape[0])
  return count


def layer_scales(params: Any, rate: float, depth: int | None = None) -> Any:
  """Layer-wise learning-rate factors: `rate ** (depth + 1 - layer)` (AudioMAE's util/lr_decay.py).

  The stem is layer 0, block i is layer i + 1, everything else is layer depth + 1 (factor 1).
  Scanned blocks get one factor per entry of their leading axis. Without a depth it is the number of
  blocks in `params`.
  """
  depth = block_count(params) if depth is None else depth

  def scale(path, x):
    name = path_name(path)
    block = re.search(BLOCK, name)
    if re.search(STEM, name):
      layer = 0
    elif block:
      layer = int(block.group(2)) + 1
    elif re.search(STACKED, name):
      layers = jnp.arange(x.shape[0]) + 1
      factors = jnp.float32(rate) ** (depth + 1 - layers).astype(jnp.float32)
      return factors.reshape(-1, *(1,) * (x.ndim - 1))
    else:
      layer = depth + 1
    return jnp.float32(rate ** (depth + 1 - layer))

  return jax.tree_util.tree_map_with_path(scale, params)


def _scale_by_tree(make_scales: Callable[[Any], Any]) -> optax.GradientTransformation:
  def update(updates, state, params=None):
    if params is None:
      raise ValueError('layer decay needs the parameters: update(updates, state, params)')
    return jax.tree.map(lambda u, s: u * s, updates, make_scales(params)), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def scale_by_s3prl_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Adam as s3prl's own AdamW has it: `eps` is added to the root of the second moment before its
  bias is corrected, so that it weighs more in the first steps (SUPERB-SG, with eps 1e-7)."""
  adam = optax.scale_by_adam(b1, b2, eps=0.0)

  def update(updates, state, params=None):
    _, state = adam.update(updates, state, params)
    count = state.count.astype(jnp.float32)
    size = jnp.sqrt(1.0 - b2**count) / (1.0 - b1**count)
    return jax.tree.map(lambda m, v: size * m / (jnp.sqrt(v) + eps), state.mu, state.nu), state

  return optax.GradientTransformation(adam.init, update)


def _rule(optim: Mapping[str, Any], schedule: Schedule) -> optax.GradientTransformation:
  mask = lambda params: decay_mask(params, optim['no_decay'])  # noqa: E731
  wd, b1, b2, eps = (optim[k] for k in ('weight_decay', 'b1', 'b2', 'eps'))
  mu_dtype = optim['mu_dtype']
  if mu_dtype not in MU_DTYPES:
    raise unknown('optim.mu_dtype', mu_dtype, [str(dtype) for dtype in MU_DTYPES])
  if optim['name'] == 'adamw':
    return optax.adamw(schedule, b1, b2, eps, mu_dtype=mu_dtype, weight_decay=wd, mask=mask)
  if optim['name'] == 'adam':
    # As in torch.optim.Adam: L2 decay, added to the gradient before the moments.
    return optax.chain(
      optax.add_decayed_weights(wd, mask) if wd else optax.identity(),
      optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype),
      optax.scale_by_learning_rate(schedule),
    )
  if optim['name'] == 's3prl_adamw':
    return optax.chain(
      scale_by_s3prl_adam(b1, b2, eps),
      optax.add_decayed_weights(wd, mask) if wd else optax.identity(),
      optax.scale_by_learning_rate(schedule),
    )
  if optim['name'] == 'sgd':
    return optax.chain(
      optax.add_decayed_weights(wd, mask) if wd else optax.identity(),
      optax.sgd(schedule, momentum=optim['momentum'] or None),
    )
  if optim['name'] == 'lars':
    return optax.lars(
      schedule,
      wd,
      weight_decay_mask=mask,
      trust_coefficient=optim['trust_coefficient'],
      trust_ratio_mask=mask,
      momentum=optim['momentum'],
    )
  raise unknown('optimiser', optim['name'], ('adamw', 'adam', 's3prl_adamw', 'sgd', 'lars'))


def promoting(rule: optax.GradientTransformation) -> optax.GradientTransformation:
  """`rule` under JAX's standard dtype promotion: optax mixes int32 counters with floats."""

  def update(updates, state, params=None, **extra):
    with jax.numpy_dtype_promotion('standard'):
      return rule.update(updates, state, params, **extra)

  return optax.GradientTransformation(rule.init, update)


def is_frozen(path: str, frozen: tuple[str, ...]) -> bool:
  """Whether a parameter path matches one of the `frozen` patterns."""
  return any(re.search(pattern, path) for pattern in frozen)


def check_groups(groups: Any) -> dict[str, dict[str, Any]]:
  """`optim.groups` with every setting; raises InputError for one that cannot be."""
  if not isinstance(groups, Mapping):
    raise InputError(f'config.optim.groups is {groups!r}; expected groups by name.')
  complete = {}
  for name, given in groups.items():
    where = f'config.optim.groups.{name}'
    if name in ('frozen', 'trained') or not isinstance(given, Mapping):
      raise InputError(f'{where} is {given!r}; expected dict(match=REGEX, …) under another name.')
    for key, value in given.items():
      if key not in GROUP:
        raise unknown('setting', f'{where}.{key}', [f'{where}.{k}' for k in GROUP])
      number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
      if key != 'match' and value is not None and not number:
        raise InputError(f'{where}.{key} is {value!r}; it must be a number of at least 0.')
    group = {**GROUP, **given}
    try:
      re.compile(group['match'])
    except (TypeError, re.error):
      raise InputError(
        f'{where}.match is {group["match"]!r}; expected a pattern of paths of parameters.'
      ) from None
    if not 0 < (group['probability'] or 0) <= 1:
      raise InputError(f'{where}.probability is {group["probability"]!r}; it must be in (0, 1].')
    complete[name] = group
  return complete


def group_of(path: str, groups: Mapping[str, str]) -> str | None:
  """The first group whose pattern finds a path; None where none does."""
  return next((name for name, match in groups.items() if re.search(match, path)), None)


def group_norms(grads: Any, groups: Mapping[str, str]) -> dict[str, jax.Array]:
  """Norms of gradients: 'grad_norm' of those in no group, 'grad_norm_NAME' of those of a group."""
  parts: dict[str, list[jax.Array]] = {'grad_norm': []}
  for path, x in jax.tree_util.tree_leaves_with_path(grads):
    name = group_of(path_name(path), groups)
    parts.setdefault('grad_norm' if name is None else f'grad_norm_{name}', []).append(x)
  return {name: optax.tree.norm(each) for name, each in parts.items()}


class Sometimes(NamedTuple):
  """State of a group: how many steps there were, and that of its rule after its own updates."""

  steps: jax.Array
  rule: Any


def sometimes(
  rule: optax.GradientTransformation, probability: float, seed: int, schedule: Schedule
) -> optax.GradientTransformation:
  """`rule`, which has a learning rate of 1, at a part of the steps and with the rate of the step.

  Args:
    rule: what makes updates.
    probability: of an update.
    seed: of the draws.
    schedule: learning rate by the number of the step.
  """

  def update(updates, state, params=None):
    moved, after = rule.update(updates, state.rule, params)
    rate = jnp.asarray(schedule(state.steps), jnp.float32)
    draws = jax.random.bernoulli(jax.random.fold_in(jax.random.key(seed), state.steps), probability)
    moved = jax.tree.map(lambda x: jnp.where(draws, rate * x, jnp.zeros_like(x)), moved)
    after = jax.tree.map(lambda new, old: jnp.where(draws, new, old), after, state.rule)
    return moved, Sometimes(state.steps + 1, after)

  def init(params):
    return Sometimes(jnp.zeros((), jnp.int32), rule.init(params))

  return optax.GradientTransformation(init, update)


def _chain(optim: Mapping[str, Any], schedule: Schedule) -> optax.GradientTransformation:
  """Clipping, update rule, layer-wise factors."""
  parts = [_rule(optim, schedule)]
  if optim['clip_norm']:
    parts.insert(0, optax.clip_by_global_norm(optim['clip_norm']))
  if optim['layer_decay']:
    rate, depth = optim['layer_decay']['rate'], optim['layer_decay'].get('depth')
    parts.append(_scale_by_tree(lambda params: layer_scales(params, rate, depth)))
  return optax.chain(*parts)


def _group_chain(
  name: str, group: Mapping[str, Any], optim: Mapping[str, Any], schedule: Schedule
) -> optax.GradientTransformation:
  """The optimiser of a group."""
  own = {k: v for k, v in group.items() if k in DEFAULTS and v is not None}
  ratio = 1.0
  if group['lr'] is not None:
    if not optim['lr']:
      raise InputError(
        f'config.optim.groups.{name}.lr is {group["lr"]:g} and config.optim.lr is 0, from which '
        'the schedule of the group is scaled: set it, or freeze what should not learn.'
      )
    ratio = group['lr'] / optim['lr']

  def scaled(step):
    return ratio * schedule(step)

  if group['probability'] == 1:
    return _chain({**optim, **own}, scaled)
  if optim['name'] == 'lars':
    raise InputError(
      f"config.optim.groups.{name}.probability is for optimisers other than 'lars', whose momentum "
      'holds the learning rate.'
    )
  rule = _chain({**optim, **own}, lambda step: jnp.float32(1.0))
  return sometimes(rule, group['probability'], zlib.crc32(name.encode()), scaled)


def make_optimizer(optim: Mapping[str, Any], schedule: Schedule) -> optax.GradientTransformation:
  """The optimiser: gradient clipping, update rule with weight decay, layer-wise factors, each of
  the groups by itself.

  Frozen parameters are not updated.

  Raises:
    InputError: an unknown optimiser, or (when its state is made) a group that has no parameter.
  """
  chain = _chain(optim, schedule)
  frozen = tuple(optim['frozen'])
  groups = check_groups(optim.get('groups') or {})
  if not frozen and not groups:
    return promoting(chain)
  matches = {name: group['match'] for name, group in groups.items()}

  def label(path, _):
    name = path_name(path)
    return 'frozen' if is_frozen(name, frozen) else group_of(name, matches) or 'trained'

  def labels(params):
    found = jax.tree_util.tree_map_with_path(label, params)
    empty = set(groups) - set(jax.tree.leaves(found))
    if empty:
      name = sorted(empty)[0]
      raise InputError(
        f'config.optim.groups.{name}.match, {matches[name]!r}, finds no parameter that learns.'
      )
    return found

  rules = {name: _group_chain(name, group, optim, schedule) for name, group in groups.items()}
  rules |= {'trained': chain} | ({'frozen': optax.set_to_zero()} if frozen else {})
  return promoting(optax.multi_transform(rules, labels))
