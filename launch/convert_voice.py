"""Recordings in another voice: units of what is said, and the voice of a reference.

python -m launch.convert_voice --model=runs/convert --units=runs/mfcc --source=my/folder \
  --parts=codec=runs/vq_vae --labels=speaker=theo --out=converted
python -m launch.convert_voice --model=runs/vc --content=hf://facebook/hubert-base-ls960 \
  --units=units/layer9 --source=in.wav --voice=ref.wav --out=converted \
  --parts=codec=encodec_24khz-d7cc33bc.th,voice=runs/superb/asv/model

--model is a language model of codes that reads units (experiments/code_lm/fsdd_speech.py:convert).
--units is the codebook that it learned with (launch.label_kmeans), --content the encoder whose
frames it is of, or mfcc. --source names the recordings: a file, a folder, a list or a data set;
--voice is a recording of the target, or several, each of which says everything. --parts names the
codec whose codes are written, and what makes vectors of voices.

--out is a folder: units of the recordings (units/), a file for each result, files.jsonl, and
generated.html. Killed, the same command goes on where it was. Attention to the units is judged as
that of launch.speak; python -m launch.score_speech --input=OUT compares voices and what is said.
"""

import pathlib

from absl import flags

from launch import command, outputs, requests
from launch.frame_inputs import open_frames
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
CONTENT = flags.DEFINE_string('content', 'mfcc', 'The encoder of what is said, or mfcc.')
CONTENT_RELEASE = flags.DEFINE_string('content_release', None, 'Whose weights --content is.')
UNITS = flags.DEFINE_string('units', None, 'The codebook of its frames.')
SOURCE = flags.DEFINE_string('source', None, 'Recordings that are said again.')
VOICE = flags.DEFINE_string('voice', None, 'Recordings of targets: a file, a folder or a list.')
LABELS = flags.DEFINE_list('labels', [], 'What the model is conditioned on: name=value, ….')
PARTS = flags.DEFINE_list('parts', [], 'Further weights: codec=PATH,voice=PATH.')
SETTINGS = flags.DEFINE_list('options', [], 'Further settings of the generator: name=value, ….')
SEED = flags.DEFINE_integer('seed', 0, 'Of the first result; further ones count on.')
TEMPERATURE = flags.DEFINE_float('temperature', None, 'Of the draws; 0 takes the likeliest.')
GUIDANCE = flags.DEFINE_float('guidance', None, 'Of conditions beside none; 1 for none.')
ATTEMPTS = flags.DEFINE_integer('attempts', None, 'How often a recording is said until it is good.')
BATCH = flags.DEFINE_integer('batch_size', None, 'Recordings that are said at once.')
FORMAT = flags.DEFINE_enum('format', 'wav', ['wav', 'flac'], 'Of the files.')
OUT = flags.DEFINE_string('out', None, 'Folder to write to.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Do a finished folder again.')
command.required('model', 'units', 'source', 'out')
command.distributed_flags()

# Flags that are options of a generator, by its names.
OPTIONS = dict(temperature=TEMPERATURE, guidance=GUIDANCE, attempts=ATTEMPTS, batch_size=BATCH)


def labelled(source, folder):
  """(units of the recordings, {id: why it has none})."""
  from research import distributed
  from research.audio.units import Units
  from research.errors import InputError
  from research.units import labelling
  from research.units.codebook import Codebook

  codebook = Codebook.open(str(UNITS.value))
  frames, _ = open_frames(
    str(CONTENT.value), codebook, release=CONTENT_RELEASE.value, layer=None, dtype=None,
    layer_flag='units',
  )  # fmt: skip
  if not distributed.agree(folder.is_dir()):
    labelling.label(frames, codebook, source, folder)
  found = Units.open(folder)
  if found.about['fingerprint'] != codebook.fingerprint(frames):
    raise InputError(f'{folder} has units of another codebook: give another --out, or delete it.')
  return found


def asked(source, units, voices):
  """Rows of requests: every recording by every voice."""
  from research.errors import InputError
  from research.inference import signal_files

  rows = []
  known = set(units.ids)
  for i, name in enumerate(signal_files.stems_of(source, FORMAT.value)):
    example = source[i]
    if example.id not in known:
      command.say(f'  {example.id}: left out, it has no units')
      continue
    for voice in voices or [None]:
      row = {'id': name, 'units': units[example.id].tolist()}
      if example.path is not None and not example.start:
        row['recording'] = str(example.path)
      if voice is not None:
        row['voice'] = voice
        row['id'] = f'{name}_{pathlib.Path(voice).stem}' if len(voices) > 1 else name
      rows.append(row)
  if not rows:
    raise InputError(f'--source={SOURCE.value}: no recording could be used.')
  return rows


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.errors import InputError
  from research.inference import audio_files, generators
  from research.jobs import folders

  loaded = weights.load(str(MODEL.value))
  if not generators.converts(loaded.model):
    raise InputError(
      f'{MODEL.value} ({loaded.name}) reads no units: give a language model of codes with '
      'model.args.text.units, as of experiments/code_lm/fsdd_speech.py:convert.'
    )
  generator, about = requests.make(loaded, SETTINGS, OPTIONS, PARTS)
  own = generator.generation
  requests.check_voice(VOICE, own)
  source, out = open_input(SOURCE.value), folders.folder(str(OUT.value), 'out')
  voices = [] if VOICE.value is None else requests.recordings(VOICE)
  rows = audio_files.completed(
    asked(source, labelled(source, out / 'units'), voices), {**own.labels, **own.vectors},
    seed=SEED.value, **requests.labels(LABELS),
  )  # fmt: skip
  made = audio_files.generate_files(
    generator,
    rows,
    out,
    format=FORMAT.value,
    block=BATCH.value or 16,
    about=about,
    overwrite=OVERWRITE.value,
  )
  if not jax.process_index():
    requests.ended(out, made, loaded, 'recordings', requests.unaligned(made))


if __name__ == '__main__':
  command.run(main)
