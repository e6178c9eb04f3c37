"""Makes instruction data of a labelled folder: questions about its clips, and answers.

  python -m launch.make_instructions --source=/data/esc10 --out=/data/esc10-asked
  python -m launch.make_instructions --source=/data/words --questions=class,yes_no,compare \\
    --what=word --per_clip=2 --seed=1 --out=/data/words-asked
  python -m launch.make_instructions --source=/data/speech --column=transcript \\
    --questions=transcript --out=/data/speech-asked

`--out` receives train.jsonl, valid.jsonl and test.jsonl in the form that --source=messages:DIR
reads, and phrasings.json. The same data and seed give the same bytes. Phrasings that are held out
occur in the test alone. Train with the printed source and config.data.fields.tokens.name=messages
(research/audio/README.md).
"""

import json
import shlex

from absl import flags

from launch import command
from research.audio import instructions
from research.audio.sources import open_source
from research.errors import InputError
from research.jobs import folders

_SOURCE = flags.DEFINE_string('source', '', 'the labelled clips: a folder, a manifest or a name')
_OUT = flags.DEFINE_string('out', '', 'a new folder')
_COLUMN = flags.DEFINE_string('column', 'label', 'column of labels, or of texts')
_QUESTIONS = flags.DEFINE_list(
  'questions', ['class', 'choice', 'yes_no'], ', '.join(instructions.PHRASINGS)
)
_WHAT = flags.DEFINE_string('what', 'sound', 'what the labels are, as it stands in questions')
_PER_CLIP = flags.DEFINE_integer('per_clip', 1, 'questions of each kind about a clip')
_HELD_OUT = flags.DEFINE_float('held_out', 0.25, 'fraction of phrasings for the test alone')
_SEED = flags.DEFINE_integer('seed', 0, 'of all draws')
_PHRASINGS = flags.DEFINE_string('phrasings', None, 'a JSON file {question: [phrasing, …]}')
_DATA_ROOT = flags.DEFINE_string('data_root', None, 'folder that named data sets are looked for in')


def main(argv):
  del argv
  out = folders.local(_OUT.value, 'out').expanduser()
  source = open_source(_SOURCE.value, root=_DATA_ROOT.value)
  own = instructions.read_phrasings(_PHRASINGS.value) if _PHRASINGS.value else {}
  maker = instructions.Maker(
    source,
    column=_COLUMN.value,
    questions=tuple(_QUESTIONS.value),
    what=_WHAT.value,
    per_clip=_PER_CLIP.value,
    held_out=_HELD_OUT.value,
    seed=_SEED.value,
    phrasings={**instructions.PHRASINGS, **own},
  )
  counts = instructions.write(maker, out)
  if not counts:
    raise InputError('No question could be asked: every split lacks a second clip.')
  said = ', '.join(f'{count} {split}' for split, count in counts.items())
  args = {'path': str(out), 'audio': source.table.root}
  print(f'{said} in {out}')
  spec = json.dumps({'name': 'messages', 'args': args})
  print(f'--config.data.source={shlex.quote(spec)}')


command.required('source', 'out')

if __name__ == '__main__':
  command.run(main)
