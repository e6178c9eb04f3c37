"""AST-B trained on the balanced AudioSet-20K from DeiT-B: the published recipe (arXiv 2104.01778).

python -m launch.train --config=experiments/ast/finetune_audioset20k.py --workdir=DIR \
  --config.data.root=/data/AudioSet --config.init.path=DEIT

DEIT: the weights of deit_base_distilled_patch16_384 (facebookresearch/deit or timm). The log of
the authors' repository has 35.0 mAP with the weights of epochs 6 to 25 averaged:
`weights.average('DIR', first=6 * STEPS_PER_EPOCH)`, which needs every epoch's checkpoint. Not
reproduced here. Numbers: egs/audioset/run.sh and src/traintest.py of YuanGongND/ast, commit
31088be. There the warm-up moves every 50 steps; here at each.
`:debug` runs on the built-in corpus.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 86594063}


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"finetune_audioset20k.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 25

  config.data = dict(
    source='audioset',
    split='balanced',
    fields=dict(label='label'),
    sample_rate=16_000,
    seconds=10.0,
    crop='start',
    batch_size=12,
    num_threads=16,
  )
  # Waveform mixup for half of the clips, weights from Beta(10, 10).
  config.augment = (dict(name='mixup', args=dict(rate=0.5, num_classes=527)),)

  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='ast',
        args=dict(
          size='base',
          frontend=dict(name='kaldi_fbank', mean=-4.2677393, std=4.5689974),
          frames=1024,
          freq_mask=48,
          time_mask=192,
          dtype='bfloat16',
        ),
      ),
      head=dict(
        name='classifier',
        args=dict(classes=527, pooling='cls', norm=True, norm_epsilon=1e-5, init_std=0.02),
      ),
    ),
  )
  # Positions and colours of the image model are adapted when it is read; the head is new.
  config.init = dict(path=None, include='^(params/)?encoder/', exclude=None, statistics='any')
  config.objective = dict(name='binary_cross_entropy')

  # L2 decay of all parameters, as torch's Adam has it.
  config.optim = dict(
    name='adam',
    lr=5e-5,
    b1=0.95,
    b2=0.999,
    eps=1e-8,
    weight_decay=5e-7,
    no_decay='^$',
    schedule=dict(name='step', warmup_steps=1000, first_drop=10, drop_every=5, drop=0.5),
  )
  config.evals = dict(
    valid=dict(name='validation', every=1839, data=dict(split='eval', crop='start'))
  )
  config.log_every = 50
  config.checkpoint = dict(every=1839, keep=25, best='valid/mAP', best_mode='max')

  if arg == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', split='train', batch_size=8, num_threads=2, seconds=1.0)
    config.data.update(dict(where=dict(kind='digit')))
    config.init = None
    config.augment[0]['args']['num_classes'] = 10
    config.model.args.encoder.args.update(frames=112, width=32, depth=2, heads=2, time_mask=16)
    config.model.args.head.args.classes = 10
    config.optim.schedule = dict(name='step', warmup_steps=1, first_drop=2, drop_every=1)
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'))
    config.log_every = 1
    config.checkpoint.every = 2
  return config
