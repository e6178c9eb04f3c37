"""wav2vec 2.0, small, on 79 minutes of LibriSpeech: what a laptop learns in an hour.

export OIDO_DATA=/data
python -m launch.train --config=experiments/wav2vec2/librispeech_subset.py --workdir=runs/subset

$OIDO_DATA holds the folder librispeech_test_clean_sub with its labels.csv (path, split,
transcript). Transcripts are not used. Continue with finetune_librispeech_subset.py. Results are in
experiments/notes/wav2vec2.md. `:debug` runs on the built-in corpus.

The model is a narrow version of the large Libri-Light model: layer norm in the convolutions,
pre-norm blocks, no dropout, no feature penalty. Three choices are ours. With group norm, post-norm
blocks and the penalty, the loss did not improve in the first 200 updates. With the published
diversity weight, 0.1, the codebook shrank to 20 codes in 200 updates; the published recipe warms up
150 times as long. The eight clips of a batch get equal numbers of masked frames, like the clips of
a GPU in fairseq: long clips lose masked frames to match short ones, which makes the task easier.
Without that (mask_seconds=None), with 49 % of the frames masked in whole spans, the contrastive
loss was still at chance after 600 updates.
"""

import os

import ml_collections

# Metrics of a healthy run, and limits relative to them.
TRACE = os.path.join(os.path.dirname(__file__), 'librispeech_subset_trace.jsonl')
WATCH = dict(
  code_perplexity=dict(min_fraction=0.5),
  prob_perplexity=dict(min_fraction=0.5),
  accuracy=dict(min_fraction=0.4),
  grad_norm=dict(max_fraction=10.0),
)


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"librispeech_subset.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 3000

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/librispeech_test_clean_sub',
    split='train',
    sample_rate=16_000,
    seconds=4.0,
    crop='random',
    batch_size=8,
  )
  config.model = dict(
    name='wav2vec2',
    args=dict(
      size='tiny',
      channels=64,
      frontend=dict(normalise=True),
      norm='layer',
      conv_bias=True,
      pre_norm=True,
      dropout=0.0,
      attention_dropout=0.0,
      input_dropout=0.0,
      feature_grad_mult=1.0,
      mask_seconds=32.0,
      temperature_decay=0.999,
    ),
  )
  config.objective = dict(
    name='wav2vec2_contrastive', args=dict(logit_temp=0.1, diversity=1.0, penalty=0.0)
  )
  config.optim = dict(
    name='adamw',
    lr=1e-3,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.01,
    no_decay='$^',
    schedule=dict(name='polynomial', warmup_steps=200, power=1.0),
  )
  config.evals = dict(
    valid=dict(name='validation', every=250, data=dict(split='dev', batch_size=8), batches=8),
  )
  config.watch = {
    name: dict(trace=TRACE, after=200, patience=3, **limit) for name, limit in WATCH.items()
  }
  config.watch.representation_std = dict(min=1e-3, after=50)
  config.log_every = 50
  config.checkpoint = dict(every=250, keep=2)

  if arg == 'debug':
    config.total_steps = 4
    config.data.update(source='builtin', seconds=2.0, batch_size=4)
    config.model.args.update(
      channels=32,
      width=32,
      depth=2,
      heads=2,
      hidden=64,
      final_dim=16,
      codebook_size=20,
      negatives=10,
    )
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data = dict(split='valid', batch_size=4)
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config
