"""Speech without its noise, or every speaker by itself: audio files of audio files.

python -m launch.separate --model=runs/superb/se/model --input=noisy.wav --out=clean
python -m launch.separate --model=runs/superb/ss/model --input=my/folder --out=voices --format=flac

--model is a model with the head `masks`, a conv_tasnet or a gcrn: of one signal (enhancement, see
launch.enhance too), or of several (separation).
--input is a folder, an audio file, a list of files, or the name of a data set, of any length: long
recordings go through in windows that fade into each other, their speakers matched. --out is a
folder; NAME.wav becomes NAME.wav there, or NAME_1.wav, NAME_2.wav, …, one channel at the rate of
the model, and files.jsonl lists them. WAV is written in floats; FLAC in 24 bits, scaled down where
a peak is above 1 (`scale` in the list). Killed, the same command goes on where it was; several
processes (--num_processes) share the recordings.
"""

from absl import flags

from launch import command, outputs, signals
from launch.inputs import open_input

signals.define()
command.required('model', 'input', 'out')
command.distributed_flags()


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.inference import signal_files
  from research.inference.separate import Separator

  values = flags.FLAGS
  source = open_input(values.input, split=values.split, root=values.data_root)
  loaded = weights.load(str(values.model), release=values.release)
  windows = dict(window=values.window, overlap=values.overlap)
  separator = Separator(loaded.model, loaded.variables, **windows)
  rows = signal_files.separate_source(
    separator.stream,
    source,
    separator.rate,
    str(values.out),
    format=values.format,
    about={'model': loaded.fingerprint, **separator.about()},
    overwrite=values.overwrite,
    max_bad_fraction=values.max_bad_fraction,
  )
  if not jax.process_index():
    command.say(signals.said(values.out, rows))


if __name__ == '__main__':
  command.run(main)
