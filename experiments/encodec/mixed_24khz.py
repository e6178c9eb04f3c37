"""EnCodec at 24 kHz, mono, on speech, sounds and music: the published recipe (arXiv 2210.13438).

export OIDO_DATA=/data
python -m launch.train --config=experiments/encodec/mixed_24khz.py --workdir=DIR
python -m launch.codec --model=DIR --bandwidth=6 --input=/path/to/audio --out=codes

$OIDO_DATA holds the folders dns_clean, common_voice, audioset, fsd50k and jamendo, of audio or of
shards (launch.prepare_data). `:debug` is a few steps of a small model on the built-in corpus.

Hardware of the authors: 8 A100, as remembered. Nothing has been trained here: the data is not
included.

Numbers: the paper. Adam of betas 0.5 and 0.9 at 3e-4, 64 clips of a second, 300 epochs of 2000
updates; the discriminator updated at two steps of three; λ of 0.1, 1, 3 and 3, balanced, and 1 for
the commitment; mel windows of 2^5 to 2^11 samples; a bandwidth drawn for every batch. Leaky ReLUs
of slope 0.2 and 32 channels: encodec's msstftd.py. As remembered, not checked against the paper:
windows of the discriminator of 2048 to 128 samples; a clip by itself in 64 % of draws, with another
in 24 % and with two others in 12 %, at -10 to 6 dB; eight clips on a GPU, which its balance sees.
Not as there: every clip has the same chance, where the paper draws half of the single ones from
Jamendo; mixtures may be of music alone; files are not normalised; nothing reverberates.
"""

import os

import ml_collections

# 14,851,810 of the codec, which are the released ones, and those of the discriminator.
PARAMETERS = {'': 14_851_810 + 472_330}
FOLDERS = ('dns_clean', 'common_voice', 'audioset', 'fsd50k', 'jamendo')


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"mixed_24khz.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 300 * 2000

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=[dict(name=f'{root}/{name}', args=dict()) for name in FOLDERS],
    split=None,
    sample_rate=24_000,
    seconds=1.0,
    crop='random',
    batch_size=64,
    num_threads=16,
  )
  config.augment = [dict(name='mix_sources', args=dict(two=0.24, three=0.12, low=-10.0, high=6.0))]
  config.model = dict(
    name='encodec',
    args=dict(
      size='24khz',
      discriminator=dict(n_ffts=(2048, 1024, 512, 256, 128), filters=32, slope=0.2),
    ),
  )
  config.objective = dict(
    name='codec_adversarial',
    args=dict(
      sample_rate=24_000,
      l1=0.1,
      mel=1.0,
      adversarial=3.0,
      features=3.0,
      commitment=1.0,
      scales=(5, 12),
      bins=64,
      decay=0.999,
      worker_clips=8,
    ),
  )
  config.optim = dict(
    name='adam',
    lr=3e-4,
    b1=0.5,
    b2=0.9,
    groups=dict(critic=dict(match='^critic/', probability=2 / 3)),
    schedule=dict(name='constant'),
  )
  config.watch = dict(
    min_code_usage=dict(min=0.1, after=5000),
    discriminator_loss=dict(
      min=0.05, after=2000, patience=10, says='the discriminator always wins'
    ),
  )
  config.evals = dict()
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    with config.ignore_type():  # a name instead of a list
      config.data.source = 'builtin'
    config.data.update(batch_size=4, seconds=0.3)
    config.model.args.update(n_filters=4, dimension=8, quantizers=2, codebook_size=16, lstm=1)
    config.model.args.bandwidths = (0.3, 0.6)
    config.model.args.discriminator.update(n_ffts=(512, 256), filters=4)
    config.objective.args.update(scales=(6, 9), bins=16, worker_clips=2)
    config.log_every = 1
    config.checkpoint.every = 2
  return config
