"""Whisper fine-tuned on 79 minutes of LibriSpeech, whole or with low-rank adapters.

export OIDO_DATA=/data
python -m launch.train --config=experiments/whisper/finetune_librispeech_subset.py \
  --workdir=runs/whisper --config.init.path=hf://openai/whisper-tiny.en \
  --config.data.fields.tokens.args.tokenizer=whisper-tiny.en/
python -m launch.train --config=experiments/whisper/finetune_librispeech_subset.py:lora \
  --workdir=runs/whisper_lora --config.init.path=… --config.data.fields.tokens.args.tokenizer=…

For transcripts of one's own: --config.data.source=my/folder (a table with a column `transcript`),
--config.model.args.size=small, a language in `fields.tokens.args.language`, times of segments with
`fields.tokens.args.timestamps=True`. $OIDO_DATA holds the folder librispeech_test_clean_sub.
Results are in experiments/notes/whisper.md. `:debug` is a small model with a vocabulary of single
bytes on the built-in corpus.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'lora', 'debug'):
    raise ValueError(
      f"finetune_librispeech_subset.py has no variant {arg!r}: give nothing, 'lora' or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 300

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/librispeech_test_clean_sub',
    split='train',
    fields=dict(
      tokens=dict(name='whisper', args=dict(tokenizer='', column='transcript', language='en'))
    ),
    sample_rate=16_000,
    seconds=30.0,
    batch_size=8,
  )
  config.model = dict(name='whisper', args=dict(size='tiny.en', freq_mask=8, time_mask=100))
  config.init = dict(path='')
  config.objective = dict(name='next_tokens', args={})
  config.optim = dict(
    name='adamw',
    lr=1e-5,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.1,
    clip_norm=1.0,
    schedule=dict(name='polynomial', warmup_fraction=0.1),
  )
  config.evals = dict(
    valid=dict(name='transcription', every=100, data=dict(split='dev', batch_size=8)),
    test=dict(name='transcription', data=dict(split='test', batch_size=8)),
  )
  config.log_every = 10
  config.checkpoint = dict(every=100, keep=2, best='valid/wer')

  if arg == 'lora':
    config.adapters = dict(rank=8, alpha=16.0, targets=r'attn/(query|value)/kernel$')
    config.optim.lr = 1e-3
  if arg == 'debug':
    config.total_steps = 4
    config.data.update(source='builtin', where=dict(kind='word'), seconds=2.0, batch_size=4)
    config.data.fields.tokens.args.tokenizer = 'bytes'
    config.model.args = dict(size='nano')
    config.init = None
    config.evals = dict(
      valid=dict(name='transcription', every=4, batches=1, data=dict(split='valid', batch_size=4)),
    )
    config.log_every = 1
    config.checkpoint = dict(every=2, keep=2)
  return config
