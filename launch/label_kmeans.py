"""Clusters frames of audio and writes the unit of every frame: targets of HuBERT, speech units.

python -m launch.label_kmeans --features=mfcc --clusters=100 --input=builtin --out=units/mfcc
python -m launch.label_kmeans --features=runs/hubert --layer=6 --clusters=500 --percent=0.1 \
  --input=librispeech --split=train --label_splits=all --out=units/layer6
python -m launch.label_kmeans --codebook=units/mfcc --input=my/folder --out=units/mine

--features is mfcc or a model; --codebook (a folder of this command, .npy, or a joblib dump of
scikit-learn's k-means such as fairseq's .bin and .km) labels without fitting. --input is a folder,
an audio file, a list (.txt or .csv) or the name of a data set. Killed, the same command goes on
where it was, and ends in the same bits.

Below --out: codebook/ (centroids and what made them), units/ (all clips, see
`research/audio/units.py`), quality.json, report.html, bad_files.jsonl.
"""

import json
import shutil
import time
from pathlib import Path

from absl import flags

from launch import command, outputs
from launch.frame_inputs import open_frames
from launch.inputs import open_input

FEATURES = flags.DEFINE_string(
  'features', None, 'mfcc, or a model: a workdir, a checkpoint or a file.'
)
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights the model is.')
LAYER = flags.DEFINE_string(
  'layer',
  'last',
  "Of the model: a number (0 is the stem) or 'last'. Of models with pre-norm blocks (HuBERT large) "
  'the last layer is taken after the final norm, as in s3prl; in fairseq it is taken before.',
)
DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ('float32', 'bfloat16'), 'In which the model computes (as its codebook was).'
)
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'Folder to write.')
CODEBOOK = flags.DEFINE_string('codebook', None, 'Label with this codebook, fit none.')
CLUSTERS = flags.DEFINE_integer('clusters', 100, 'How many clusters.')
SPLIT = flags.DEFINE_string('split', None, 'Fit to the clips of this split of the input only.')
LABEL_SPLITS = flags.DEFINE_list(
  'label_splits', ['all'], 'Splits to label, or all (also where --split names one to fit to).'
)
PERCENT = flags.DEFINE_float('percent', 1.0, "Fraction of the clips to fit to (fairseq's 0.1).")
SEED = flags.DEFINE_integer('seed', 0, 'Of everything that is drawn.')
INIT = flags.DEFINE_string('init', 'k-means++', 'First centroids: k-means++ or random.')
N_INIT = flags.DEFINE_integer('n_init', 20, 'Initialisations of which the best counts.')
BATCH_FRAMES = flags.DEFINE_integer('batch_frames', 10_000, 'Frames of a mini-batch.')
MAX_EPOCHS = flags.DEFINE_integer('max_epochs', 100, 'Most times through the data.')
PATIENCE = flags.DEFINE_integer(
  'max_no_improvement', 100, 'Mini-batches without a lower inertia that end the fit.'
)
REASSIGNMENT = flags.DEFINE_float(
  'reassignment_ratio', 0.0, 'Move clusters with less than this fraction of the largest.', 0.0, 1.0
)
REFERENCES = flags.DEFINE_list(
  'references', None, "Label columns to compare the units with, or 'none' (word, speaker … if any)."
)
ALIGNMENTS = flags.DEFINE_string(
  'alignments', None, 'Phones to compare with: a .csv of id, start, end (seconds), label.'
)
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
BATCH_SECONDS = flags.DEFINE_float(
  'batch_seconds', 320.0, 'Audio that goes through the model at once.', lower_bound=1.0
)
SAVE_SECONDS = flags.DEFINE_float('save_seconds', 60.0, 'How often unfinished work is saved.')
command.required('input', 'out')
command.distributed_flags()


def _frames(codebook):
  """What is clustered, and where it comes from."""
  from research.errors import InputError

  name = FEATURES.value
  if not name:
    name = codebook.about.get('features') if codebook else None
    if name != 'mfcc':
      what = f'the codebook is of {name}' if name else 'nothing says what is clustered'
      raise InputError(f'Missing flag --features: {what}; give mfcc or a model.')
  layer, dtype = (f.value if flags.FLAGS[f.name].present else None for f in (LAYER, DTYPE))
  return open_frames(
    str(name), codebook, release=RELEASE.value, layer=layer, dtype=dtype, layer_flag='layer'
  )


def _source(split):
  """The clips of a split, as a training would take them."""
  from research.train import selection

  clips = open_input(INPUT.value, root=DATA_ROOT.value)
  return selection.part(clips, split) if split else clips


def _settings():
  from research.units.clustering import Settings

  return Settings(
    clusters=CLUSTERS.value,
    batch_size=BATCH_FRAMES.value,
    init=INIT.value,
    n_init=N_INIT.value,
    max_epochs=MAX_EPOCHS.value,
    max_no_improvement=PATIENCE.value,
    reassignment_ratio=REASSIGNMENT.value,
    percent=PERCENT.value,
    seed=SEED.value,
  )


def _say(text):
  import jax

  if jax.process_index() == 0:
    print(text, flush=True)


def _told(row):
  _say(
    f'mini-batch {row["step"]}, epoch {row["epoch"]:.2f}: inertia {row["smoothed"]:.4g} a frame, '
    f'{row["in_use"]} of {CLUSTERS.value} clusters in use, perplexity {row["perplexity"]:.1f}'
  )


def _fitted(frames, source, settings, out):
  """A codebook of the source's frames; the state on the way lies in <out>/fit."""
  import dataclasses

  from research import distributed
  from research.audio.bad_files import BadFiles
  from research.units.clustering import fit
  from research.units.codebook import Codebook

  started = time.monotonic()
  found = fit(
    frames,
    source,
    settings,
    folder=out / 'fit',
    bad_files=BadFiles(out / 'bad_files.jsonl', MAX_BAD.value, process=distributed.process()[0]),
    batch_seconds=BATCH_SECONDS.value,
    save_seconds=SAVE_SECONDS.value,
    report=_told,
  )
  _say(f'fitted in {time.monotonic() - started:.0f} s: {found.ended}')
  about = {
    **frames.about(),
    'data': {'name': source.name, 'split': SPLIT.value, 'fingerprint': source.fingerprint()},
    'settings': dataclasses.asdict(settings),
    'ended': found.ended,
    'history': found.history,
  }
  return Codebook(found.centroids, about)


def _references(source):
  from research.units import quality

  names = REFERENCES.value
  if names is None:
    names = quality.usual_columns(source)
  found = [quality.of_column(source, n) for n in names if n != 'none']
  return found + ([quality.of_alignments(ALIGNMENTS.value)] if ALIGNMENTS.value else [])


def _everything():
  return LABEL_SPLITS.value in (['all'], [])


@outputs.remote('out', folder=True)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research.errors import InputError
  from research.jobs import folders
  from research.units import files
  from research.units.codebook import Codebook

  # -- What is asked for, before anything is written.
  first = jax.process_index() == 0
  settings = _settings()
  given = Codebook.open(CODEBOOK.value) if CODEBOOK.value else None
  if given and flags.FLAGS['clusters'].present and CLUSTERS.value != given.clusters:
    raise InputError(f'--clusters={CLUSTERS.value}, but the codebook has {given.clusters}.')
  frames, origin = _frames(given)
  if given:
    given.check(frames, frames.width())
  source = _source(None if _everything() else '+'.join(LABEL_SPLITS.value))
  to_fit = source if given else _source(SPLIT.value)
  references = _references(source)
  files.check_names(source, '')
  out = Path(str(OUT.value)).expanduser()
  job = {'features': frames.fingerprint(), 'clips': source.fingerprint()}
  if given:
    job['codebook'] = given.hash
  else:
    job |= vars(settings) | {'clips of the fit': to_fit.fingerprint()}
  if first:
    _begin(out, job)

  with folders.disk_errors(out, out):
    _fit_and_label(frames, origin, source, to_fit, settings, given, references, out)


def _fit_and_label(frames, origin, source, to_fit, settings, given, references, out):
  import jax

  from research import distributed
  from research.audio.units import Units
  from research.jobs import folders, locks
  from research.report.units import write_page
  from research.units import labelling, quality
  from research.units.codebook import Codebook

  first = jax.process_index() == 0

  # -- The codebook.
  if given:
    codebook = Codebook(given.centroids, {**frames.about(), **given.about})
  elif distributed.agree((out / 'codebook').is_dir()):
    codebook = Codebook.open(out / 'codebook')
  else:
    codebook = _fitted(frames, to_fit, settings, out)
  if first:
    # Only once: what is there already is not put at risk again.
    if not (out / 'codebook').is_dir():
      codebook.save(out / 'codebook')
    shutil.rmtree(out / 'fit', ignore_errors=True)

  # -- Units.
  if not distributed.agree((out / 'units').is_dir()):
    started = time.monotonic()
    done = labelling.label(
      frames,
      codebook,
      source,
      out / 'units',
      about={'origin': origin},
      max_bad_fraction=MAX_BAD.value,
      bad_files=out / 'bad_files.jsonl',
      batch_seconds=BATCH_SECONDS.value,
      part_seconds=min(SAVE_SECONDS.value, 20.0),
    )
    if first and done['resumed']:
      _say(f'{done["resumed"]} pieces were done before')
    _say(f'labelled in {time.monotonic() - started:.0f} s')
  if not first:
    return

  # -- How good they are.
  units = Units.open(out / 'units')
  found = quality.quality(units, references, quality.speakers_of(source))
  folders.replace_text(out / 'quality.json', json.dumps(found, indent=1))
  facts = {
    'input': f'{INPUT.value}, {"all splits" if _everything() else ", ".join(LABEL_SPLITS.value)}',
    'features': f'{frames.embedder.name}: {origin}',
    'codebook': CODEBOOK.value or f'fitted to {SPLIT.value or "everything"}, seed {SEED.value}',
  }
  history = codebook.about.get('history') or []
  write_page(out / 'report.html', units, found, history=history, facts=facts)
  for name, row in found['references'].items():
    _say(f'{name}: {quality.sentence(row)}')
  skipped = len(units.about['skipped'])
  left = f', {skipped} left out (named in report.html)' if skipped else ''
  _say(
    f'{out}: {found["clips"]} clips{left}, {found["frames"]} units, {found["in_use"]} of '
    f'{found["clusters"]} clusters in use'
  )
  locks.release(out)


def _begin(out, job):
  from research.errors import InputError
  from research.jobs import folders, lines, locks

  try:
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    names -= {locks.LOCK}
    if names and 'job.json' not in names:
      raise InputError(f'{out} holds other files: give a new folder as --out.')
    locks.claim(out)
    # A command that came to nothing leaves nothing that another must not replace.
    own = {'job.json', *(path.name for path in lines.parts(out / 'bad_files.jsonl'))}
    if names <= own:
      for name in names:
        (out / name).unlink()
    folders.begin(out, job, 'units, finished or not, with another')
  except (FileExistsError, NotADirectoryError):
    raise InputError(f'--out={out} is or lies below a file; a folder was expected.') from None
  except OSError as error:
    raise InputError(f'Cannot write {out}: {error.strerror or error}.') from error


if __name__ == '__main__':
  command.run(main)
