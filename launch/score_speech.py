"""Scores of speech that was made: does it say its text, and in the voice that was asked for?

python -m launch.score_speech --input=heard --recogniser=hf://openai/whisper-tiny.en \
  --speakers=runs/superb/asv/model
python -m launch.score_speech --input=converted --speakers=runs/superb/asv/model \
  --parallel=recordings/of/the/target

--input is a folder of launch.speak or launch.convert_voice. --recogniser is what transcribes:
errors in characters and words to the text, or to the transcript of the recording that was
converted. --speakers is a model with the head x_vector, or any encoder of audio: the cosine to the
reference, and to the recording that was converted. --parallel is a folder of recordings of the
target, named as the results: mel-cepstral distortion, for which pip install -e '.[conversion]'.
Rows are written to scores.jsonl in the folder, means to scores.json.
"""

import functools
import json
import pathlib

from absl import flags

from launch import command

INPUT = flags.DEFINE_string('input', None, 'A folder of launch.speak or launch.convert_voice.')
RECOGNISER = flags.DEFINE_string('recogniser', None, 'Weights of what transcribes.')
SPEAKERS = flags.DEFINE_string('speakers', None, 'Weights of what compares voices.')
PARALLEL = flags.DEFINE_string('parallel', None, 'A folder of recordings of the target.')
ENGLISH = flags.DEFINE_bool('english', True, 'Texts are compared as Whisper compares English.')
command.required('input')
command.distributed_flags()


def read(folder):
  """Rows of the list of a folder."""
  from research.audio import lines
  from research.errors import InputError
  from research.inference import signal_files

  listed = folder / signal_files.LIST
  if not listed.is_file():
    raise InputError(f'{folder} has no {signal_files.LIST}: give a folder of launch.speak.')
  return [row for _, row in lines.records(listed)]


def transcript(recogniser, path):
  """What is said in a file."""
  (found,) = recogniser.transcribe([path])
  return found.text


def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.errors import InputError
  from research.inference import clip_rows, speech_scores
  from research.inference.speakers import SpeakerEncoder
  from research.jobs import folders

  if jax.process_count() > 1:
    raise InputError('launch.score_speech runs in one process: start it on one host.')
  folder = pathlib.Path(str(INPUT.value)).expanduser()
  rows = read(folder)
  if not (RECOGNISER.value or SPEAKERS.value or PARALLEL.value):
    raise InputError('Nothing judges: give --recogniser, --speakers or --parallel.')
  speakers = transcribe = None
  if SPEAKERS.value is not None:
    loaded = weights.load(SPEAKERS.value)
    speakers = SpeakerEncoder(loaded.model, loaded.variables)
  if RECOGNISER.value is not None:
    transcribe = functools.partial(transcript, weights.load(RECOGNISER.value))
  parallel = None if PARALLEL.value is None else pathlib.Path(PARALLEL.value).expanduser()
  if parallel is not None and not parallel.is_dir():
    raise InputError(f'--parallel={PARALLEL.value} is no folder.')
  judges = speech_scores.Judges(speakers, transcribe, parallel, ENGLISH.value)
  found = list(speech_scores.judged(folder, rows, judges))
  if not found:
    raise InputError(f'{folder} has no audio: codes are no speech, give launch.speak a codec.')
  means = speech_scores.summary(found)
  folders.replace_text(folder / 'scores.jsonl', ''.join(clip_rows.jsonl(found)))
  folders.replace_text(folder / 'scores.json', json.dumps(means, indent=2) + '\n')
  said = ', '.join(f'{name} {value:.4g}' for name, value in means.items())
  command.say(f'{folder / "scores.json"}: {said}')


if __name__ == '__main__':
  command.run(main)
