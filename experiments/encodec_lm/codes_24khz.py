"""EnCodec's language model on the codes of a codec of 24 kHz (arXiv 2210.13438, §3.3).

python -m launch.train --config=experiments/encodec_lm/codes_24khz.py --workdir=DIR \
  --config.data.source=/data/audio --config.data.fields.units=CODES
python -m launch.codec --model=encodec_24khz-d7cc33bc.th --lm=DIR --input=/data/audio --out=codes

CODES is a list of folders of units, one for each of the 32 codebooks, in order
(`research/audio/units.py`). `:debug` is a few steps of a narrow model with one codebook on the
built-in corpus.

The size of the model and its window are encodec's. Of its training the released code says nothing:
clips of five seconds, Adam and its rate are ours, and nothing has been trained.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"codes_24khz.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 200_000

  config.data = dict(
    source='data',
    split=None,
    fields=dict(units=None),
    sample_rate=24_000,
    seconds=5.0,
    crop='random',
    batch_size=64,
    num_threads=16,
  )
  config.model = dict(name='encodec_lm', args=dict(size='24khz'))
  config.objective = dict(name='next_codes', args={})
  config.optim = dict(
    name='adam',
    lr=3e-4,
    b1=0.9,
    b2=0.999,
    clip_norm=1.0,
    schedule=dict(name='constant', warmup_steps=1000),
  )
  config.watch = {}
  config.evals = dict()
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', split='train', sample_rate=16_000, seconds=0.5)
    config.data.batch_size = 4
    config.model.args = dict(
      frontend=dict(sample_rate=16_000),
      label_rate=50.0,
      quantizers=1,
      codebook_size=16,
      width=16,
      heads=2,
      depth=2,
      past_context=8,
    )
    config.optim.schedule.warmup_steps = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config
