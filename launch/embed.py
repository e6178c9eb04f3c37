"""Embeddings of audio files into one file.

python -m launch.embed --model=runs/tiny --input=my/folder --out=embeddings.npz
python -m launch.embed --model=runs/tiny --input=list.txt --layers=all --pool=none --out=x.parquet

--input is a folder, an audio file, a list of files (.txt: a path a line; .csv: a column `path`;
relative paths start at the list), or the name of a data set. Killed, the same command goes on where
it was. What the file holds: `research/evals/export.py`. Long files: --window=30 embeds pieces of
30 s, named FILE@START.
"""

from absl import flags

from launch import command
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, e.g. audio_mae.')
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a .txt or .csv list, or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'File to write, .npz or .parquet.')
LAYERS = flags.DEFINE_string('layers', 'last', "'last', 'all', or a number (0 is the stem).")
POOL = flags.DEFINE_string(
  'pool',
  'mean',
  "Over time: mean, max, mean+max, mean_std, mean_bands, mean_std_bands; 'none' for every token.",
)
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
SECONDS = flags.DEFINE_float(
  'seconds', None, 'Only so much of each clip, from its start.', lower_bound=0
)
WINDOW = flags.DEFINE_float(
  'window', None, 'Cut clips into windows of so many seconds.', lower_bound=0
)
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the file if it is there.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Share of unreadable files that stops the run.'
)
PART_SECONDS = flags.DEFINE_float('part_seconds', 20.0, 'How often finished embeddings are saved.')
command.required('model', 'input', 'out')
command.distributed_flags()


def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.audio import clips
  from research.evals import embeddings, export

  export.check_out(str(OUT.value), OVERWRITE.value)
  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  if WINDOW.value:
    source = clips.windows(source, WINDOW.value)
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  embedder = embeddings.from_model(loaded.model, loaded.variables, loaded.name, loaded.fingerprint)
  done = export.export(
    embedder,
    source,
    str(OUT.value),
    layers=embeddings.layer_indices(LAYERS.value, embedder.num_layers()),
    pool=POOL.value,
    seconds=SECONDS.value,
    about={'model': loaded.name, 'origin': loaded.origin},
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
    part_seconds=PART_SECONDS.value,
  )
  if jax.process_index() == 0:
    again = f' ({done["resumed"]} were done before)' if done['resumed'] else ''
    left = f', {done["skipped"]} left out (named in the file)' if done['skipped'] else ''
    print(f'{OUT.value!s}: {done["clips"]} clips{again}{left}', flush=True)


if __name__ == '__main__':
  command.run(main)
