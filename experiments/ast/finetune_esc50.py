"""AST-B fine-tuned on ESC-50 from AudioSet, one fold held out (arXiv 2104.01778).

python -m launch.train --config=experiments/ast/finetune_esc50.py --workdir=DIR \
  --config.data.root=/data/ESC-50 --config.init.path=AST_OF_AUDIOSET

Other folds: --config.data.where.fold and --config.evals.valid.data.where.fold. The log of the
authors' repository has 95.75 % over the five folds (95.0, 97.75, 94.75, 97.0, 94.25). Not
reproduced here. Numbers: egs/esc50/run_esc.sh and src/traintest.py of YuanGongND/ast, commit
31088be. Positions of 1024 frames are cut to those of 512 when the weights are taken.
`:debug` runs on the built-in corpus.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 85757234}


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"finetune_esc50.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 25

  config.data = dict(
    source='esc50',
    split=None,
    where=dict(fold=('2', '3', '4', '5')),
    fields=dict(label='label'),
    sample_rate=16_000,
    seconds=5.0,
    crop='start',
    batch_size=48,
    num_threads=16,
  )

  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='ast',
        args=dict(
          size='base',
          frontend=dict(name='kaldi_fbank', mean=-6.6268077, std=5.358466),
          frames=512,
          freq_mask=24,
          time_mask=96,
          dtype='bfloat16',
        ),
      ),
      head=dict(
        name='classifier',
        args=dict(classes=50, pooling='cls', norm=True, norm_epsilon=1e-5, init_std=0.02),
      ),
    ),
  )
  # The head is new.
  config.init = dict(path=None, include='^(params/)?encoder/', exclude=None, statistics='any')
  config.objective = dict(name='cross_entropy')

  # L2 decay of all parameters, as torch's Adam has it.
  config.optim = dict(
    name='adam',
    lr=1e-5,
    b1=0.95,
    b2=0.999,
    eps=1e-8,
    weight_decay=5e-7,
    no_decay='^$',
    schedule=dict(name='step', first_drop=5, drop_every=1, drop=0.85),
  )
  config.evals = dict(
    valid=dict(name='validation', every=34, data=dict(where=dict(fold=('1',)), crop='start'))
  )
  config.log_every = 50
  config.checkpoint = dict(every=34, keep=2, best='valid/accuracy', best_mode='max')

  if arg == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', split='train', batch_size=8, num_threads=2, seconds=1.0)
    config.data.update(dict(where=dict(kind='digit')))
    config.init = None
    config.model.args.encoder.args.update(frames=112, width=32, depth=2, heads=2, time_mask=16)
    config.model.args.head.args.classes = 10
    config.optim.schedule = dict(name='step', warmup_steps=1, first_drop=2, drop_every=1)
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'))
    config.log_every = 1
    config.checkpoint.every = 2
  return config
