"""AudioMAE ViT-B fine-tuned on ESC-50, one fold held out (arXiv 2207.06405).

python -m launch.train --config=experiments/audio_mae/finetune_esc50.py --workdir=DIR \
  --config.data.root=/data/ESC-50 --config.init.path=PRETRAINED
  # folds 2-5: --config.data.where.fold='("1","3","4","5")'
  --config.evals.valid.data.where.fold='("2",)' …

The paper reports 94.1 % over the five folds with audio-only pre-training. The released script
(main_finetune_esc.py) does not run; the statistics are taken from it, the rest is the AudioSet-20K
recipe with cross-entropy and SpecAug 24/96 for 5 s. Not reproduced here. `launch.evaluate
--protocol=finetune` runs all folds. `:debug` runs on the built-in corpus.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"finetune_esc50.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 60

  config.data = dict(
    source='esc50',
    split=None,
    where=dict(fold=('2', '3', '4', '5')),
    fields=dict(label='label'),
    sample_rate=16_000,
    seconds=5.0,
    crop='start',
    batch_size=64,
    num_threads=16,
  )
  # Gain from Beta(10, 10) + 0.5.
  config.augment = (dict(name='gain'),)

  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='audio_mae',
        args=dict(
          size='base',
          frontend=dict(name='kaldi_fbank', mean=-6.6268077, std=5.358466),
          frames=512,
          mask_t_prob=0.2,
          mask_f_prob=0.2,
          drop_path=0.1,
          freq_mask=24,
          time_mask=96,
          dtype='bfloat16',
        ),
      ),
      head=dict(name='classifier', args=dict(classes=50, pooling='mean')),
    ),
  )
  # The encoder is pre-trained; fc_norm and head are initialised.
  config.init = dict(
    path=None, include='^(params/)?encoder/|pos_embed', exclude='pos_embed', statistics='any'
  )
  config.objective = dict(name='cross_entropy')

  config.optim = dict(
    name='adamw',
    lr=1e-3 * 64 / 256,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=5e-4,
    no_decay=r'(^|/)(bias|scale|cls_token|pos_embed)$',
    layer_decay=dict(rate=0.75),
    schedule=dict(name='cosine', warmup_epochs=4, final_lr=1e-6),
  )
  config.evals = dict(
    valid=dict(name='validation', every=500, data=dict(where=dict(fold=('1',)), crop='start')),
  )
  config.log_every = 50
  config.checkpoint = dict(every=500, keep=2, best='valid/accuracy', best_mode='max')

  if arg == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', split='train', batch_size=8, num_threads=2, seconds=1.0)
    config.data.update(dict(where=dict(kind='digit')))
    config.init = None
    config.model.args.encoder.args.update(frames=112, width=32, depth=2, heads=2, time_mask=16)
    config.model.args.head.args.classes = 10
    config.optim.schedule = dict(name='cosine', warmup_steps=1, final_lr=1e-6)
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'))
    config.log_every = 1
    config.checkpoint.every = 2
  return config
