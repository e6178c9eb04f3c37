"""Qwen-Audio in its two published stages (arXiv 2311.07919), on JSON lines with `messages`.

python -m launch.train --config=experiments/qwen_audio/stages.py --workdir=runs/chat \
  --config.data.source='{"name": "messages", "args": {"path": "asked/", "audio": "clips/"}}' \
  --config.init.path=/path/to/Qwen-Audio \
  --config.data.fields.tokens.args.tokenizer=/path/to/Qwen-Audio

The default is the second stage, supervised fine-tuning to Qwen-Audio-Chat: the encoder stays as it
is, the language model learns. `:pretrain` is the first: the encoder learns under SpecAugment, the
language model stays as it is. In both the projection and the tags of a clip learn. What is frozen
is published; rates, batches and steps are not (those here are ours), and no score was measured. The
tasks of the first stage are asked by tags, which messages may hold as text. `:debug` is a small
model of bytes on the built-in corpus.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'pretrain', 'debug'):
    raise ValueError(f"stages.py has no variant {arg!r}: give nothing, 'pretrain' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 1

  config.data = dict(
    source='asked',
    split='train',
    fields=dict(
      tokens=dict(name='messages', args=dict(prompt='qwen_audio', tokenizer='', max_tokens=2048))
    ),
    sample_rate=16_000,
    seconds=30.0,
    batch_size=128,
    num_threads=16,
  )
  config.model = dict(
    name='qwen_audio',
    args=dict(size='7b', freeze=('audio_tower',), dtype='bfloat16', scan_layers=True, remat=True),
  )
  config.init = dict(path='')
  config.objective = dict(name='answer_tokens')
  config.optim = dict(
    name='adamw',
    lr=1e-5,
    b1=0.9,
    b2=0.98,
    weight_decay=0.1,
    clip_norm=1.0,
    schedule=dict(name='cosine', warmup_fraction=0.03),
  )
  config.evals = dict(valid=dict(name='validation', every=500, data=dict(split='valid')))
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2, best='valid/loss', best_mode='min')

  if arg == 'pretrain':
    config.model.args.update(freeze=('language_model',), freq_mask=27, time_mask=100)
    config.optim.lr = 5e-5
  if arg == 'debug':
    config.epochs = None
    config.total_steps = 4
    config.data.update(source='builtin', where=dict(kind='digit'), seconds=2.0, batch_size=4)
    config.data.num_threads = 2
    config.data.fields.tokens.args = dict(prompt='qwen_audio', ask='What is said?', answer='label')
    config.model.args = dict(
      size='tiny', n_audio_ctx=100, audio_depth=1, text_depth=1, freeze=('audio_tower',)
    )
    config.init = None
    config.evals = dict()
    config.log_every = 1
    config.checkpoint = dict(every=2, keep=2)
  return config
