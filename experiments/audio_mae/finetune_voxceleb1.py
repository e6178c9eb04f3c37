"""AudioMAE ViT-B fine-tuned for speaker identification on VoxCeleb1, 1251 speakers (arXiv
2207.06405).

python -m launch.train --config=experiments/audio_mae/finetune_voxceleb1.py --workdir=DIR \
  --config.data.root=/data/VoxCeleb1 --config.init.path=PRETRAINED

The paper reports 94.8 % (window decoder in pre-training) and 94.1 % (global decoder). Its script is
not released: the recipe is AudioSet-20K's with batch 64 and without mixup, on random 10 s crops,
with AudioSet statistics. Not reproduced here. `:debug` runs on the built-in corpus.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"finetune_voxceleb1.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 60

  config.data = dict(
    source='voxceleb1',
    split='train',
    fields=dict(label='label'),
    sample_rate=16_000,
    seconds=10.0,
    crop='random',
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
          frontend=dict(name='kaldi_fbank', mean=-4.2677393, std=4.5689974),
          frames=1024,
          mask_t_prob=0.2,
          mask_f_prob=0.2,
          drop_path=0.1,
          freq_mask=48,
          time_mask=192,
          dtype='bfloat16',
        ),
      ),
      head=dict(name='classifier', args=dict(classes=1251, pooling='mean')),
    ),
  )
  # The encoder is pre-trained; fc_norm and head are initialised.
  config.init = dict(path=None, include='^(params/)?encoder/|pos_embed', exclude=None)
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
    valid=dict(name='validation', every=5000, data=dict(split='valid', crop='start')),
  )
  config.log_every = 50
  config.checkpoint = dict(every=5000, keep=2, best='valid/accuracy', best_mode='max')

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
    config.evals.valid.data.update(split='valid')
    config.log_every = 1
    config.checkpoint.every = 2
  return config
