"""Embeddings of audio files into one file, or discrete units.

python -m launch.embed --model=runs/tiny --input=my/folder --out=embeddings.npz
python -m launch.embed --model=runs/tiny --input=list.txt --layers=all --pool=none --out=x.parquet

--input is a folder, an audio file, a list of files (.txt: a path a line; .csv, .tsv, .jsonl: a
column `path`; relative paths start at the list), or the name of a data set. Killed, the same
command goes on where it was, and ends in the same bytes. Several processes (--num_processes) share
the clips, and the disk that --out is on. What the file holds:
`research/inference/embedding_files.py`. Long files: --window=30 embeds pieces of 30 s, named
FILE@START.

python -m launch.embed --model=runs/hubert --units=units/layer6 --durations --input=my/folder \
  --out=units.tsv

--units is a codebook of the model's frames (see launch.label_kmeans), or of MFCC with --model=mfcc:
--out holds the units of every clip, .tsv, .jsonl or .npz, see `research/units/files.py`.

python -m launch.embed --model=runs/vq_wav2vec --codes --input=my/folder --out=codes.tsv

--codes writes the codes of a vq-wav2vec, a line a clip, "g0-g1" a frame, see
`research/units/code_files.py`.

python -m launch.embed --model=weights/clap --text='a dog barks' --out=words.npz
python -m launch.embed --model=weights/clap --joint --input=my/folder --out=sounds.npz

Of a CLAP, --text embeds a sentence, or the lines of a file, in the space that texts and clips have
in common: the same forms of files, with the column `text`; ids are numbers of lines. --joint embeds
clips in that space, longer ones as the mean over pieces. Both have length 1 (--nonormalize: as the
projection gives them), so that sounds @ words.T are cosines. The tokenizer is that of the run, or
the one beside the weights; --tokenizer names another place.

--voice embeds the voices of clips by a model with the head x_vector, for models that are
conditioned on vectors (launch.speak).

For more clips than one machine should do: --part=I/N does every N-th batch; the parts see one disk
and may run anywhere, at any time; the one that ends last writes the file. --beam='--runner=…' runs
them as an Apache Beam pipeline, --beam_parts of them.
"""

from pathlib import Path

from absl import flags

from launch import command, outputs, pipelines
from launch.frame_inputs import open_frames
from launch.inputs import open_input

MODEL = flags.DEFINE_string(
  'model', None, 'Weights: a workdir, a checkpoint or a file; with --units also mfcc.'
)
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, e.g. audio_mae.')
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'File to write, .npz or .parquet.')
LAYERS = flags.DEFINE_string('layers', 'last', "'last', 'all', or a number (0 is the stem).")
POOL = flags.DEFINE_string(
  'pool',
  None,
  "Over time: mean, max, mean+max, mean_std, mean_bands, mean_std_bands; 'none' for every token "
  "(the model's usual one if not given: mean; BYOL-A's mean+max).",
)
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
SECONDS = flags.DEFINE_float(
  'seconds', None, 'Only the first N seconds of each clip.', lower_bound=0
)
WINDOW = flags.DEFINE_float('window', None, 'Cut clips into windows of N seconds.', lower_bound=0)
UNITS = flags.DEFINE_string('units', None, 'Write units of this codebook, not embeddings.')
DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ('float32', 'bfloat16'), 'In which the model computes what --units label.'
)
DEDUPLICATE = flags.DEFINE_bool('deduplicate', False, 'A run of one unit counts as one.')
DURATIONS = flags.DEFINE_bool('durations', False, 'Deduplicate, and say how long each unit lasts.')
CODES = flags.DEFINE_bool('codes', False, "Write the codes of the model's own codebook instead.")
TEXT = flags.DEFINE_string(
  'text', None, 'Embed a sentence, or the lines of a file, instead of --input (CLAP).'
)
JOINT = flags.DEFINE_bool('joint', False, 'Embed clips in the space of texts (CLAP).')
VOICE = flags.DEFINE_bool('voice', False, 'Embed voices, by the head x_vector: one vector a clip.')
NORMALIZE = flags.DEFINE_bool('normalize', True, 'Of --text and --joint: vectors of length 1.')
TOKENIZER = flags.DEFINE_string(
  'tokenizer', None, "Of --text: a folder or a file that came with the weights, or 'bytes'."
)
SUFFIX = flags.DEFINE_string(
  'suffix', None, 'Put behind every text (Microsoft CLAP 2023 needs one; that of a run is known).'
)
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the file if it is there.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
PART_SECONDS = flags.DEFINE_float('part_seconds', 20.0, 'How often finished embeddings are saved.')
pipelines.define_flags('batch of clips')
BEAM_PARTS = flags.DEFINE_integer('beam_parts', 16, 'Parts of the pipeline.', lower_bound=1)
command.required('model', 'out')
command.distributed_flags()


@outputs.remote('out', folder=False)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.audio import clips
  from research.errors import InputError
  from research.inference import embedding_files
  from research.inference.embedder import layer_indices
  from research.jobs import folders
  from research.units import code_files, files

  if TEXT.value is not None:
    _write_texts()
    return
  if INPUT.value is None:
    raise InputError('--input is missing: give a folder, a file, a list or a data set, or --text.')
  one = '--joint' if JOINT.value else '--voice'
  both = JOINT.value and VOICE.value
  others = UNITS.value or CODES.value or flags.FLAGS['pool'].present or both
  if (JOINT.value or VOICE.value) and others:
    raise InputError(f'{one} goes with none of --units, --codes, --pool: one vector a clip.')
  for name in ('tokenizer', 'suffix'):
    if flags.FLAGS[name].present:
      raise InputError(f'--{name} is for --text.')
  worker = pipelines.part()
  if worker[1] > 1 and OVERWRITE.value:
    raise InputError(f'--overwrite does not go with --part: delete {OUT.value} first.')
  if worker[1] > 1 and Path(str(OUT.value)).exists():
    print(f'{OUT.value!s} is there already: part {flags.FLAGS.part} has nothing to do', flush=True)
    return
  if CODES.value:
    folders.writable(str(OUT.value), code_files.SUFFIXES, OVERWRITE.value)
    for name in ('pool', 'seconds', 'layers', 'units', 'dtype', 'deduplicate', 'durations'):
      if flags.FLAGS[name].present:
        raise InputError(f'--{name} does not go with --codes, which are of every frame.')
  elif UNITS.value:
    folders.writable(str(OUT.value), files.SUFFIXES, OVERWRITE.value)
    for name in ('pool', 'seconds'):
      if flags.FLAGS[name].present:
        raise InputError(f'--{name} is for embeddings: --units are of every frame.')
  elif DEDUPLICATE.value or DURATIONS.value:
    raise InputError('--deduplicate and --durations are of units: give --units, a codebook.')
  elif flags.FLAGS['dtype'].present:
    raise InputError('--dtype is for units: give --units, a codebook.')
  elif MODEL.value == 'mfcc':
    raise InputError('--model=mfcc is for units: give --units, a codebook.')
  else:
    embedding_files.check_out(str(OUT.value), OVERWRITE.value)
  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  if flags.FLAGS.beam is not None:
    pipelines.run('launch.embed', BEAM_PARTS.value, file=Path(str(OUT.value)))
    print(f'{OUT.value!s}: written', flush=True)
    return
  if WINDOW.value:
    source = clips.windows(source, WINDOW.value)
  first = jax.process_index() == 0
  if first:
    folders.folder(Path(str(OUT.value)).parent, 'out')
  if UNITS.value:
    _write_units(source, first, worker)
    return
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  if CODES.value:
    _write_codes(loaded, source, worker)
    return
  if JOINT.value:
    from research.inference.joint import joint_embedder

    embedder = joint_embedder(loaded, NORMALIZE.value)
  elif VOICE.value:
    from research.inference.speakers import voice_embedder

    embedder = voice_embedder(loaded)
  else:
    embedder = loaded.embedder
  done = embedding_files.export(
    embedder,
    source,
    str(OUT.value),
    layers=layer_indices(LAYERS.value, embedder.num_layers()),
    pool=POOL.value,
    seconds=SECONDS.value,
    about={'model': loaded.name, 'origin': loaded.origin}
    | ({'space': 'joint', 'normalized': NORMALIZE.value} if JOINT.value else {}),
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
    part_seconds=PART_SECONDS.value,
    worker=worker,
  )
  if 'clips' not in done and worker[1] > 1:
    _part_ended()
  elif first:
    again = f' ({done["resumed"]} were done before)' if done['resumed'] else ''
    left = f', {done["skipped"]} left out (named in the file)' if done['skipped'] else ''
    print(f'{OUT.value!s}: {done["clips"]} clips{again}{left}', flush=True)


def _write_texts():
  """Embeddings of --text into the file."""
  import jax

  from research import weights
  from research.errors import InputError
  from research.inference import embedding_files, joint
  from research.jobs import folders
  from research.weights import text_towers

  clips = (
    'input',
    'split',
    'seconds',
    'window',
    'layers',
    'pool',
    'units',
    'codes',
    'joint',
    'voice',
  )
  for name in (*clips, 'part', 'beam'):
    if flags.FLAGS[name].present:
      raise InputError(f'--{name} is for clips and does not go with --text.')
  if jax.process_count() > 1:
    raise InputError('--text runs in one process: start it on one host.')
  out = embedding_files.check_out(str(OUT.value), OVERWRITE.value)
  ids, texts = joint.read_texts(str(TEXT.value))
  folders.folder(out.parent, 'out')
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  joint.check(loaded)
  tokenizer, suffix = text_towers.spelling(str(MODEL.value), TOKENIZER.value, SUFFIX.value)
  count = joint.export_texts(
    loaded, tokenizer, texts, out, ids=ids, suffix=suffix, normalize=NORMALIZE.value,
    about={'model': loaded.name, 'origin': loaded.origin}, overwrite=OVERWRITE.value,
  )  # fmt: skip
  print(f'{OUT.value!s}: {count} texts', flush=True)


def _part_ended():
  print(
    f'Part {flags.FLAGS.part} is done; the part that ends last writes {OUT.value!s}', flush=True
  )


def _write_units(source, first, worker):
  """Units of every clip into the file; they lie in a folder beside it until all are there."""
  import shutil

  from research import distributed
  from research.audio.units import Units
  from research.errors import InputError
  from research.units import files, labelling
  from research.units.codebook import Codebook

  codebook = Codebook.open(str(UNITS.value))
  layer, dtype = (f.value if flags.FLAGS[f.name].present else None for f in (LAYERS, DTYPE))
  grid, _ = open_frames(
    str(MODEL.value), codebook, release=RELEASE.value, layer=layer, dtype=dtype, layer_flag='layers'
  )
  out = Path(str(OUT.value))
  folder = out.with_name(f'{out.name}.units')
  files.check_names(source, out.suffix)
  if not distributed.agree(folder.is_dir()):
    labelling.label(
      grid, codebook, source, folder,
      max_bad_fraction=MAX_BAD.value, part_seconds=PART_SECONDS.value, worker=worker,
    )  # fmt: skip
  if not first:
    return
  if worker[1] > 1 and not folder.is_dir():
    _part_ended()
    return
  units = Units.open(folder)
  ids = [source.id(i) for i in range(len(source))]
  own = units.about['fingerprint'] == codebook.fingerprint(grid) and set(units.ids) <= set(ids)
  if not own:
    raise InputError(f'{folder} is of another job that was not finished: delete it.')
  form = dict(deduplicate=DEDUPLICATE.value, durations=DURATIONS.value)
  done = files.write(units, out, **form)
  left = len(units.about['skipped'])
  shutil.rmtree(folder)
  more = f', {left} left out' if left else ''
  print(f'{out}: {done["clips"]} clips, {done["units"]} units{more}', flush=True)


def _write_codes(loaded, source, worker):
  """Codes of every clip into the file."""
  from research.units import code_files

  done = code_files.write_codes(
    loaded.model,
    loaded.variables,
    source,
    str(OUT.value),
    fingerprint=loaded.fingerprint,
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
    part_seconds=PART_SECONDS.value,
    worker=worker,
  )
  if not done and worker[1] > 1:
    _part_ended()
  if done:
    left = f', {len(done["skipped"])} left out' if done['skipped'] else ''
    print(f'{OUT.value!s}: {done["clips"]} clips, {done["frames"]} frames{left}', flush=True)
    for name, reason in done['skipped'].items():
      command.say(f'  {name}: {reason}')


if __name__ == '__main__':
  command.run(main)
