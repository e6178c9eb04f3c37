"""LAION-CLAP, HTSAT-tiny and RoBERTa, from captioned audio (arXiv 2211.06687).

python -m launch.train --config=experiments/clap/laion_tiny.py --workdir=DIR \
  --config.data.source=audiocaps --config.data.root=DATA \
  --config.data.fields.text.args.tokenizer=TOKENIZER

The source is any with a column `caption`: audiocaps, clotho, wavcaps, musiccaps as published, a
folder with labels.csv, shards; or labels with a template (`fields.text.args`). In a list of sources
each names its split: --config.data.split=None
--config.data.source='[{"name": "clotho", "args": {"split": "development"}}, "wavcaps"]' and
--config.evals.valid.data.source=clotho. TOKENIZER is the folder of roberta-base. The authors train
45 epochs on 630,000 clips with 24 GPUs of 96 clips each, the audio tower from an HTSAT of AudioSet,
the text tower from RoBERTa; both start from nothing here unless config.init names weights. Their
ESC-50 as a retrieval of clips gives R@1 0.928 and mAP@10 0.956 without fusion, 0.905 and 0.941 with
(README). Not reproduced here.
Numbers: experiment_scripts/htsat-roberta-large-dataset-fusion.sh and training/params.py of
LAION-AI/CLAP, commit 1fd4c37; its 3,200 steps of warm-up are 11.7 epochs of 273 steps. `:fusion` is
the model for clips of any length; `:debug` runs on the built-in corpus.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'fusion', 'debug'):
    raise ValueError(f"laion_tiny.py has no variant {arg!r}: give nothing, 'fusion' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 45

  config.data = dict(
    source='folder',
    split='train',
    fields=dict(
      text=dict(
        name='captions',
        args=dict(column='caption', max_tokens=77, tokenizer='roberta-base', suffix=''),
      )
    ),
    sample_rate=48_000,
    seconds=30.0 if arg == 'fusion' else 10.0,
    batch_size=2304,
    num_threads=16,
  )
  config.model = dict(
    name='clap',
    args=dict(size='laion', fusion=arg == 'fusion', transforms=False),
  )
  config.objective = dict(name='audio_text_contrastive')

  config.optim = dict(
    name='adam',
    lr=1e-4,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    schedule=dict(name='cosine', warmup_epochs=11.7, final_lr=0.0),
  )
  config.evals = dict(valid=dict(name='validation', every=1000, data=dict(split='valid')))
  config.log_every = 50
  config.checkpoint = dict(every=1000, keep=2, best='valid/loss', best_mode='min')

  if arg == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', batch_size=8, num_threads=2, seconds=0.5)
    config.data.update(dict(where=dict(kind='digit')))
    config.data.fields.text.args.update(column='label', max_tokens=8, tokenizer='bytes')
    config.model.args.update(size='tiny', seconds=0.5, text_depth=1, vocabulary=256, positions=16)
    config.model.args.update(depths=(2, 1, 1, 1), audio_width=8, audio_heads=(1, 2, 2, 4))
    config.optim.schedule = dict(name='cosine', warmup_steps=1, final_lr=0.0)
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'))
    config.log_every = 1
    config.checkpoint.every = 2
  return config
