"""wav2vec 2.0 pre-trained on LibriSpeech, 960 hours, unlabelled: the published recipe (arXiv
2006.11477).

python -m launch.train --config=experiments/wav2vec2/librispeech_base.py --workdir=DIR \
  --config.data.root=/data/LibriSpeech

Variants: `:base` (default), `:large`; `:debug` is a few steps of a narrow model on the built-in
corpus.

Hardware of the authors: 64 GPUs (base), 128 (large). Fine-tuned on the 960 hours, the released base
model has 3.4 / 8.6 % word errors on test clean / other without a language model (its model card).
Continue with finetune_librispeech.py. Not reproduced: the data is not included.

Numbers: fairseq's examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml and the paper:
crops of 250,000 samples, 1.6 hours per batch, 400,000 updates (base); 320,000 samples, 2.7 hours,
250,000 updates (large). A GPU holds 1.4 million samples (large: 1.2 million); a batch here holds 64
(128) times as many clips. As many consecutive clips as a GPU holds get equal numbers of masked
frames. Clips under two seconds are left out. There is no padding: fairseq crops a batch to its
shortest clip; here every clip is cropped to the longest of eight lengths that it fills.

Perplexities and the diversity term are over the masked frames of the whole batch; in fairseq they
are per GPU, and somewhat lower.
"""

import ml_collections

# The number of the large variant is not published. It is that of Libri-Light's model, which has
# biases in seven convolutions of 512 and norms after all of them, where this one has no biases and
# one norm.
PARAMETERS = {'': 95_044_608, 'large': 317_390_592 - 7 * 512 - 6 * 2 * 512}


def get_config(arg='base'):
  size = arg or 'base'
  if size not in ('base', 'large', 'debug'):
    raise ValueError(f'librispeech_base.py has no variant {arg!r}: base, large or debug.')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 250_000 if size == 'large' else 400_000

  config.data = dict(
    source='librispeech',
    split='train',
    sample_rate=16_000,
    seconds=20.0 if size == 'large' else 15.625,
    min_seconds=2.0,
    crop='random',
    buckets=8,
    fill='crop',
    batch_seconds=128 * 75.0 if size == 'large' else 64 * 87.5,
    batch_multiple=128 if size == 'large' else 64,
    batch_size=128 * 37 if size == 'large' else 64 * 43,
    num_threads=16,
  )
  config.model = dict(
    name='wav2vec2',
    args=dict(
      size='base' if size == 'debug' else size,
      mask_seconds=75.0 if size == 'large' else 87.5,
      dtype='bfloat16',
    ),
  )
  config.objective = dict(
    name='wav2vec2_contrastive', args=dict(logit_temp=0.1, diversity=0.1, penalty=10.0)
  )
  # Weight decay on every parameter, including norms and biases, as in fairseq's Adam.
  config.optim = dict(
    name='adamw',
    lr=3e-4 if size == 'large' else 5e-4,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.01,
    no_decay='$^',
    schedule=dict(name='polynomial', warmup_steps=32_000, power=1.0),
  )
  config.evals = dict(
    valid=dict(name='validation', every=5000, data=dict(split='valid', batch_size=32)),
  )
  # Our limits, not from a published run. Fewer than ten of 320 codes in use in either group is a
  # collapse; an accuracy of 3 % is three times chance among 100 distractors.
  config.watch = dict(
    representation_std=dict(min=1e-3, after=50),
    min_code_perplexity=dict(min=10.0, after=20_000, patience=3),
    min_prob_perplexity=dict(min=10.0, after=20_000, patience=3),
    accuracy=dict(min=0.03, after=20_000, patience=3),
    grad_norm=dict(max=100.0, after=1000, patience=3),
  )
  config.log_every = 100
  config.checkpoint = dict(every=5000, keep=2)

  if size == 'debug':
    config.total_steps = 4
    config.data.update(batch_seconds=None, batch_multiple=1)
    config.data.update(source='builtin', seconds=2.0, min_seconds=0.0, batch_size=4, num_threads=2)
    config.model.args.update(
      size='tiny',
      channels=32,
      width=32,
      depth=2,
      heads=2,
      hidden=64,
      final_dim=16,
      codebook_size=20,
      negatives=10,
      dtype='float32',
    )
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data.batch_size = 4
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config
