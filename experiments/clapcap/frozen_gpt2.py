"""Captions of audio: a mapper between the audio tower of Microsoft's CLAP and GPT-2, both frozen.

python -m launch.train --config=experiments/clapcap/frozen_gpt2.py --workdir=DIR \
  --config.data.source=clotho --config.data.root=DATA \
  --config.data.fields.text.args.tokenizer=TOKENIZER --config.init.path=clapcap_weights_2023.pth
python -m launch.caption --model=DIR --input=street.wav

The source is any with a column `caption`, as for experiments/clap/laion_tiny.py; TOKENIZER is the
folder of gpt2. The published weights are where it starts from, for a mapper of other data; without
config.init everything starts from nothing, and the towers stay as they are: unfreeze them then,
with `:whole`. Sizes, prefixes and what is frozen are those of microsoft/CLAP, commit e8a6467
(msclap/configs/config_clapcap.yml), which says nothing of the optimiser; that is ClipCap's (AdamW,
2e-5, 5,000 steps of warm-up, arXiv 2111.09734) with Microsoft's batches of 128. No score is
published for these weights, and none was measured here. `:debug` runs on the built-in corpus.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'whole', 'debug'):
    raise ValueError(f"frozen_gpt2.py has no variant {arg!r}: give nothing, 'whole' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 10

  config.data = dict(
    source='folder',
    split='train',
    fields=dict(
      text=dict(
        name='captions',
        args=dict(column='caption', max_tokens=67, tokenizer='gpt2', suffix=' <|endoftext|>'),
      )
    ),
    sample_rate=44_100,
    seconds=7.0,
    crop='random',
    batch_size=128,
    num_threads=16,
  )
  frozen = arg == ''
  config.model = dict(
    name='clapcap',
    args=dict(
      size='clapcap_2023',
      freeze_audio_encoder_weights=frozen,
      freeze_gpt_weights=frozen,
    ),
  )
  config.objective = dict(name='caption_tokens')
  config.optim = dict(
    name='adamw',
    lr=2e-5,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    schedule=dict(name='polynomial', warmup_steps=5000),
  )
  config.evals = dict(valid=dict(name='validation', every=1000, data=dict(split='valid')))
  config.log_every = 50
  config.checkpoint = dict(every=1000, keep=2, best='valid/loss', best_mode='min')

  if arg == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', batch_size=8, num_threads=2, seconds=0.5)
    config.data.update(dict(where=dict(kind='digit')))
    config.data.fields.text.args.update(
      column='label', max_tokens=8, tokenizer='bytes', suffix='\n'
    )
    config.model.args.update(size='tiny', seconds=0.5, text_depth=1, vocabulary=256, positions=32)
    config.model.args.update(depths=(1, 1, 1, 1), audio_width=4, audio_heads=(1, 2, 2, 4), dim=16)
    config.model.args.update(num_layers=1, prefix_length=4, prefix_length_clip=2)
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'))
    config.log_every = 1
    config.checkpoint.every = 2
  return config
