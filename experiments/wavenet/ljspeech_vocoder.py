"""WaveNet as a vocoder on LJSpeech: the recipes of r9y9/wavenet_vocoder (a35fff7).

python -m launch.train --config=experiments/wavenet/ljspeech_vocoder.py --workdir=DIR \
  --config.data.source=/data/LJSpeech-1.1/wavs
python -m launch.generate --model=DIR --teacher --source=speech.wav --fold=1 --out=heard

`:mol` (default) gives mixtures of ten logistics over 16 bits, `:mulaw` a softmax over 256 codes.
`:debug` is a few steps of a narrow network on the built-in corpus.

Numbers: egs/mol/conf/mol_wavenet.json and egs/mulaw256/conf/mulaw256_wavenet.json: eight crops of
40 frames (10,240 samples), Adam at 1e-3, halved every 200,000 steps, an average of the weights with
a decay of 0.9999 (the teacher; generate with it), 1,000,000 and 500,000 steps. Audio has a gain of
0.55 and a pre-emphasis of 0.85. There a high-pass at 70 Hz and a cut of silence come first; prepare
such files where that matters. Frames are normalised by the statistics of the training frames there:
set local_mean and local_scale to those of `research.audio.log_mel.statistics`. The figures here
are means over bands of 61 clips of LibriSpeech (-2.49, 0.83), not of LJSpeech. Samples of the
authors are on their page; no score was published.
"""

import ml_collections

STEPS = dict(mol=1_000_000, mulaw=500_000)


def get_config(arg='mol'):
  kind = arg or 'mol'
  if kind not in ('mol', 'mulaw', 'debug'):
    raise ValueError(f'ljspeech_vocoder.py has no variant {arg!r}: mol, mulaw or debug.')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = STEPS.get(kind, 3)

  # The spectrogram of the recipes.
  mel = dict(sample_rate=22_050, n_fft=1024, hop=256, bands=80, lowest=125.0, highest=7600.0)
  config.data = dict(
    source='/data/LJSpeech-1.1/wavs',
    split=None,
    sample_rate=22_050,
    seconds=10_240 / 22_050,
    crop='random',
    batch_size=8,
    # Rows of 200,000 steps: the "epoch" after which the learning rate is halved.
    epoch_size=8 * 200_000,
    fields=dict(mel=dict(name='mel', args=dict(context=2, **mel))),
  )
  config.model = dict(
    name='wavenet',
    args=dict(
      size='r9y9_mulaw' if kind == 'mulaw' else 'r9y9_mol',
      mel=mel,
      local_mean=-2.49,
      local_scale=0.83,
    ),
  )
  if kind == 'mulaw':
    config.objective = dict(name='sample_codes', args=dict())
  else:
    config.objective = dict(name='sample_logistics', args=dict(classes=65_536, log_scale_min=-16.0))
  config.teacher = dict(decay=0.9999)
  config.optim = dict(
    name='adam', lr=1e-3, schedule=dict(name='step', first_drop=1, drop_every=1, drop=0.5)
  )
  config.evals = dict()
  config.watch = dict()
  config.log_every = 100
  config.checkpoint = dict(every=10_000, keep=2)

  if kind == 'debug':
    config.data.update(source='builtin', split='train', seconds=2048 / 22_050, batch_size=2)
    config.model.args.update(
      layers=4, stacks=2, residual_channels=8, gate_channels=16, skip_channels=8, mixtures=2
    )
    config.log_every = 1
    config.checkpoint.every = 2
  return config
