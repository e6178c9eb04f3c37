"""wav2vec 2.0 fine-tuned with CTC on characters: Libri-Light's 10 min, 1 h, 10 h and LibriSpeech's
100 h, 960 h (arXiv 2006.11477).

python -m launch.train --config=experiments/wav2vec2/finetune_librispeech.py:base_10h \
  --workdir=DIR --config.init.path=PRETRAINED --config.data.root=/data/librispeech_finetuning \
  --config.evals.valid.data.root=/data/LibriSpeech

Variants, named as in fairseq's configs: base_10m, base_1h, base_10h, base_100h, base_960h, and
vox_… for the large model of Libri-Light's 60,000 hours; `:debug` is a few steps of a narrow model
on the built-in corpus. For 100 h and 960 h, data.root is LibriSpeech itself.

PRETRAINED is a workdir of librispeech_base.py or a converted release (launch.convert); weights of
another normalisation are rejected. For vox_… with a release of transformers (wav2vec2_hf) also give
--config.model.args.encoder.args.frontend.epsilon=1e-7, which it adds to the variance; fairseq
adds 1e-5. Checkpoints are selected by word errors on dev-other, as published.

Expected word errors on test clean / other with a 4-gram language model: base 10 min 9.1 / 15.6,
large 10 min 4.8 / 8.2, 1 h 2.9 / 5.8, 10 h 2.6 / 4.9, 100 h 2.0 / 4.0; 960 h: base 2.1 / 4.8, large
1.8 / 3.3 (the paper). Without one, base 960 h: 3.4 / 8.6 (its model card). The large model of
LibriSpeech's 960 hours, fine-tuned on all of them, has 2.0 / 4.1 (the paper), but its settings are
not published, so there is no variant of it. Not reproduced here: the data is not included.

Numbers: fairseq's examples/wav2vec/config/finetuning. Base: 2 GPUs x update_freq 4 x 3.2 million
samples (960h: 8 x 1), large: 4 x 5 x 1.28 million, or 1,600 seconds of audio per update; vox_960h:
24 x 1 x 1.28 million, 1,920 seconds. Batches here have clips of similar length and as many seconds,
including padding. As many consecutive clips as a GPU holds get equal numbers of masked frames.
"""

import ml_collections

# Where the variants differ.
RECIPES = {
  'base_10m': dict(updates=13_000, lr=5e-5, mask=0.65, channel=0.25, layerdrop=0.1, freeze=10_000),
  'base_1h': dict(updates=13_000, lr=5e-5, mask=0.65, channel=0.25, layerdrop=0.1, freeze=10_000),
  'base_10h': dict(updates=20_000, lr=5e-5, mask=0.65, channel=0.5, layerdrop=0.05, freeze=10_000),
  'base_100h': dict(updates=80_000, lr=3e-5, mask=0.65, channel=0.5, layerdrop=0.1, freeze=0),
  'base_960h': dict(updates=320_000, lr=1e-4, mask=0.5, channel=0.1, layerdrop=0.1, freeze=0),
  'vox_10m': dict(updates=13_000, lr=1e-4, mask=0.65, channel=0.25, layerdrop=0.1, freeze=10_000),
  'vox_1h': dict(updates=13_000, lr=3e-4, mask=0.75, channel=0.25, layerdrop=0.1, freeze=10_000),
  'vox_10h': dict(updates=20_000, lr=1e-4, mask=0.75, channel=0.25, layerdrop=0.1, freeze=10_000),
  'vox_100h': dict(updates=80_000, lr=3e-5, mask=0.5, channel=0.5, layerdrop=0.1, freeze=10_000),
  'vox_960h': dict(updates=320_000, lr=3e-5, mask=0.5, channel=0.25, layerdrop=0.1, freeze=10_000),
}
# hours: source, split.
DATA = {
  '10m': ('librispeech_finetuning', '10min'),
  '1h': ('librispeech_finetuning', '1h'),
  '10h': ('librispeech_finetuning', '10h'),
  '100h': ('librispeech', 'train-clean-100'),
  '960h': ('librispeech', 'train'),
}


def get_config(arg='base_100h'):
  variant = arg or 'base_100h'
  debug = variant == 'debug'
  if not debug and variant not in RECIPES:
    raise ValueError(
      f'finetune_librispeech.py has no variant {arg!r}: {", ".join(RECIPES)} or debug.'
    )
  size, hours = ('base', '10m') if debug else variant.split('_')
  recipe = RECIPES['base_10m' if debug else variant]
  mask_prob, mask_channel_prob = recipe['mask'], recipe['channel']
  layerdrop, freeze = recipe['layerdrop'], recipe['freeze']
  source, split = DATA[hours]
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = recipe['updates']

  config.data = dict(
    source=source,
    split=split,
    fields=dict(transcript='transcript'),
    sample_rate=16_000,
    # The longest clip of LibriSpeech is 35 s.
    seconds=36.0,
    buckets=12,
    batch_seconds=1920.0 if variant == 'vox_960h' else 1600.0,
    batch_multiple=8,
    batch_size=1024,
    num_threads=16,
  )
  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='wav2vec2',
        args=dict(
          size='large_lv60' if size == 'vox' else 'base',
          mask_prob=mask_prob,
          mask_length=10,
          mask_seconds=80.0 if size == 'vox' else 200.0,
          mask_channel_prob=mask_channel_prob,
          mask_channel_length=64,
          activation_dropout=0.1,
          layerdrop=layerdrop,
          feature_grad_mult=0.0,
          dtype='bfloat16',
        ),
      ),
      head=dict(name='ctc', args=dict(blank=0)),
      freeze_updates=freeze,
    ),
  )
  config.init = dict(path='')
  config.objective = dict(name='ctc', args=dict(blank=0, zero_infinity=True))
  # Warm-up for 10 % of the run, hold for 40 %, then decay to 0.05 of the peak.
  config.optim = dict(
    name='adam',
    lr=recipe['lr'],
    b1=0.9,
    b2=0.98,
    eps=1e-8,
    schedule=dict(
      name='tri_stage',
      warmup_fraction=0.1,
      hold_fraction=0.4,
      initial_scale=0.01,
      final_scale=0.05,
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
