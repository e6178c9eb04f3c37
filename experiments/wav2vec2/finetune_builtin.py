"""wav2vec 2.0, tiny, fine-tuned with CTC on the transcripts of the built-in corpus.

python -m launch.train --config=experiments/wav2vec2/finetune_builtin.py \
  --workdir=runs/tiny_ctc --config.init.path=runs/tiny_wav2vec2

Starts from the run of builtin_tiny.py; `:scratch` trains from scratch. `:debug` is a few steps of a
smaller model, from scratch.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'scratch', 'debug'):
    raise ValueError(
      f"finetune_builtin.py has no variant {arg!r}: give nothing, 'scratch' or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1000

  config.data = dict(
    source='builtin',
    split='train',
    where=dict(kind=['digit', 'word', 'sentence']),
    fields=dict(transcript='transcript'),
    sample_rate=16_000,
    seconds=None,
    buckets=[0.5, 0.75, 2.2],
    batch_size=16,
  )
  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='wav2vec2',
        args=dict(
          size='tiny',
          channels=64,
          width=128,
          heads=4,
          hidden=512,
          frontend=dict(normalise=True),
          norm='layer',
          conv_bias=True,
          pre_norm=True,
          mask_prob=0.2,
          dropout=0.1,
          attention_dropout=0.1,
          input_dropout=0.1,
          mask_length=4,
          mask_seconds=35.2,
          min_masks=0,
          activation_dropout=0.0,
          layerdrop=0.0,
          feature_grad_mult=1.0,
        ),
      ),
      head=dict(name='ctc', args=dict(blank=0)),
    ),
  )
  config.augment = [dict(name='speed', args=dict(low=0.75, high=1.33))]
  config.init = None if arg else dict(path='')
  config.objective = dict(name='ctc', args=dict(blank=0, zero_infinity=True))
  config.optim = dict(
    name='adam',
    lr=1e-3,
    b1=0.9,
    b2=0.98,
    eps=1e-8,
    clip_norm=5.0,
    schedule=dict(
      name='tri_stage',
      warmup_fraction=0.1,
      hold_fraction=0.4,
      initial_scale=0.01,
      final_scale=0.05,
    ),
  )
  config.evals = dict(
    valid=dict(name='transcription', every=200, data=dict(split='valid')),
  )
  config.log_every = 10
  config.checkpoint = dict(every=200, keep=2)

  if arg == 'debug':
    config.total_steps = 4
    config.data.update(batch_size=4)
    config.model.args.encoder.args.update(channels=32, width=32, depth=2, heads=2, hidden=64)
    config.evals.valid.every = 2
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config
