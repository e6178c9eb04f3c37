"""What is heard where in recordings of any length: labels with start, end and score.

python -m launch.tag --model=weights/ast --input=street.wav --threshold=0.3
python -m launch.tag --model=weights/ast --input=my/folder --out=tags.csv    # or tags.jsonl
python -m launch.tag --model=weights/ast --input=my/folder --out=tracks  # label tracks (Audacity)
python -m launch.tag --model=weights/clap --labels=names.txt --input=day.wav --hop=1 --out=tags.csv
python -m launch.tag --model=runs/superb/ks/model --activation=softmax --input=long.wav \\
  --window=1 --hop=0.25 --names=yes,no --out=found.jsonl

--model is a classifier (AST, any encoder under the head `classifier`), or a CLAP, for which
--labels are the classes, described by texts; its tokenizer is found as launch.classify finds it.
Windows of --window seconds follow each other by --hop; the score of a hop is the mean over the
windows that its middle is in, filtered by a median over --median seconds. A label is where scores
are at least --low and somewhere --threshold; ones no further apart than --gap become one, ones
below --shortest seconds are left out.

--out is a .csv (file, label, start, end, score), a .jsonl with a line a recording, or a folder of
label tracks. Recordings are read in blocks: memory does not grow with their length. With
--reference, a .csv with the columns file, label, start and end, the mean average precision by file
and by second is printed. Killed, the same command goes on where it was; several processes
(--num_processes) share the recordings, and the disk.
"""

import pathlib

from absl import flags

from launch import classifiers, command, outputs
from launch.inputs import open_input

classifiers.define()
OUT = flags.DEFINE_string('out', None, 'What to write: a .csv, a .jsonl, or a folder.')
HOP = flags.DEFINE_float('hop', 1.0, 'A window every N seconds.')
NAMES = flags.DEFINE_list('names', None, 'The classes that are looked for (all).')
THRESHOLD = flags.DEFINE_float('threshold', 0.5, 'Score that a label reaches.')
LOW = flags.DEFINE_float('low', None, 'Score that it keeps (--threshold if not given).')
MEDIAN = flags.DEFINE_float('median', 0.0, 'Seconds over which scores are filtered.')
SHORTEST = flags.DEFINE_float('shortest', 0.0, 'Seconds of a label, at least.')
GAP = flags.DEFINE_float('gap', 0.0, 'Seconds between two of a label that are one.')
REFERENCE = flags.DEFINE_string('reference', None, 'Labels to compare with: a .csv.')
command.required('model', 'input')
command.distributed_flags()


@outputs.remote('out', folder=lambda: not pathlib.Path(str(OUT.value)).suffix)
def main(argv):
  del argv
  command.start_jax()
  import jax
  import numpy as np

  from research.errors import InputError, unknown
  from research.inference import tag
  from research.metrics import tagging

  values, said = flags.FLAGS, None
  source = open_input(values.input, split=values.split, root=values.data_root)
  ours, about = classifiers.classifier()
  tagger = tag.Tagger(
    ours, hop=HOP.value, names=NAMES.value, threshold=THRESHOLD.value, low=LOW.value,
    median=MEDIAN.value, shortest=SHORTEST.value, gap=GAP.value,
  )  # fmt: skip
  labels: list[str] | None = None
  if REFERENCE.value is not None:
    said = tag.read_reference(REFERENCE.value)
    labels = sorted({turn[0] for turns in said.values() for turn in turns})
    for name in labels:
      if name not in tagger.names:
        raise unknown('class in --reference', name, tagger.names)
    ids = {source.id(i) for i in range(len(source))}
    if absent := sorted(set(said) - ids):
      raise InputError(
        f'--reference={REFERENCE.value} has labels of {absent[0]!r}, which is not in --input: its '
        f'column file has ids such as {source.id(0)!r}.'
      )
  rows = tag.tag_source(
    tagger,
    source,
    OUT.value,
    seconds=labels,
    about=about,
    overwrite=values.overwrite,
    max_bad_fraction=values.max_bad_fraction,
  )
  if jax.process_index():
    return
  for row in rows if OUT.value is None else ():
    if 'error' not in row:
      each = [
        f'{x["label"]} {x["start"]:.2f}-{x["end"]:.2f} s ({x["score"]:.3f})' for x in row['found']
      ]
      command.say(f'{row["id"]}: ' + (', '.join(each) or 'nothing'))
  lines = list(outputs.left_out(rows))
  lines[0] = f'{OUT.value}: {lines[0]}' if OUT.value else lines[0]
  if said is not None and labels is not None:
    done = [row for row in rows if 'scores' in row]
    found = tagging.mean_average_precisions(
      [np.array(row['scores']) for row in done], [said.get(row['id'], []) for row in done], labels
    )
    lines.append(
      f'mAP by file {found["map_file"]:.4f}, by second {found["map_second"]:.4f} '
      f'({len(done)} recordings, {len(labels)} labels)'
    )
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
