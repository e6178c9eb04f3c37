"""What is heard in audio files: the classes with the highest scores.

python -m launch.classify --model=weights/ast --input=street.wav
python -m launch.classify --model=weights/ast --input=my/folder --top=3 --out=classes.jsonl
python -m launch.classify --model=weights/clap --labels=names.txt --input=a.wav
python -m launch.classify --model=runs/superb/ks/model --input=long.wav --window=1 --hop=0.25 \\
  --spot=yes,no --out=found.jsonl

--model is a classifier (AST, any encoder under the head `classifier`), or a CLAP, for which
--labels are the classes (zero-shot); its tokenizer is that of the run, or the one beside the
weights, or --tokenizer. --input is a folder, an audio file, a list of files
or the name of a data set. Files of any length are cut into windows. --out keeps all scores:
.jsonl, a line a clip. Files that cannot be read are named and left out. Killed, the same command
goes on where it was; several processes (--num_processes) share the clips, and the disk.

With --hop it says where classes occur: windows of --window seconds follow each other by --hop, and
those in a row whose score is at least --threshold are one occurrence; a line of --out is then
{id, found: [{class, start, end, score, time}]}, in seconds, time being the middle of the best
window.
"""

import pathlib

from absl import flags

from launch import command, outputs
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'File to write: .jsonl.')
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
TOP = flags.DEFINE_integer('top', 5, 'Classes that are printed of a clip.', lower_bound=1)
LABELS = flags.DEFINE_string(
  'labels', None, 'Names of the classes, one a line (those of the weights if not given).'
)
TOKENIZER = flags.DEFINE_string(
  'tokenizer',
  None,
  "Tokenizer of a CLAP: a folder or a file that came with its weights, or 'bytes'.",
)
TEMPLATE = flags.DEFINE_string('template', None, 'Text of a class, with {} for its name (CLAP).')
SUFFIX = flags.DEFINE_string(
  'suffix', None, 'Put behind every text (Microsoft CLAP 2023 needs one; that of a run is known).'
)
ACTIVATION = flags.DEFINE_enum(
  'activation', None, ['sigmoid', 'softmax'],
  'Of a classifier: several classes, or one (sigmoid if not given, softmax with --hop).',
)  # fmt: skip
WINDOW = flags.DEFINE_float('window', None, 'Seconds of a piece of a longer clip.')
HOP = flags.DEFINE_float('hop', None, 'Says where classes occur: a window every N seconds.')
SPOT = flags.DEFINE_list('spot', None, 'With --hop: the classes that are looked for (all).')
THRESHOLD = flags.DEFINE_float(
  'threshold', None, 'With --hop: score of a window in which a class occurs (0.5 if not given).'
)
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the file if it is there.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
command.required('model', 'input')
command.distributed_flags()


def classifier():
  """(the classifier that the flags ask for, what else its result depends on)."""
  from research import weights
  from research.capabilities import ComparesTexts
  from research.errors import InputError
  from research.inference import classify
  from research.weights import text_towers

  names = None
  if LABELS.value is not None:
    try:
      lines = pathlib.Path(LABELS.value).expanduser().read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise InputError(f'--labels={LABELS.value} cannot be read: {error}.') from None
    names = [line.strip() for line in lines if line.strip()]
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  args = {} if WINDOW.value is None else {'window': WINDOW.value}
  by_texts = isinstance(loaded.model, ComparesTexts) and names is not None
  if TOKENIZER.value is None and not by_texts:
    for flag in (TEMPLATE, SUFFIX):
      if flag.value:
        raise InputError(f'--{flag.name} is for a CLAP, as --tokenizer and --labels are.')
    activation = ACTIVATION.value or ('sigmoid' if HOP.value is None else 'softmax')
    made = classify.Classifier.of_model(loaded, names, activation, **args)
    return made, {'model': loaded.fingerprint, 'activation': activation}
  if names is None:
    raise InputError('--tokenizer is for classes described by texts: give their names, --labels.')
  template = classify.TEMPLATE if TEMPLATE.value is None else TEMPLATE.value
  tokenizer, suffix = text_towers.spelling(str(MODEL.value), TOKENIZER.value, SUFFIX.value)
  made = classify.Classifier.zero_shot(loaded, tokenizer, names, template, suffix, **args)
  texts = {'template': template, 'suffix': suffix, 'tokenizer': tokenizer.source}
  return made, {'model': loaded.fingerprint, **texts}


def said(row):
  """What a row says, in a line."""
  if 'found' in row:
    each = [
      f'{x["class"]} {x["start"]:.2f}-{x["end"]:.2f} s ({x["score"]:.3f})' for x in row['found']
    ]
    return ', '.join(each) or 'nothing'
  found = list(row['scores'].items())[: TOP.value]
  return ', '.join(f'{name} {score:.3f}' for name, score in found)


@outputs.remote('out', folder=False)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research.errors import InputError, unknown
  from research.inference import classify

  for flag in (SPOT, THRESHOLD) if HOP.value is None else ():
    if flag.value is not None:
      raise InputError(f'--{flag.name} is for --hop, which says where classes occur: give it too.')
  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  ours, about = classifier()
  for name in SPOT.value or ():
    if name not in ours.labels:
      raise unknown('class', name, ours.labels)
  spot = None
  if HOP.value is not None:
    threshold = 0.5 if THRESHOLD.value is None else THRESHOLD.value
    spot = dict(hop=HOP.value, names=SPOT.value, threshold=threshold)
  rows = classify.classify_source(
    ours,
    source,
    OUT.value,
    spot=spot,
    about=about,
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
  )
  if jax.process_index():
    return
  for row in rows:  # In the order given; they were done by length.
    if 'error' not in row:
      command.say(f'{row["id"]}: {said(row)}')
  lines = list(outputs.left_out(rows))
  lines[0] = f'{OUT.value}: {lines[0]}' if OUT.value else lines[0]
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
