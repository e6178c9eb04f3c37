"""Text to speech at a published size: phones to the codes of EnCodec at 24 kHz and 6 kbit/s.

export OIDO_DATA=/data
pip install -e '.[tts]'   # phones; without it --config.model.args.text.alphabet=english
python -m launch.codec --model=encodec_24khz-d7cc33bc.th --bandwidth=6 --format=units \
  --input=libritts --data_root=$OIDO_DATA --out=runs/codes
python -m launch.embed --model=runs/superb/asv/model --voice --input=libritts \
  --data_root=$OIDO_DATA --out=runs/voices.npz
python -m launch.train --config=experiments/code_lm/speech_24khz.py --workdir=runs/libritts \
  --config.data.fields.units=runs/codes --config.data.fields.voice.args.path=runs/voices.npz
python -m launch.speak --model=runs/libritts --voice=ref.wav --input=lines.txt --out=heard \
  --parts=codec=encodec_24khz-d7cc33bc.th,voice=runs/superb/asv/model --guidance=2

LibriTTS (585 h, 2456 speakers) by default: the voice is the vector of a recording, in training that
of another one of the same speaker, so that any recording is enough later. `:vctk` (44 h, 110
speakers) likewise; `:ljspeech` (24 h) has one speaker and no vectors. Clips are at most 15 s.

Sizes and schedule of the transformer are those of VALL-E's autoregressive model (arXiv 2301.02111,
§5.1: 12 layers, 16 heads, width 1024, 4096 hidden, dropout 0.1; AdamW to 5e-4 in 32,000 steps,
800,000 steps; there LibriLight on 16 V100), and so is the codec with 8 codebooks. What differs: all
codebooks by one model with a delay (MusicGen, arXiv 2306.05284), cross-attention to phones whose
alignment is learned (arXiv 2406.17957, with weights of ours), a vector in the place of a prompt,
batches of 240 s. Not run: no score to expect. `:debug` is a few steps of a narrow model on the
built-in corpus.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'vctk', 'ljspeech', 'debug'):
    raise ValueError(
      f"speech_24khz.py has no variant {arg!r}: give nothing, 'vctk', 'ljspeech' or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 100_000 if arg in ('vctk', 'ljspeech') else 800_000

  config.data = dict(
    source='libritts',
    root=os.environ.get('OIDO_DATA', 'data'),
    split='train',
    fields=dict(
      units=None,
      text=dict(name='spoken'),
      voice=dict(name='vectors', args=dict(path='runs/voices.npz', of='speaker')),
    ),
    sample_rate=24_000,
    seconds=15.0,
    buckets=8,
    batch_seconds=240.0,
    batch_size=128,
  )
  config.model = dict(
    name='code_lm',
    args=dict(
      frontend=dict(sample_rate=24_000),
      num_clusters=(1024,) * 8,
      label_rate=75.0,
      # 15 s, and more than the longest text should need.
      max_steps=2048,
      vectors=dict(voice=512),
      text=dict(alphabet='ipa:en-us', depth=6, max_tokens=512),
      width=1024,
      depth=12,
      heads=16,
      hidden=4096,
      dtype='bfloat16',
    ),
  )
  config.objective = dict(name='next_codes', args=dict(alignment=0.1))
  config.optim = dict(
    name='adamw',
    lr=5e-4,
    b1=0.9,
    b2=0.95,
    weight_decay=0.01,
    clip_norm=1.0,
    schedule=dict(name='polynomial', warmup_steps=32_000),
  )
  config.evals = dict(
    valid=dict(name='validation', every=5000, batches=50, data=dict(split='valid', batch_size=16))
  )
  config.watch = {}
  config.log_every = 100
  config.checkpoint = dict(every=5000, keep=3, best='valid/cross_entropy')

  if arg in ('vctk', 'ljspeech'):
    config.data.source = arg
    config.optim.schedule.warmup_steps = 4000
  if arg == 'ljspeech':
    config.data.fields.voice = None
    config.model.args.vectors = dict()
  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', where=dict(kind='digit'), batch_size=8, seconds=1.0)
    config.data.update(buckets=None, batch_seconds=None, sample_rate=16_000)
    config.data.fields.voice = None
    config.data.fields.text.args = dict(column='label')
    config.model.args.vectors = dict()
    with config.ignore_type():  # one codebook instead of several
      config.model.args.num_clusters = 50
    config.model.args.update(
      width=32, depth=2, heads=2, hidden=64, label_rate=50.0,
      frontend=dict(sample_rate=16_000), text=dict(alphabet='english', depth=1),
    )  # fmt: skip
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'), batch_size=4)
    config.log_every = 1
    config.checkpoint.every = 2
  return config
