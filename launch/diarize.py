"""Who speaks when in recordings.

python -m launch.diarize --model=runs/superb/sd/model --input=call.wav --out=call.rttm
python -m launch.diarize --model=runs/superb/asv/model --input=my/folder --speakers=4 --out=s.jsonl
python -m launch.diarize --model=runs/superb/asv/model --input=my/folder --out=found.rttm \\
  --similarity=windows.json --reference=said.rttm

--model is a model with the head `diarization`, for as many speakers as it was trained with (two).
For any number of speakers, voices are clustered: with --speakers=N, or with --similarity, the
cosine below which two voices are two speakers, a number or a file of
`launch.verify --calibrate=LIST --seconds=1.5`;
--model then has the head `x_vector`, or is any encoder of audio. Recordings may have any length.
--input is a folder, an audio file, a list of files, or the name of a data set. --out is .rttm, or
.jsonl with a line a recording: {id, seconds, segments: [{start, end, speaker}]}, in seconds.
Killed, the same command goes on where it was; several processes (--num_processes) share the
recordings. --reference prints the diarization error rate.
"""

from typing import Any

from absl import flags

from launch import command, outputs
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'File to write: .rttm or .jsonl.')
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
THRESHOLD = flags.DEFINE_float(
  'threshold', None, 'Probability above which somebody speaks (0.5 if not given).'
)
MEDIAN = flags.DEFINE_integer(
  'median', None, 'Frames of the median filter over decisions, odd (11 if not given).'
)
CHUNK = flags.DEFINE_integer(
  'chunk', None, 'Longer recordings are cut into chunks of N frames (2000 if not given).'
)
OVERLAP = flags.DEFINE_integer(
  'overlap', None, 'Frames that neighbouring chunks share (500 if not given).'
)
SPEAKERS = flags.DEFINE_integer('speakers', None, 'Voices are clustered: into N.')
SIMILARITY = flags.DEFINE_string(
  'similarity', None, 'Voices are clustered: two speakers below this cosine, a number or a file of '
  'launch.verify --calibrate.',
)  # fmt: skip
WINDOW = flags.DEFINE_float(
  'window', None, 'Of clustering: seconds of which a voice is taken (1.5 if not given).'
)
STEP = flags.DEFINE_float('step', None, 'Of clustering: one window every N s (0.75 if not given).')
REFERENCE = flags.DEFINE_string('reference', None, 'RTTM of who spoke when.')
COLLAR = flags.DEFINE_float(
  'collar', 0.0, 'Seconds on each side of a reference boundary that are not scored.', lower_bound=0
)
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the file if it is there.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
command.required('model', 'input')
command.distributed_flags()

OF_HEAD = (THRESHOLD, MEDIAN, CHUNK, OVERLAP)
OF_CLUSTERS = (WINDOW, STEP)
# How many of the files that were left out are named on the screen.
NAMED = 20


def diarizer(loaded):
  """What finds segments, as the flags say."""
  from research.errors import InputError
  from research.inference.diarize import Diarizer
  from research.inference.speaker_clusters import ClusterDiarizer
  from research.inference.speakers import SpeakerEncoder

  clustered = SPEAKERS.value is not None or SIMILARITY.value is not None
  for flag in OF_HEAD if clustered else OF_CLUSTERS:
    if flag.value is not None:
      kind = "the head 'diarization'" if clustered else 'clustering (--speakers, --similarity)'
      raise InputError(f'--{flag.name} is for {kind}: leave it out.')
  own = OF_CLUSTERS if clustered else OF_HEAD
  given: dict[str, Any] = {flag.name: flag.value for flag in own if flag.value is not None}
  if not clustered:
    return Diarizer(loaded.model, loaded.variables, **given)
  encoder = SpeakerEncoder(loaded.model, loaded.variables)
  return ClusterDiarizer(encoder, SPEAKERS.value, similarity(loaded), **given)


def similarity(loaded):
  """--similarity: a number, or the equal-error threshold of a calibration of these weights."""
  from research.errors import InputError
  from research.inference import calibration
  from research.inference.speaker_clusters import WINDOW as USUAL

  if SIMILARITY.value is None:
    return None
  try:
    return float(SIMILARITY.value)
  except ValueError:
    found = calibration.load(SIMILARITY.value, loaded.fingerprint)
  window = WINDOW.value or USUAL
  if found.seconds is None or abs(found.seconds - window) > window / 2:
    heard = 'whole recordings' if found.seconds is None else f'{found.seconds:g} s'
    raise InputError(
      f'--similarity={SIMILARITY.value} is of {heard}, and windows of {window:g} s are '
      f'not as alike: make it with launch.verify --calibrate=LIST --seconds={window:g}, or give a '
      'number.'
    )
  return found.threshold('eer')


def summary(rows, reference):
  """Lines that say what is done: recordings that were left out, and the error rate."""
  from research.inference import diarization_files
  from research.metrics.diarization import DiarizationErrors

  left = [row for row in rows if 'error' in row]
  yield f'{len(rows) - len(left)} recordings' + (f', {len(left)} left out:' if left else '')
  yield from (f'  {row["id"]}: {row["error"]}' for row in left[:NAMED])
  if len(left) > NAMED:
    yield f'  … and {len(left) - NAMED} more'
  if reference is not None:
    found = diarization_files.errors(rows, reference, COLLAR.value)
    total = sum(found.values(), DiarizationErrors())
    parts = (
      f'{name} {100 * getattr(total, key) / max(total.scored, 1e-9):.2f} %'
      for name, key in (
        ('missed', 'missed'), ('false alarms', 'false_alarm'), ('confusion', 'confusion'),
      )
    )  # fmt: skip
    yield (
      f'DER {100 * total.rate:.2f} % ({", ".join(parts)}; {total.scored:.1f} s of speech, collar '
      f'{COLLAR.value:g} s), {len(found)} recordings with a reference'
    )


@outputs.remote('out', folder=False)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.inference import diarization_files

  reference = None
  if REFERENCE.value is not None:
    reference = diarization_files.read_rttm(REFERENCE.value)
  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  find = diarizer(loaded)
  rows = diarization_files.diarize_source(
    find,
    source,
    loaded.frontend.sample_rate,
    OUT.value,
    about={'model': loaded.fingerprint, **find.about()},
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
  )
  if jax.process_index():
    return
  for row in rows:
    if 'segments' in row:
      speakers = {segment['speaker'] for segment in row['segments']}
      command.say(f'{row["id"]}: {len(speakers)} speakers, {len(row["segments"])} segments')
      if OUT.value is None:
        for segment in row['segments']:
          command.say('  {start:8.2f} {end:8.2f} {speaker}'.format(**segment))
  lines = list(summary(rows, reference))
  lines[0] = f'{OUT.value}: {lines[0]}' if OUT.value else lines[0]
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
