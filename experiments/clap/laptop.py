"""CLAP on captions made from labels of Speech Commands, ESC-10 and FSDD: ten minutes of one core.

export OIDO_DATA=/data
python -m launch.train --config=experiments/clap/laptop.py --workdir=runs/clap
python -m launch.embed --model=runs/clap --text='the sound of a rooster' --out=words.npz

$OIDO_DATA holds the folders speech_commands_v2_test, esc10 and fsdd, each with a labels.csv (path,
label, split or fold). A caption is one of three sentences around the label; the bytes of it are its
tokens. Held out are the last fold of Speech Commands and of ESC-10, and the test clips of FSDD:
zero-shot 47.5, 58.8 and 58.3 % (chance 9 to 10 %); all results are in experiments/notes/clap.md.
`:debug` runs on the built-in corpus.

The audio tower is the Cnn14 of Microsoft's CLAP (arXiv 2206.04769) with four blocks of at most 128
channels on 64 mel bins of 20 ms, the text tower a BERT of two layers; clips of one second, shorter
ones repeated.
"""

import os

import ml_collections

TEMPLATES = ('This is a sound of {}.', 'the sound of {}', '{}')


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"laptop.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1600

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    # Windows of one second of ESC-10, so that its five seconds weigh as much as other clips.
    source=[
      dict(
        name=f'{root}/speech_commands_v2_test',
        args=dict(where=dict(kind='keyword', fold=['0', '1', '2', '3'])),
      ),
      dict(name=f'{root}/esc10', args=dict(where=dict(fold=['1', '2', '3', '4']), cut_seconds=1.0)),
      dict(name=f'{root}/fsdd', args=dict(split='train')),
    ],
    split=None,
    fields=dict(
      text=dict(
        name='captions',
        args=dict(column='label', template=TEMPLATES, max_tokens=40, tokenizer='bytes'),
      )
    ),
    sample_rate=16_000,
    seconds=1.0,
    crop='random',
    batch_size=64,
  )
  config.model = dict(
    name='clap',
    args=dict(
      size='microsoft_2022',
      frontend=dict(name='log_mel', sample_rate=16_000, num_mel_bins=64, n_fft=512, hop_length=320),
      channels=(16, 32, 64, 128),
      audio_width=256,
      text_width=64,
      text_depth=2,
      text_heads=4,
      text_hidden=128,
      vocabulary=256,
      positions=64,
      max_tokens=40,
      dim=128,
      projection='mlp',
      seconds=1.0,
      dropout=0.0,
    ),
  )
  config.objective = dict(name='audio_text_contrastive')
  config.optim = dict(
    name='adamw', lr=1e-3, weight_decay=0.01, schedule=dict(name='cosine', warmup_steps=50)
  )
  config.evals = dict()
  config.log_every = 20
  config.checkpoint = dict(every=400, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    with config.ignore_type():  # a name instead of a list
      config.data.source = 'builtin'
    config.data.where = dict(kind='digit')
    config.data.batch_size = 8
    config.model.args.update(channels=(4, 8), audio_width=8, text_width=16, text_depth=1, dim=8)
    config.optim.schedule.warmup_steps = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config
