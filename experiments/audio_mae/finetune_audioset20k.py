"""AudioMAE ViT-B fine-tuned on the balanced AudioSet-20K: the published recipe (arXiv 2207.06405).

python -m launch.train --config=experiments/audio_mae/finetune_audioset20k.py --workdir=DIR \
  --config.data.root=/data/AudioSet --config.init.path=PRETRAINED

A few hours on four GPUs of 2022. The authors report 37.0 mAP (README log of
facebookresearch/AudioMAE, commit bd60e29); not reproduced here. Numbers: ft_as.sh and
main_finetune_as.py of that commit; the learning rate is blr x batch / 256 = 1e-3 / 8, SpecAug
48/192 is hard-coded there. `:debug` runs on the built-in corpus.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 85_659_407}


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"finetune_audioset20k.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 60

  config.data = dict(
    source='audioset',
    split='balanced',
    fields=dict(label='label'),
    sample_rate=16_000,
    seconds=10.0,
    crop='start',
    batch_size=32,
    num_threads=16,
  )
  # Gain, and waveform mixup for half of the clips; both from Beta(10, 10).
  config.augment = (dict(name='gain'), dict(name='mixup', args=dict(rate=0.5, num_classes=527)))

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
      head=dict(name='classifier', args=dict(classes=527, pooling='mean')),
    ),
  )
  # The encoder is pre-trained; fc_norm and head are initialised.
  config.init = dict(path=None, include='^(params/)?encoder/|pos_embed', exclude=None)
  config.objective = dict(name='binary_cross_entropy')

  config.optim = dict(
    name='adamw',
    lr=1e-3 * 32 / 256,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=5e-4,
    no_decay=r'(^|/)(bias|scale|cls_token|pos_embed)$',
    layer_decay=dict(rate=0.75),
    schedule=dict(name='cosine', warmup_epochs=4, final_lr=1e-6),
  )
  config.evals = dict(
    valid=dict(name='validation', every=2000, data=dict(split='eval', crop='start')),
  )
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2, best='valid/mAP', best_mode='max')

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
