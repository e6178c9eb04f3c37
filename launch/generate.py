"""Audio by any model that generates it: from nothing, continued, or conditioned.

python -m launch.generate --model=runs/digits --labels=speaker=theo --count=8 --out=heard
python -m launch.generate --model=runs/music --prompt=start.wav --seconds=10 --seed=3 --out=heard
python -m launch.generate --model=runs/vocoder --source=my/folder --fold=1 --out=spoken
python -m launch.generate --model=runs/digits --requests=list.jsonl --out=heard
python -m launch.generate --model=runs/vq_vae --source=my/folder --labels=speaker=theo --out=heard
python -m launch.generate --model=runs/code_lm --parts=codec=encodec_24khz-d7cc33bc.th \
  --options=top_k=250 --prompt=start.wav --seconds=5 --out=heard
python -m launch.generate --model=prior_level_2.pth.tar \
  --parts=vqvae=vqvae.pth.tar,level_1=prior_level_1.pth.tar,level_0=prior_level_0.pth.tar \
  --options=v3_artist_ids=v3_artist_ids.txt --labels=artist=NAME,genre=jazz,lyrics=@words.txt \
  --seconds=20 --out=heard

--model is a workdir, a checkpoint or a file of weights. Without a condition --count results of
--seconds are made. --prompt is a clip that is continued by --seconds. --source names the recordings
that a vocoder says again: a file, a folder, a list or a data set. --labels gives what else the
model is conditioned on, by name or number: speaker=theo; texts may be in a file: lyrics=@FILE.
--parts names further weights that a generator needs, --options its other settings (see
research/inference/generators). A language model of codes writes audio by the codec it is given, and
without one the codes themselves, codes.tsv. --requests is a list, a .jsonl of objects with id,
seconds, seed, prompt, source, labels and texts, or a .txt with a source a line; flags are the
defaults of what a line leaves out. Equal requests and seeds give equal audio, whatever the batch.

--out is a folder: a file for each request, files.jsonl, and generated.html with players and
spectrograms. Killed, the same command goes on where it was; several processes (--num_processes)
share the list.
"""

import pathlib

from absl import flags

from launch import command, outputs, requests
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
TEACHER = flags.DEFINE_bool('teacher', False, 'Generate with the average of the weights.')
OUT = flags.DEFINE_string('out', None, 'Folder to write to.')
COUNT = flags.DEFINE_integer('count', 1, 'Number of results, for each prompt and source.')
SECONDS = flags.DEFINE_float('seconds', None, 'Length of a result, behind its prompt.')
SEED = flags.DEFINE_integer('seed', 0, 'Of the first result; further ones count on.')
PROMPT = flags.DEFINE_string('prompt', None, 'A clip that is continued.')
SOURCE = flags.DEFINE_string('source', None, 'Recordings that are said again.')
LABELS = flags.DEFINE_list('labels', [], 'What the model is conditioned on: name=value, ….')
PARTS = flags.DEFINE_list(
  'parts', [], 'Further weights of the generator: name=PATH or name:release=PATH, ….'
)
SETTINGS = flags.DEFINE_list('options', [], 'Further settings of the generator: name=value, ….')
REQUESTS = flags.DEFINE_string('requests', None, 'A list of requests, .jsonl or .txt.')
TEMPERATURE = flags.DEFINE_float('temperature', None, 'Of the draws; 0 takes the likeliest.')
BATCH = flags.DEFINE_integer('batch_size', None, 'Rows that are generated at once.')
FOLD = flags.DEFINE_float('fold', None, 'Cut long sources into folds of N seconds, side by side.')
OVERLAP = flags.DEFINE_float('overlap', None, 'Seconds over which folds fade into each other.')
FORMAT = flags.DEFINE_enum('format', 'wav', ['wav', 'flac'], 'Of the files.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Do a finished folder again.')
command.required('model', 'out')
command.distributed_flags()

# Flags that are options of a generator, by its names.
OPTIONS = dict(
  temperature=TEMPERATURE, batch_size=BATCH, fold_seconds=FOLD, overlap_seconds=OVERLAP
)


def asked():
  """Rows of requests, as the flags have them."""
  from research.errors import InputError
  from research.inference import audio_files

  if REQUESTS.value is not None:
    for flag in (PROMPT, SOURCE):
      if flag.value is not None:
        raise InputError(f'--{flag.name} and --requests were given: lines of the list name theirs.')
    rows = audio_files.read_list(REQUESTS.value)
  elif SOURCE.value is not None:
    source = open_input(SOURCE.value)
    examples = [source[i] for i in range(len(source))]
    if any(each.path is None or each.start or each.seconds for each in examples):
      raise InputError(
        f'--source={SOURCE.value} has parts of files: give files, or a folder of them.'
      )
    rows = [{'source': str(each.path)} for each in examples]
  else:
    rows = [{}]
  if PROMPT.value is not None:
    rows = [{**row, 'prompt': str(pathlib.Path(PROMPT.value).expanduser())} for row in rows]
  if COUNT.value < 1:
    raise InputError(f'--count={COUNT.value}: give at least 1.')
  return [dict(row) for row in rows for _ in range(COUNT.value)]


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.inference import audio_files

  rows = asked()
  loaded = weights.load(str(MODEL.value), release=RELEASE.value, teacher=TEACHER.value)
  generator, about = requests.make(loaded, SETTINGS, OPTIONS, PARTS)
  own = generator.generation
  known = {**own.labels, **own.texts, **own.vectors}
  rows = audio_files.completed(
    rows, known, seconds=SECONDS.value, seed=SEED.value, **requests.labels(LABELS)
  )
  made = audio_files.generate_files(
    generator,
    rows,
    str(OUT.value),
    format=FORMAT.value,
    block=BATCH.value or 16,
    about=about,
    overwrite=OVERWRITE.value,
  )
  if not jax.process_index():
    requests.ended(str(OUT.value), made, loaded, 'results')


if __name__ == '__main__':
  command.run(main)
