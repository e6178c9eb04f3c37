"""Speech without its noise, or every speaker by itself: audio files of audio files.

python -m launch.separate --model=runs/superb/se/model --input=noisy.wav --out=clean
python -m launch.separate --model=runs/superb/ss/model --input=my/folder --out=voices --format=flac

--model is a model with the head `masks`: of one signal (enhancement), or of several (separation).
--input is a folder, an audio file, a list of files, or the name of a data set, of any length: long
recordings go through in windows that fade into each other, their speakers matched. --out is a
folder; NAME.wav becomes NAME.wav there, or NAME_1.wav, NAME_2.wav, …, one channel at the rate of
the model, and files.jsonl lists them. WAV is written in floats; FLAC in 24 bits, scaled down where
a peak is above 1 (`scale` in the list). Killed, the same command goes on where it was; several
processes (--num_processes) share the recordings.
"""

from absl import flags

from launch import command, outputs
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'Folder to write to.')
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
FORMAT = flags.DEFINE_enum('format', 'wav', ['wav', 'flac'], 'Of the files.')
WINDOW = flags.DEFINE_float('window', 16.0, 'Longer recordings are cut into windows of N seconds.')
OVERLAP = flags.DEFINE_float('overlap', 4.0, 'Seconds that neighbouring windows share.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Do a finished folder again.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
command.required('model', 'input', 'out')
command.distributed_flags()

# How many of the files that were left out are named on the screen.
NAMED = 20


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.inference import signal_files
  from research.inference.separate import Separator

  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  separator = Separator(loaded.model, loaded.variables, window=WINDOW.value, overlap=OVERLAP.value)
  rows = signal_files.separate_source(
    separator,
    source,
    loaded.frontend.sample_rate,
    str(OUT.value),
    format=FORMAT.value,
    about={'model': loaded.fingerprint, **separator.about()},
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
  )
  if jax.process_index():
    return
  left = [row for row in rows if 'error' in row]
  files = sum(len(row['files']) for row in rows if 'files' in row)
  lines = [f'{OUT.value}: {files} files of {len(rows) - len(left)} recordings']
  if left:
    lines[0] += f', {len(left)} left out:'
  lines += [f'  {row["id"]}: {row["error"]}' for row in left[:NAMED]]
  if len(left) > NAMED:
    lines.append(f'  … and {len(left) - NAMED} more')
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
