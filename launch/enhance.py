"""Speech without its noise: audio files of audio files, and scores against clean recordings.

python -m launch.enhance --model=runs/enhancer --input=noisy.wav --out=clean
python -m launch.enhance --model=runs/enhancer --input=my/folder --out=clean --format=flac
python -m launch.enhance --model=runs/enhancer --input=noisy_testset_wav --out=clean \\
  --reference=clean_testset_wav --compare=wiener,spectral_gate
python -m launch.enhance --model=wiener --input=noisy.wav --out=clean

--model is a model of one signal: a gcrn or a conv_tasnet, any encoder with the head `masks`; or
`wiener` or `spectral_gate`, classic methods without training. --input is a folder, an audio file, a
list of files or the name of a data set, of any length: recordings are read, cleaned in windows that
fade into each other and written in blocks, so that memory does not grow with their length. Files
keep their length, sample rate and channels; above half the rate of the model there is nothing left.
Every channel goes through by itself; --channels=common takes one mask for all, that of their mean,
so that directions stay, --channels=mean gives one channel.

With --reference, a folder of clean recordings of the same names or a column of their paths, PESQ,
STOI and SI-SDR of the noisy, the enhanced and of classic methods (--compare) are printed by
signal-to-noise ratio, and lie in scores.json. files.jsonl lists what was made. Killed, the same
command goes on where it was; several processes (--num_processes) share the recordings.
"""

from absl import flags

from launch import command, outputs, signals
from launch.inputs import open_input

signals.define()
SAMPLE_RATE = flags.DEFINE_integer(
  'sample_rate', None, 'Hz at which wiener and spectral_gate work (16000 if not given).'
)
CHANNELS = flags.DEFINE_enum(
  'channels', 'each', ['each', 'common', 'mean'], 'How several channels are enhanced.'
)
RATE = flags.DEFINE_enum('rate', 'input', ['input', 'model'], 'Sample rate of the files.')
REFERENCE = flags.DEFINE_string('reference', None, 'Clean recordings: a folder, or a column.')
METRICS = flags.DEFINE_list('metrics', ['pesq', 'stoi', 'si_sdr'], 'Scores against --reference.')
COMPARE = flags.DEFINE_list('compare', ['wiener'], 'Classic methods that are scored beside.')
command.required('model', 'input', 'out')
command.distributed_flags()


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.errors import InputError
  from research.features import denoising
  from research.inference import classic, enhance, signal_files
  from research.inference.separate import Separator

  values = flags.FLAGS
  source = open_input(values.input, split=values.split, root=values.data_root)
  windows = dict(window=values.window, overlap=values.overlap)
  if values.model in denoising.METHODS:
    separator = classic.separator(values.model, SAMPLE_RATE.value or 16_000, **windows)
    about = {'model': values.model, 'sample_rate': separator.rate}
  elif SAMPLE_RATE.value is not None:
    raise InputError(
      '--sample_rate is for wiener and spectral_gate: a model has a rate of its own.'
    )
  else:
    loaded = weights.load(str(values.model), release=values.release)
    separator = Separator(loaded.model, loaded.variables, **windows)
    about = {'model': loaded.fingerprint}
  if separator.signals != 1:
    raise InputError(
      f'--model={values.model} gives {separator.signals} signals: launch.separate writes them.'
    )
  judge = None
  if REFERENCE.value is not None:
    judge = enhance.Judge(
      source, REFERENCE.value, separator.rate, metrics=METRICS.value, compare=COMPARE.value
    )
    about |= judge.about()
  rows = signal_files.separate_source(
    separator.stream,
    source,
    separator.rate,
    str(values.out),
    format=values.format,
    channels=CHANNELS.value,
    rate=RATE.value,
    judge=judge,
    about={**about, **separator.about()},
    overwrite=values.overwrite,
    max_bad_fraction=values.max_bad_fraction,
  )
  if jax.process_index():
    return
  command.say(signals.said(values.out, rows))
  if judge:
    command.say(signals.scored(values.out, rows))


if __name__ == '__main__':
  command.run(main)
