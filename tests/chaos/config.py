"""A training whose every step is logged and every other one saved: a kill hits something."""

from tests.multiprocess import tiny


def get_config(arg=''):
  config = tiny.get_config(arg)
  config.total_steps = 24
  config.optim.schedule.warmup_steps = 4
  config.evals = dict(valid=dict(name='validation', every=6, batches=1, data=dict(split='valid')))
  config.log_every = 1
  config.checkpoint = dict(every=2, keep=2, best='valid/loss')
  return config
