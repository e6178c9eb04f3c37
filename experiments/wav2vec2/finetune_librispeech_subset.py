"""wav2vec 2.0, small, fine-tuned with CTC on an hour of LibriSpeech, with and without pre-training.

export OIDO_DATA=/data
python -m launch.train --config=experiments/wav2vec2/finetune_librispeech_subset.py \
  --workdir=runs/subset_ctc --config.init.path=runs/subset
python -m launch.train --config=experiments/wav2vec2/finetune_librispeech_subset.py:scratch \
  --workdir=runs/subset_scratch

The first starts from the run of librispeech_subset.py, the second from scratch, with the same
model, data, updates and learning rate. $OIDO_DATA holds the folder librispeech_test_clean_sub.
Clips above ten seconds are left out of training, not of evaluation. Results are in
experiments/notes/wav2vec2.md. `:debug` runs on the built-in corpus.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'scratch', 'debug'):
    raise ValueError(
      f"finetune_librispeech_subset.py has no variant {arg!r}: give nothing, 'scratch' or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 600

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/librispeech_test_clean_sub',
    split='train',
    fields=dict(transcript='transcript'),
    sample_rate=16_000,
    seconds=10.0,
    buckets=10,
    batch_size=8,
  )
  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='wav2vec2',
        args=dict(
          size='tiny',
          channels=64,
          frontend=dict(normalise=True),
          norm='layer',
          conv_bias=True,
          pre_norm=True,
          mask_prob=0.2,
          mask_length=10,
          mask_seconds=80.0,
          activation_dropout=0.0,
          layerdrop=0.0,
          # Not frozen: without pre-training, the convolutions are random.
          feature_grad_mult=1.0,
        ),
      ),
      head=dict(name='ctc', args=dict(blank=0)),
    ),
  )
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
    valid=dict(name='transcription', every=100, data=dict(split='dev', batch_size=8)),
    test=dict(name='transcription', data=dict(split='test', batch_size=8)),
  )
  config.log_every = 50
  config.checkpoint = dict(every=100, keep=2, best='valid/cer')

  if arg == 'debug':
    config.total_steps = 4
    config.data.update(
      source='builtin', where=dict(kind='word'), seconds=2.0, buckets=2, batch_size=4
    )
    config.model.args.encoder.args.update(channels=32, width=32, depth=2, heads=2, hidden=64)
    config.evals = dict(
      valid=dict(name='transcription', every=2, batches=2, data=dict(split='valid', batch_size=4)),
    )
    config.log_every = 1
    config.checkpoint.every = 2
  return config
