"""Speech without its noise, or every speaker by itself: audio files of audio files.

python -m launch.separate --model=runs/superb/se/model --input=noisy.wav --out=clean
python -m launch.separate --model=runs/superb/ss/model --input=my/folder --out=voices --format=flac
python -m launch.separate --model=runs/separator --input=test/mix_clean --out=voices \\
  --reference=test/s1,test/s2

--model is a model with the head `masks`, a conv_tasnet or a gcrn: of one signal (enhancement, see
launch.enhance too), or of several (separation).
--input is a folder, an audio file, a list of files, or the name of a data set, of any length: long
recordings go through in windows that fade into each other, their speakers matched. --out is a
folder; NAME.wav becomes NAME.wav there, or NAME_1.wav, NAME_2.wav, …, one channel at the rate of
the model, and files.jsonl lists them. WAV is written in floats; FLAC in 24 bits, scaled down where
a peak is above 1 (`scale` in the list).

With --reference SI-SDR of the mixture and of the voices, its improvement (si_sdri), and STOI where
the extra [enhancement] is installed, are printed as means over recordings, and lie in scores.json.
It is a folder or a column of paths for each voice, with files of the names of the mixtures, or one
folder with NAME_1.wav, NAME_2.wav, …. Each clean voice is held against that of the order with the
best mean SI-SDR. Killed, the same command goes on where it was; several processes
(--num_processes) share the recordings.
"""

from absl import flags

from launch import command, outputs, signals
from launch.inputs import open_input

signals.define()
REFERENCE = flags.DEFINE_list(
  'reference', None, 'Clean voices: a folder or a column of each, or one folder.'
)
METRICS = flags.DEFINE_list('metrics', None, 'Scores against --reference: si_sdr, stoi, pesq.')
command.required('model', 'input', 'out')
command.distributed_flags()


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.inference import separation_scores, signal_files
  from research.inference.separate import Separator

  values = flags.FLAGS
  source = open_input(values.input, split=values.split, root=values.data_root)
  loaded = weights.load(str(values.model), release=values.release)
  windows = dict(window=values.window, overlap=values.overlap)
  separator = Separator(loaded.model, loaded.variables, **windows)
  about, judge = {'model': loaded.fingerprint, **separator.about()}, None
  if REFERENCE.value is not None:
    judge = separation_scores.Judge(
      source, REFERENCE.value, separator.rate, separator.signals, metrics=METRICS.value
    )
    about |= judge.about()
  rows = signal_files.separate_source(
    separator.stream,
    source,
    separator.rate,
    str(values.out),
    format=values.format,
    judge=judge,
    about=about,
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
