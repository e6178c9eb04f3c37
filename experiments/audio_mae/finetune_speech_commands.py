"""AudioMAE ViT-B fine-tuned on Speech Commands v2, 35 words (arXiv 2207.06405).

python -m launch.train --config=experiments/audio_mae/finetune_speech_commands.py --workdir=DIR \
  --config.data.root=/data/speech_commands_v0.02 --config.init.path=PRETRAINED

The paper reports 98.3 %. Its script is not released: the statistics are from main_finetune_as.py,
SpecAug is 48/48 for 1 s inputs, the rest is the AudioSet-20K recipe with batch 256. Not reproduced
here. `:debug` runs on the built-in corpus.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(
      f"finetune_speech_commands.py has no variant {arg!r}: give nothing, or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 60

  config.data = dict(
    source='speech_commands',
    split='train',
    fields=dict(label='label'),
    sample_rate=16_000,
    seconds=1.0,
    crop='start',
    batch_size=256,
    num_threads=16,
  )
  # Gain, and mixup for half of the clips; both from Beta(10, 10).
  config.augment = (dict(name='gain'), dict(name='mixup', args=dict(rate=0.5, num_classes=35)))

  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='audio_mae',
        args=dict(
          size='base',
          frontend=dict(name='kaldi_fbank', mean=-6.845978, std=5.5654526),
          frames=128,
          mask_t_prob=0.2,
          mask_f_prob=0.2,
          drop_path=0.1,
          freq_mask=48,
          time_mask=48,
          dtype='bfloat16',
        ),
      ),
      head=dict(name='classifier', args=dict(classes=35, pooling='mean')),
    ),
  )
  # The encoder is pre-trained; fc_norm and head are initialised.
  config.init = dict(
    path=None, include='^(params/)?encoder/|pos_embed', exclude='pos_embed', statistics='any'
  )
  config.objective = dict(name='cross_entropy')

  config.optim = dict(
    name='adamw',
    lr=1e-3 * 256 / 256,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=5e-4,
    no_decay=r'(^|/)(bias|scale|cls_token|pos_embed)$',
    layer_decay=dict(rate=0.75),
    schedule=dict(name='cosine', warmup_epochs=4, final_lr=1e-6),
  )
  config.evals = dict(
    valid=dict(name='validation', every=1000, data=dict(split='valid', crop='start')),
  )
  config.log_every = 50
  config.checkpoint = dict(every=1000, keep=2, best='valid/accuracy', best_mode='max')

  if arg == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', split='train', batch_size=8, num_threads=2, seconds=1.0)
    config.data.update(dict(where=dict(kind='digit')))
    config.init = None
    config.augment[1]['args']['num_classes'] = 10
    config.model.args.encoder.args.update(frames=112, width=32, depth=2, heads=2, time_mask=16)
    config.model.args.head.args.classes = 10
    config.optim.schedule = dict(name='cosine', warmup_steps=1, final_lr=1e-6)
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data.update(split='valid')
    config.log_every = 1
    config.checkpoint.every = 2
  return config
