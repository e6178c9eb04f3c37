"""Carries out a recipe: one resumable job whose folder is there whole or not at all.

Files are made in `<out>.parts`, 16 items a batch; killed at any moment, the same command goes on
and ends in the same bytes. When all are there the lists are written and the folder gets its name.
"""

import concurrent.futures
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import soundfile

from research.audio.mixtures import signals
from research.errors import InputError, unknown
from research.jobs import folders
from research.jobs.parts import Job, Parts, key

ENCODINGS = ('flac', 'wav')
# Description of a finished folder.
ABOUT = 'recipe.json'
# Items of a batch, the unit in which a job goes on.
BATCH = 16

# What decides an item; JSON-able.
Item = dict[str, Any]
# Path without its ending -> samples; and what the lists say of the item, JSON-able.
Made = tuple[dict[str, np.ndarray], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What to make.

  Attributes:
    name: name of the recipe.
    settings: what decides the files, with the items; JSON-able.
    items: one for every mixture.
    make: the files of an item at `sample_rate`, and what the lists need of it.
    lists: path -> text of all list files, of the items in order; the ending of audio files is
      given.
    sample_rate: Hz.
  """

  name: str
  settings: Mapping[str, Any]
  items: Sequence[Item]
  make: Callable[[Item], Made]
  lists: Callable[[list[dict[str, Any]], str], Mapping[str, str]]
  sample_rate: int = 16000


def write(
  recipe: Recipe,
  out: str | os.PathLike,
  *,
  encoding: str = 'flac',
  num_workers: int = 2,
  process: tuple[int, int] = (0, 1),
  text: str | None = None,
) -> int:
  """Makes the folder `out`; returns the number of items, 0 on later processes.

  A folder that the same recipe has made is left as it is.

  Args:
    recipe: what to make.
    out: a new folder.
    encoding: 'flac' or 'wav'; 16-bit samples, the same in both.
    num_workers: threads that read and mix.
    process: (index, count) of the processes that share the items.
    text: what a progress bar says.

  Raises:
    InputError: the folder holds something else, a clip cannot be read, or the disk is full.
  """
  if encoding not in ENCODINGS:
    raise unknown('encoding', encoding, ENCODINGS)
  if not recipe.items:
    raise InputError(f'Recipe {recipe.name} makes nothing of these clips and settings.')
  out = pathlib.Path(out)
  settings = json.loads(
    json.dumps({'recipe': recipe.name, **recipe.settings, 'encoding': encoding})
  )
  if _is_made(out, settings):
    return 0 if process[0] else len(recipe.items)
  batches = [recipe.items[i : i + BATCH] for i in range(0, len(recipe.items), BATCH)]
  keys = [key(settings, number, batch) for number, batch in enumerate(batches)]
  store = _Files(out, {**settings, 'items': key(list(recipe.items))}, encoding, recipe.sample_rate)
  sizes = [len(batch) for batch in batches]
  job = Job(store, keys, sizes, out=out, process=process, part_seconds=0.0)

  def work(numbers: list[int]) -> Iterator[dict[str, Any]]:
    with concurrent.futures.ThreadPoolExecutor(max(1, num_workers)) as pool:
      for number in numbers:
        made = list(pool.map(lambda item: _encoded(recipe, item, encoding), batches[number]))
        yield {'files': [files for files, _ in made], 'facts': [facts for _, facts in made]}

  def finish() -> int:
    facts = [fact for name in keys for fact in store.read_facts(name)]
    for path, content in recipe.lists(facts, f'.{encoding}').items():
      target = store.tree / path
      target.parent.mkdir(parents=True, exist_ok=True)
      folders.replace_text(target, content)
    about = {**settings, 'count': len(facts), 'sample_rate': recipe.sample_rate}
    folders.replace_text(store.tree / ABOUT, json.dumps(about, indent=1) + '\n')
    if out.is_dir():
      out.rmdir()  # empty, as has been checked
    os.replace(store.tree, out)
    store.remove()
    return len(facts)

  return job.run(work, finish, text) or 0


def _is_made(out: pathlib.Path, settings: Mapping[str, Any]) -> bool:
  """Whether the folder is what the recipe makes.

  Raises:
    InputError: it holds something else.
  """
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return False
  try:
    found = json.loads((out / ABOUT).read_text(encoding='utf-8'))
  except (OSError, ValueError):
    raise InputError(f'{out} is there already and is not from here; give another --out.') from None
  different = [name for name, value in settings.items() if found.get(name) != value]
  if different:
    raise InputError(
      f'{out} was made with another {", ".join(different)}; give another --out, or remove it.'
    )
  return True


def _encoded(recipe: Recipe, item: Item, encoding: str) -> tuple[dict[str, bytes], dict[str, Any]]:
  arrays, facts = recipe.make(item)
  files = {}
  for path, audio in arrays.items():
    buffer = io.BytesIO()
    samples = signals.pcm16(audio)
    soundfile.write(buffer, samples, recipe.sample_rate, format=encoding.upper(), subtype='PCM_16')
    files[f'{path}.{encoding}'] = buffer.getvalue()
  return files, facts


class _Files(Parts):
  """Finished batches: their files in a tree, and a note of each."""

  def __init__(
    self, out: pathlib.Path, settings: Mapping[str, Any], encoding: str, sample_rate: int
  ):
    super().__init__(out, settings)
    self.tree = self.folder / 'tree'

  def files(self) -> list[pathlib.Path]:
    """The notes of finished batches."""
    return sorted(self.folder.glob('batch_*.json'))

  def done(self, keys: Collection[str]) -> set[str]:
    """Batches with a note whose files are there in full."""
    return {name for name in keys if self._note(name).is_file() and self._whole(name)}

  def write(self, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the files of batches, then their notes."""
    for name, result in results.items():
      sizes = {}
      for path, data in ((p, d) for files in result['files'] for p, d in files.items()):
        target = self.tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f'{target.name}.partial')
        partial.write_bytes(data)
        os.replace(partial, target)
        sizes[path] = len(data)
      folders.replace_text(self._note(name), json.dumps({'sizes': sizes, 'facts': result['facts']}))

  def read_facts(self, name: str) -> list[dict[str, Any]]:
    """What the lists need of the items of a batch."""
    return self._read(name)['facts']

  def _note(self, name: str) -> pathlib.Path:
    return self.folder / f'batch_{name}.json'

  def _read(self, name: str) -> dict[str, Any]:
    try:
      return json.loads(self._note(name).read_text(encoding='utf-8'))
    except ValueError:
      return {'sizes': {'?': -1}, 'facts': []}

  def _whole(self, name: str) -> bool:
    for path, size in self._read(name)['sizes'].items():
      try:
        if (self.tree / path).stat().st_size != size:
          return False
      except OSError:
        return False
    return True
