"""Makes data sets of mixed speech by published or seeded recipes, as SUPERB's data sets are read.

  python -m launch.make_mixtures --recipe=small_mixtures --source=/data/speech --out=/data/mixed
  python -m launch.make_mixtures --recipe=small_noisy --source=/data/speech --noise=esc10 \\
    --data_root=/data --out=/data/noisy --args='{"train": 1000, "seed": 1}'
  python -m launch.make_mixtures --recipe=small_commands --out=/data/commands
  python -m launch.make_mixtures --recipe=libri2mix --source=/data/LibriSpeech \\
    --out=/data/Libri2Mix --encoding=wav \\
    --args='{"metadata": "LibriMix/metadata/Libri2Mix", "mode": "min"}'

The same data, recipe and arguments give the same bytes. A run that was interrupted goes on when it
is started again; the folder has its name when it is complete. Recipes and their arguments:
research/audio/README.md.
"""

import json
from typing import Any

from absl import flags

from launch import command
from research.audio import mixtures
from research.audio.mixtures import writing
from research.audio.sources import Source, open_source
from research.errors import InputError
from research.jobs import folders

_RECIPE = flags.DEFINE_string('recipe', '', ', '.join(mixtures.RECIPES))
_SOURCE = flags.DEFINE_string('source', None, 'the speech: a folder, a manifest or a name')
_NOISE = flags.DEFINE_string('noise', None, 'the noise, as --source')
_OUT = flags.DEFINE_string('out', '', 'a new folder')
_ARGS = flags.DEFINE_string('args', '{}', 'arguments of the recipe as JSON: {"train": 300, …}')
_DATA_ROOT = flags.DEFINE_string('data_root', None, 'folder that named data sets are looked for in')
_ENCODING = flags.DEFINE_string('encoding', 'flac', 'flac or wav')
_NUM_WORKERS = flags.DEFINE_integer('num_workers', 2, 'threads that read and mix')


def main(argv):
  del argv
  out = folders.local(_OUT.value, 'out').expanduser()
  recipe = mixtures.recipe(_RECIPE.value, _open(_SOURCE.value), _open(_NOISE.value), **_arguments())
  count = writing.write(
    recipe,
    out,
    encoding=_ENCODING.value,
    num_workers=_NUM_WORKERS.value,
    text=f'{recipe.name}: {len(recipe.items)} items',
  )
  print(f'{count} items of {recipe.name} in {out}')


def _open(spec: str | None) -> Source | str | None:
  if spec is None:
    return None
  if _RECIPE.value in mixtures.FOLDERS:
    return str(folders.local(spec, 'source').expanduser())
  return open_source(spec, root=_DATA_ROOT.value)


def _arguments() -> dict[str, Any]:
  try:
    found = json.loads(_ARGS.value)
  except ValueError as error:
    raise InputError(f'--args is not JSON ({error}); write it as in {{"train": 300}}.') from None
  if not isinstance(found, dict):
    raise InputError(f'--args={_ARGS.value}: expected a JSON object, as {{"train": 300}}.')
  return found


command.required('recipe', 'out')

if __name__ == '__main__':
  command.run(main)
