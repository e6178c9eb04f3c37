"""Speech of texts, in the voice of a speaker that the model knows, or of a recording.

python -m launch.speak --model=runs/speak --parts=codec=runs/vq_vae --labels=speaker=theo \
  --text='seven three' --out=heard
python -m launch.speak --model=runs/libritts --input=lines.txt --voice=ref.wav --out=heard \
  --parts=codec=encodec_24khz-d7cc33bc.th,voice=runs/superb/asv/model

--model is a language model of codes that reads texts (experiments/code_lm/), --parts names the
codec or the vocoder of units whose codes it writes, and what makes vectors of voices: the encoder
of speakers that it learned with. --text is a text, --input a list: a .txt with a text a line, or a
.csv, .tsv or .jsonl with a column text and any of id, voice, seed, seconds and labels. --voice is a
recording of the speaker, for lines that name none; a folder or list of recordings makes every text
in each voice. Equal texts and seeds give equal audio, whatever the batch.

A text is said up to --attempts times, until attention went through all of it in order: what was
found is in files.jsonl (aligned, straight, skipped, back, stall, problems, attempts), see
research/inference/alignment.py. Seconds are limited by the length of the text, or by --seconds.

--out is a folder: a file for each text, files.jsonl, and generated.html with players. Killed, the
same command goes on where it was; several processes (--num_processes) share the list.
"""

import pathlib
import time

from absl import flags

from launch import command, outputs, requests

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
TEACHER = flags.DEFINE_bool('teacher', False, 'Speak with the average of the weights.')
OUT = flags.DEFINE_string('out', None, 'Folder to write to.')
TEXT = flags.DEFINE_string('text', None, 'What to say.')
INPUT = flags.DEFINE_string('input', None, 'A list of texts: .txt, .csv, .tsv or .jsonl.')
VOICE = flags.DEFINE_string('voice', None, 'Recordings of speakers: a file, a folder or a list.')
LABELS = flags.DEFINE_list('labels', [], 'What the model is conditioned on: name=value, ….')
PARTS = flags.DEFINE_list(
  'parts', [], 'Further weights: codec=PATH,voice=PATH, or name:release=PATH.'
)
SETTINGS = flags.DEFINE_list('options', [], 'Further settings of the generator: name=value, ….')
COUNT = flags.DEFINE_integer('count', 1, 'How often each text is said, with seeds of their own.')
SECONDS = flags.DEFINE_float('seconds', None, 'Length that no result goes beyond.')
SEED = flags.DEFINE_integer('seed', 0, 'Of the first result; further ones count on.')
TEMPERATURE = flags.DEFINE_float('temperature', None, 'Of the draws; 0 takes the likeliest.')
GUIDANCE = flags.DEFINE_float('guidance', None, 'Of conditions beside none; 1 for none.')
ATTEMPTS = flags.DEFINE_integer(
  'attempts', None, 'How often a text is said until its alignment is good; 0 does not look at it.'
)
BATCH = flags.DEFINE_integer('batch_size', None, 'Texts that are said at once.')
FORMAT = flags.DEFINE_enum('format', 'wav', ['wav', 'flac'], 'Of the files.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Do a finished folder again.')
command.required('model', 'out')
command.distributed_flags()

# Flags that are options of a generator, by its names.
OPTIONS = dict(temperature=TEMPERATURE, guidance=GUIDANCE, attempts=ATTEMPTS, batch_size=BATCH)


def asked():
  """Rows of requests, as the flags have them."""
  from research.errors import InputError
  from research.inference import audio_files

  if (TEXT.value is None) == (INPUT.value is None):
    raise InputError('Give one of --text and --input: a text, or a list of them.')
  if COUNT.value < 1:
    raise InputError(f'--count={COUNT.value}: give at least 1.')
  if TEXT.value is not None:
    rows = [{'text': TEXT.value}]
  else:
    rows = audio_files.read_texts(str(INPUT.value))
  voices = [] if VOICE.value is None else requests.recordings(VOICE)
  found = []
  for row in rows:
    own = [row['voice']] if row.get('voice') else voices
    for voice in own or [None]:
      name = row.get('id')
      if name is not None and voice is not None and len(own) > 1:
        name = f'{name}_{pathlib.Path(voice).stem}'
      for i in range(COUNT.value):
        id = f'{name}_{i}' if name is not None and i else name
        found.append({**row, 'id': id, 'voice': voice})
  # What a line leaves out is a default.
  return [{k: v for k, v in row.items() if v is not None} for row in found]


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.errors import InputError
  from research.inference import audio_files, generators

  rows = asked()
  loaded = weights.load(str(MODEL.value), teacher=TEACHER.value)
  if not generators.spoken(loaded.model):
    raise InputError(
      f'{MODEL.value} ({loaded.name}) says no texts: give a language model of codes with '
      'model.args.text, as of experiments/code_lm/fsdd_speech.py (python -m launch.generate is for '
      'others).'
    )
  generator, about = requests.make(loaded, SETTINGS, OPTIONS, PARTS)
  own = generator.generation
  known = {**own.labels, **own.texts, **own.vectors}
  requests.check_voice(VOICE, own)
  rows = audio_files.completed(
    rows, known, seconds=SECONDS.value, seed=SEED.value, **requests.labels(LABELS)
  )
  began = time.monotonic()
  made = audio_files.generate_files(
    generator,
    rows,
    str(OUT.value),
    format=FORMAT.value,
    block=BATCH.value or 16,
    about=about,
    overwrite=OVERWRITE.value,
  )
  if jax.process_index():
    return
  took, good = time.monotonic() - began, [row for row in made if 'file' in row]
  total = sum(row['seconds'] for row in good)
  lines = [f'  {total:.1f} s of speech in {took:.1f} s', *requests.unaligned(made)]
  requests.ended(str(OUT.value), made, loaded, 'texts', lines)


if __name__ == '__main__':
  command.run(main)
