"""Scores of generated sounds: how near they are to real ones, and to what was asked for.

python -m launch.score_sounds --input=heard --real=my/folder --encoder=hf://facebook/hubert-base-ls960
python -m launch.score_sounds --input=heard --clap=FOLDER_OF_CLAP --text=text
python -m launch.score_sounds --input=heard --clap=FOLDER_OF_CLAP --text=label \
  --template='the sound of {}'

--input and --real are folders, lists or data sets. --encoder is any model that embeds: the Fréchet
distance between its embeddings of both (one a clip, the mean of the last layer), and the same for a
set without end, where there are enough clips (`metrics.generation`). It compares systems on one
encoder and one real set, and nothing else. --clap compares clips with texts: --text is the column
of --input that holds them (of a folder of launch.generate also a label that was asked for).
--joint takes --clap as the encoder. Means are printed, and written to --out as JSON.
"""

import json
import pathlib

from absl import flags

from launch import command
from launch.inputs import open_input

INPUT = flags.DEFINE_string('input', None, 'What was generated: a folder, a list, a data set.')
REAL = flags.DEFINE_string('real', None, 'Real recordings: a folder, a list, a data set.')
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of --real.')
ENCODER = flags.DEFINE_string('encoder', None, 'Weights of what embeds for the Fréchet distance.')
JOINT = flags.DEFINE_bool('joint', False, 'The encoder is the audio side of --clap.')
CLAP = flags.DEFINE_string('clap', None, 'Weights of a CLAP.')
TOKENIZER = flags.DEFINE_string(
  'tokenizer', None, "Of the CLAP: a folder or a file that came with its weights, or 'bytes'."
)
SUFFIX = flags.DEFINE_string('suffix', None, 'Put behind every text (Microsoft CLAP 2023).')
TEXT = flags.DEFINE_string('text', None, 'Column of --input with the text, or label, of a clip.')
TEMPLATE = flags.DEFINE_string('template', '{}', 'Text of a label, with {} for it.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
OUT = flags.DEFINE_string('out', None, 'JSON file for the scores.')
command.required('input')
command.distributed_flags()


def asked(folder):
  """{file: what was asked for} of a folder of launch.generate; {} of another."""
  from research.audio import lines
  from research.inference import signal_files

  listed = pathlib.Path(folder).expanduser() / signal_files.LIST
  if not listed.is_file():
    return {}
  rows = [row for _, row in lines.records(listed)]
  return {row['file']: {**row.get('labels', {}), **row} for row in rows if 'file' in row}


def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.errors import InputError
  from research.inference import joint, sound_scores
  from research.jobs import folders
  from research.weights import text_towers

  if jax.process_count() > 1:
    raise InputError('launch.score_sounds runs in one process: start it on one host.')
  if bool(REAL.value) != bool(ENCODER.value or JOINT.value):
    raise InputError('A Fréchet distance needs --real, and --encoder or --joint: give both.')
  if not (ENCODER.value or CLAP.value):
    raise InputError('Nothing judges: give --encoder with --real, or --clap with --text.')
  if JOINT.value and (not CLAP.value or ENCODER.value):
    raise InputError('--joint takes the audio side of --clap: give --clap, and no --encoder.')
  if CLAP.value and not (TEXT.value or JOINT.value):
    raise InputError('--clap was given without --text: name the column with the texts.')
  if '{}' not in TEMPLATE.value:
    raise InputError(f'--template={TEMPLATE.value} has no {{}} for the text.')
  made = open_input(str(INPUT.value), root=DATA_ROOT.value)
  clap = weights.load(CLAP.value) if CLAP.value else None
  found: dict[str, float] = {}
  if REAL.value:
    real = open_input(str(REAL.value), split=SPLIT.value, root=DATA_ROOT.value)
    if JOINT.value:
      encoder = joint.joint_embedder(clap)
    else:
      encoder = weights.load(str(ENCODER.value)).embedder
    found |= sound_scores.distances(encoder, made, real)
  if clap is not None and TEXT.value:
    tokenizer, suffix = text_towers.spelling(str(CLAP.value), TOKENIZER.value, SUFFIX.value)
    texts = sound_scores.texts(made, TEXT.value, asked(INPUT.value))
    texts = [TEMPLATE.value.replace('{}', text.replace('_', ' ')) + suffix for text in texts]
    found |= sound_scores.agreement(clap, tokenizer, made, texts)
  if OUT.value:
    folders.replace_text(pathlib.Path(OUT.value).expanduser(), json.dumps(found, indent=2) + '\n')
  command.say(', '.join(f'{name} {value:.4g}' for name, value in found.items()))


if __name__ == '__main__':
  command.run(main)
