"""wav2vec 2.0 large pre-trained on Libri-Light, 60,000 hours, unlabelled: the recipe of the
released LV-60k model (arXiv 2006.11477).

python -m launch.train --config=experiments/wav2vec2/librilight_large.py --workdir=DIR \
  --config.data.root=/data

`:debug` is a few steps of a narrow model on the built-in corpus.

Libri-Light has chapters of many minutes, which are cut at pauses into clips of about one minute
(launch.prepare_data does this once). One clip in twenty is held out.

Hardware of the authors: 128 GPUs. Fine-tuned on LibriSpeech's 960 hours, the released model has 2.2
% word errors on test clean without a language model (its model card); with a 4-gram 4.8 after 10
minutes of labels, 2.0 after 100 hours (the paper). Continue with finetune_librispeech.py. Not
reproduced here: the data is not included.

Numbers: fairseq's examples/wav2vec/config/pretraining/wav2vec2_large_librivox.yaml: audio
normalised, crops of 320,000 samples, 1.2 million samples per GPU (three such crops, which get equal
numbers of masked frames), no dropout, no feature penalty. Peak learning rate and updates are 3e-4
and 600,000, as in the paper and the released model; that file has 5e-3 and a million.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 317_390_592}


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"librilight_large.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 600_000

  config.data = dict(
    source=dict(name='libri_light', args=dict(voice_seconds=60)),
    split='train',
    sample_rate=16_000,
    seconds=20.0,
    min_seconds=2.0,
    crop='random',
    buckets=8,
    fill='crop',
    batch_seconds=128 * 75.0,
    batch_multiple=128,
    batch_size=128 * 37,
    num_threads=16,
  )
  config.model = dict(
    name='wav2vec2',
    args=dict(size='large_lv60', mask_seconds=75.0, dtype='bfloat16', scan_layers=True, remat=True),
  )
  config.objective = dict(
    name='wav2vec2_contrastive', args=dict(logit_temp=0.1, diversity=0.1, penalty=0.0)
  )
  # Weight decay on every parameter, including norms and biases, as in fairseq's Adam.
  config.optim = dict(
    name='adamw',
    lr=3e-4,
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

  if arg == 'debug':
    config.total_steps = 4
    config.data.update(batch_seconds=None, batch_multiple=1)
    with config.ignore_type():  # a name instead of a dict
      config.data.source = 'builtin'
    config.data.update(seconds=2.0, min_seconds=0.0, batch_size=4, num_threads=2)
    config.model.args.update(
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
