"""WavLM fine-tuned with CTC on characters: ten hours of Libri-Light (arXiv 2110.13900).

python -m launch.train --config=experiments/wavlm/finetune_librispeech.py:base_10h \
  --workdir=DIR --config.init.path=PRETRAINED --config.data.root=/data/librispeech_finetuning \
  --config.evals.valid.data.root=/data/LibriSpeech

Variants: base_10h, base_plus_10h, large_10h; `:debug` is a few steps of a narrow model on the
built-in corpus. PRETRAINED is a workdir or a converted release (launch.convert); weights of another
normalisation are rejected. For large_10h with a release of transformers (wavlm_hf) also give
--config.model.args.encoder.args.frontend.epsilon=1e-7, which it adds to the variance; unilm
adds 1e-5. Checkpoints are selected by word errors on dev-other.

Expected word errors on test clean / other: base 9.8 / 16.0 without a language model, 4.3 / 9.2 with
a 4-gram; base+ 9.0 / 14.7 and 4.2 / 8.8; large 2.9 / 5.5 with a 4-gram (its authors' table, in
microsoft/UniSpeech). Not reproduced here: the data is not included.

Numbers: those of HuBERT in fairseq's examples/hubert/config/finetune/base_10h.yaml, which the paper
follows, for all sizes: 8 GPUs x 3.2 million samples, or 1,600 seconds of audio per update. Batches
here have clips of similar length and 1,600 seconds including padding.
"""

import ml_collections

SIZES = ('base', 'base_plus', 'large')


def get_config(arg='base_10h'):
  variant = arg or 'base_10h'
  debug = variant == 'debug'
  size = 'base' if debug else variant.removesuffix('_10h')
  if size not in SIZES or not (debug or variant.endswith('_10h')):
    raise ValueError(
      f'finetune_librispeech.py has no variant {arg!r}: {"_10h, ".join(SIZES)}_10h or debug.'
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 25_000

  config.data = dict(
    source='librispeech_finetuning',
    split='10h',
    fields=dict(transcript='transcript'),
    sample_rate=16_000,
    # The longest clip of LibriSpeech is 35 s.
    seconds=36.0,
    buckets=12,
    batch_seconds=1600.0,
    batch_multiple=8,
    batch_size=1024,
    num_threads=16,
  )
  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='wavlm',
        args=dict(
          size=size,
          mask_prob=0.75,
          mask_length=10,
          mask_seconds=200.0,
          mask_channel_prob=0.5,
          mask_channel_length=64,
          activation_dropout=0.1,
          layerdrop=0.1,
          feature_grad_mult=0.0,
          dtype='bfloat16',
        ),
      ),
      head=dict(name='ctc', args=dict(blank=0)),
      freeze_updates=10_000,
    ),
  )
  config.init = dict(path='')
  config.objective = dict(name='ctc', args=dict(blank=0, zero_infinity=True))
  # Warm-up for 8,000 updates, then a decay that would reach 0.05 of the peak after 72,000 more.
  config.optim = dict(
    name='adam',
    lr=2e-5,
    b1=0.9,
    b2=0.98,
    eps=1e-8,
    schedule=dict(
      name='tri_stage',
      warmup_steps=8000,
      hold_fraction=0.0,
      initial_scale=0.01,
      final_scale=0.05 ** (17 / 72),
    ),
  )
  config.evals = dict(
    valid=dict(
      name='transcription',
      every=1000,
      data=dict(source='librispeech', root=None, split='dev-other', batch_size=64),
    ),
  )
  config.log_every = 100
  config.checkpoint = dict(every=1000, keep=2, best='valid/wer')

  if debug:
    config.total_steps = 4
    config.data.update(batch_seconds=None, batch_multiple=1)
    config.optim.schedule.warmup_steps = 1
    config.init = None
    config.data.update(
      source='builtin',
      split='train',
      where=dict(kind='word'),
      seconds=2.0,
      buckets=2,
      batch_size=4,
      num_threads=2,
    )
    config.model.args.encoder.args.update(
      size='tiny',
      channels=32,
      width=32,
      depth=2,
      heads=2,
      hidden=64,
      mask_channel_length=8,
      dtype='float32',
    )
    config.model.args.freeze_updates = 2
    config.evals.valid.every = 2
    config.evals.valid.batches = 2
    config.evals.valid.data = dict(split='valid', batch_size=4)
    config.log_every = 1
    config.checkpoint.every = 2
  return config
