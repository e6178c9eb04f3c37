"""Are two recordings of one speaker? Cosines of the vectors of their voices.

python -m launch.verify --model=runs/superb/asv/model --files=a.wav,b.wav
python -m launch.verify --model=runs/superb/asv/model --calibrate=labelled.txt --out=asv.json
python -m launch.verify --model=runs/superb/asv/model --trials=pairs.txt --threshold=asv.json \\
  --out=scores.txt

--model is a model with the head `x_vector`, or any encoder of audio, whose pooled embedding is
taken. --trials is a list of pairs, a line each: `1 PATH PATH` (one speaker), `0 PATH PATH`, or
`PATH PATH`; tabs separate paths that hold spaces. With labels the equal error rate and the minimum
detection cost are printed. --calibrate is a labelled list: what scores mean is written as JSON, to
--out or beside the list (LIST.calibration.json). --threshold is such a file, of these weights, or a
number, and decides. --seconds=1.5 makes one for the windows of launch.diarize. --out of pairs is
.txt (score, path, path) or .jsonl.
"""

import json
import os
import pathlib

from absl import flags

from launch import command, outputs

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
FILES = flags.DEFINE_list('files', None, 'Two recordings: A,B.')
TRIALS = flags.DEFINE_string('trials', None, 'A list of pairs.')
CALIBRATE = flags.DEFINE_string('calibrate', None, 'A list of labelled pairs.')
ROOT = flags.DEFINE_string(
  'root', None, 'Folder where relative paths of a list start (that of the list if not given).'
)
THRESHOLD = flags.DEFINE_string(
  'threshold', None, 'The score from which a pair is of one speaker: a number, or a calibration.'
)
RULE = flags.DEFINE_enum(
  'rule', 'eer', ['eer', 'cost'], 'Threshold of a calibration: of equal errors, or of minimum cost.'
)
P_TARGET = flags.DEFINE_float(
  'p_target', 0.01, 'Fraction of pairs of one speaker that the cost assumes.'
)
SECONDS = flags.DEFINE_float(
  'seconds', None, 'Only N seconds from the middle of each recording are heard (1.5 for the '
  'windows of launch.diarize --similarity).',
)  # fmt: skip
OUT = flags.DEFINE_string('out', None, 'File to write: .txt or .jsonl; .json with --calibrate.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the file if it is there.')
command.required('model')
command.distributed_flags()


def pairs():
  """(pairs, where relative paths start) of the flags."""
  from research.errors import InputError
  from research.inference import trials

  given = [flag for flag in (FILES, TRIALS, CALIBRATE) if flag.value is not None]
  if len(given) != 1:
    raise InputError('Give one of --files=A,B, --trials=LIST and --calibrate=LIST.')
  if FILES.value is not None:
    if len(FILES.value) != 2:
      raise InputError(f'--files={",".join(FILES.value)}: expected two recordings, A,B.')
    return [trials.Trial(FILES.value[0], FILES.value[1])], ROOT.value or ''
  path = str(given[0].value)
  found = trials.read_trials(path)
  if CALIBRATE.value is not None and found[0].same is None:
    raise InputError(f'--calibrate={path}: its lines need labels, "1 PATH PATH" or "0 PATH PATH".')
  return found, os.path.dirname(os.path.expanduser(path)) if ROOT.value is None else ROOT.value


def place():
  """The file to write; None for none."""
  from research.jobs import folders

  if CALIBRATE.value is None:
    return OUT.value and folders.writable(OUT.value, ('.txt', '.jsonl'), OVERWRITE.value)
  given = OUT.value or f'{os.path.expanduser(CALIBRATE.value)}.calibration.json'
  return folders.writable(given, ('.json',), OVERWRITE.value)


def decision(loaded):
  """(threshold or None, the calibration or None) of --threshold."""
  from research.inference import calibration

  if THRESHOLD.value is None:
    return None, None
  try:
    return float(THRESHOLD.value), None
  except ValueError:
    found = calibration.load(THRESHOLD.value, loaded.fingerprint)
    return found.threshold(RULE.value), found


def rows_of(trials, scores, threshold, calibrated):
  """A dict of every pair."""
  for trial, score in zip(trials, scores.tolist()):
    row = {'first': trial.first, 'second': trial.second, 'score': round(score, 6)}
    if trial.same is not None:
      row['same'] = trial.same
    if calibrated is not None:
      row['probability'] = round(float(calibrated.probability(score)), 6)
    if threshold is not None:
      row['decision'] = 'same' if score >= threshold else 'different'
    yield row


def write(path, rows):
  """The rows as a file."""
  from research.jobs import folders

  if path.suffix == '.jsonl':
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
  else:
    spaced = any(' ' in name for row in rows for name in (row['first'], row['second']))
    between = '\t' if spaced else ' '
    lines = (between.join((f'{r["score"]:.6f}', r['first'], r['second'])) for r in rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  folders.replace_text(path, ''.join(f'{line}\n' for line in lines))


def said(row):
  """A pair on the screen."""
  text = f'{row["score"]:7.4f}  {row["first"]}  {row["second"]}'
  if 'decision' in row:
    text += f'  {row["decision"]}'
  return text + (f'  (probability {row["probability"]:.3f})' if 'probability' in row else '')


@outputs.remote('out', folder=False)
def main(argv):
  del argv
  command.start_jax()
  import jax
  import numpy as np

  from research import weights
  from research.errors import InputError
  from research.inference import calibration, trials
  from research.inference.speakers import SpeakerEncoder
  from research.jobs.progress import bar
  from research.metrics import verification

  if jax.process_count() > 1:
    raise InputError('launch.verify runs in one process: start it on one host.')
  given, root = pairs()
  path = place()
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  threshold, calibrated = decision(loaded)
  encoder = SpeakerEncoder(loaded.model, loaded.variables)
  names = {name for trial in given for name in trial[:2]}
  with bar('recordings', len(names), active=len(names) > 2) as progress:
    scores = trials.scores(encoder, given, root, SECONDS.value, progress)
  same = trials.labels(given)
  if CALIBRATE.value is not None:
    found = calibration.calibrate(
      scores,
      np.array(same),
      p_target=P_TARGET.value,
      model=loaded.fingerprint,
      seconds=SECONDS.value,
    )
    calibration.save(found, path)
    command.say(
      f'{path}: {found.pairs} pairs, {found.targets} of one speaker: EER {100 * found.eer:.2f} % '
      f'at {found.eer_threshold:.4f}, minDCF {found.min_dcf:.4f} at {found.min_dcf_threshold:.4f} '
      f'(p_target {found.p_target:g}), log-likelihood ratio = {found.slope:.3f} * score '
      f'{found.offset:+.3f}'
    )
    return
  rows = list(rows_of(given, scores, threshold, calibrated))
  if path:
    write(pathlib.Path(path), rows)
  else:
    command.say('\n'.join(map(said, rows)))
  lines = [f'{path}: {len(rows)} pairs'] if path else []
  if same is not None and 0 < same.sum() < len(same):
    rate, at = verification.equal_error_rate(scores, same)
    cost, _ = verification.minimum_detection_cost(scores, same, p_target=P_TARGET.value)
    lines.append(
      f'EER {100 * rate:.2f} % at {at:.4f}, minDCF {cost:.4f} (p_target {P_TARGET.value:g})'
    )
  if same is not None and threshold is not None:
    accepted = scores >= threshold
    wrong = int((accepted & ~same).sum()), int((~accepted & same).sum())
    lines.append(
      f'at {threshold:.4f}: {wrong[0]} of {int((~same).sum())} other pairs accepted, {wrong[1]} of '
      f'{int(same.sum())} pairs of one speaker rejected'
    )
  if lines:
    command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
