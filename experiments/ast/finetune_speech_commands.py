"""AST-B trained on Speech Commands v2, 35 words, from DeiT-B: the published recipe (arXiv
2104.01778).

python -m launch.train --config=experiments/ast/finetune_speech_commands.py --workdir=DIR \
  --config.data.root=/data/speech_commands_v0.02 --config.init.path=DEIT

DEIT: the weights of deit_base_distilled_patch16_384 (facebookresearch/deit or timm). The log of
the authors' repository has 98.128 %. Not reproduced here. Numbers: egs/speechcommands/run_sc.sh
and src/traintest.py of YuanGongND/ast, commit 31088be.
`:debug` runs on the built-in corpus.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 85395491}


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(
      f"finetune_speech_commands.py has no variant {arg!r}: give nothing, or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 30

  config.data = dict(
    source='speech_commands',
    split='train',
    fields=dict(label='label'),
    sample_rate=16_000,
    seconds=1.0,
    crop='start',
    batch_size=128,
    num_threads=16,
  )
  # Waveform mixup for 0.6 of the clips, weights from Beta(10, 10).
  config.augment = (dict(name='mixup', args=dict(rate=0.6, num_classes=35)),)

  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='ast',
        args=dict(
          size='base',
          frontend=dict(name='kaldi_fbank', mean=-6.845978, std=5.5654526),
          frames=128,
          freq_mask=48,
          time_mask=48,
          noise=True,
          dtype='bfloat16',
        ),
      ),
      head=dict(
        name='classifier',
        args=dict(classes=35, pooling='cls', norm=True, norm_epsilon=1e-5, init_std=0.02),
      ),
    ),
  )
  # Positions and colours of the image model are adapted when it is read; the head is new.
  config.init = dict(path=None, include='^(params/)?encoder/', exclude=None, statistics='any')
  config.objective = dict(name='binary_cross_entropy')

  # L2 decay of all parameters, as torch's Adam has it.
  config.optim = dict(
    name='adam',
    lr=2.5e-4,
    b1=0.95,
    b2=0.999,
    eps=1e-8,
    weight_decay=5e-7,
    no_decay='^$',
    schedule=dict(name='step', first_drop=5, drop_every=1, drop=0.85),
  )
  config.evals = dict(
    valid=dict(name='validation', every=663, data=dict(split='valid', crop='start'))
  )
  config.log_every = 50
  config.checkpoint = dict(every=663, keep=2, best='valid/accuracy', best_mode='max')

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
