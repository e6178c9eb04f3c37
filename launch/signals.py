"""What commands that write signals of recordings have in common: flags, and what they say."""

import json
import pathlib

from absl import flags

SCORES = 'scores.json'
# How many of the files that were left out are named on the screen.
NAMED = 20


def define():
  """Defines the flags of models, inputs, windows and files."""
  flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
  flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
  flags.DEFINE_string(
    'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
  )
  flags.DEFINE_string('out', None, 'Folder to write to.')
  flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
  flags.DEFINE_string('data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).')
  flags.DEFINE_enum('format', 'wav', ['wav', 'flac'], 'Of the files.')
  flags.DEFINE_float('window', 16.0, 'Longer recordings are cut into windows of N seconds.')
  flags.DEFINE_float('overlap', 4.0, 'Seconds that neighbouring windows share.')
  flags.DEFINE_bool('overwrite', False, 'Do a finished folder again.')
  flags.DEFINE_float('max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.')


def said(out, rows):
  """Lines about the files of a job, and what was left out."""
  left = [row for row in rows if 'error' in row]
  files = sum(len(row['files']) for row in rows if 'files' in row)
  lines = [f'{out}: {files} files of {len(rows) - len(left)} recordings']
  if left:
    lines[0] += f', {len(left)} left out:'
  lines += [f'  {row["id"]}: {row["error"]}' for row in left[:NAMED]]
  if len(left) > NAMED:
    lines.append(f'  … and {len(left) - NAMED} more')
  return '\n'.join(lines)


def scored(out, rows):
  """Lines about the scores of a job; its folder gets them as SCORES."""
  from research.inference import enhance

  found = enhance.summary(rows)
  (pathlib.Path(out) / SCORES).write_text(json.dumps(found, indent=2) + '\n')
  bad = [row for row in rows if 'unscored' in row]
  lines = [f'not scored: {row["id"]}: {row["unscored"]}' for row in bad[:NAMED]]
  if len(bad) > NAMED:
    lines.append(f'  … and {len(bad) - NAMED} more')
  return '\n'.join(filter(None, [enhance.table(found), *lines]))
