"""Generated audio as files: a resumable list of requests in, audio files and their list out.

A row of the list is a dict with any of `id`, `seconds`, `seed`, `prompt`, `source` (paths), `units`
(numbers), `recording` (of which it says what is said), labels by name (`speaker`), texts, and
vectors (numbers, or paths of recordings). Killed, the same call goes on: finished blocks of rows
lie in `<list>.parts/` (`research/jobs/parts.py`). `files.jsonl` lists what was made, in order.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research import distributed
from research.audio import tables
from research.audio.decode import AudioError, decode
from research.audio.example import Example
from research.audio.folder import EXTENSIONS
from research.errors import InputError, listed, unknown
from research.inference import clip_rows, codec, generators, signal_files
from research.inference.generators import Noted, Request
from research.jobs import folders
from research.jobs.parts import Job, Parts, key

Row = dict[str, Any]
# Where codes of all requests lie.
CODES = 'codes.tsv'
FIELDS = ('id', 'seconds', 'seed', 'prompt', 'source', 'units', 'recording')
# Of the fields, and of the vectors that models take, those that may be paths.
PATHS = ('prompt', 'source', 'voice')
# A recording, or words about one.
CLAP = 'clap'


def read_list(path: str | os.PathLike) -> list[Row]:
  """Rows of a list of requests: a .jsonl with an object a line, or a .txt with the path of a source
  a line. Paths are relative to the list.

  Raises:
    InputError: it cannot be read, or a line is no request.
  """
  place = Path(path).expanduser()
  try:
    lines = place.read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'The list {str(place)!r} cannot be read: {error}.') from None
  found = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    row: Any = {'source': line.strip()}
    if place.suffix != '.txt':
      try:
        row = json.loads(line)
      except (ValueError, RecursionError) as error:
        raise InputError(f'Line {number} of {str(place)!r} is no JSON: {error}.') from None
    if not isinstance(row, dict):
      raise InputError(f'Line {number} of {str(place)!r} is {line[:60]!r}: expected an object.')
    for name in (*PATHS, CLAP):
      words = name == CLAP and Path(str(row.get(name))).suffix.lower() not in EXTENSIONS
      if isinstance(row.get(name), str) and not words:
        row[name] = str(place.parent / str(row[name]))
    found.append(row)
  if not found:
    raise InputError(f'The list {str(place)!r} is empty: give a request a line.')
  return found


def read_texts(path: str | os.PathLike) -> list[Row]:
  """Rows of a list of texts that are said: a .txt with a text a line, or a .csv, .tsv or .jsonl
  with a column text, and any of the fields of a request, as id and voice. Paths are relative to
  the list.

  Raises:
    InputError: it cannot be read, or has no texts.
  """
  place = Path(path).expanduser()
  if place.suffix == '.txt':
    found: list[Row] = [{'text': line} for _, line in tables.lines(place)]
  elif place.suffix in ('.csv', '.tsv', '.jsonl'):
    found = []
    for number, row in tables.rows(place):
      if not isinstance(row.get('text'), str):
        raise InputError(f'{place}, line {number}: there is no text; it has {listed(row)}.')
      if place.suffix != '.jsonl':
        row = _numbers({name: value for name, value in row.items() if value})
      for name in PATHS:
        if isinstance(row.get(name), str):
          row[name] = str(place.parent / row[name])
      # A line without a text is left out alone.
      found.append({**row, 'text': row.get('text', '')})
  else:
    raise InputError(
      f'{place} is no list of texts: give a .txt with a text a line, or a .csv, .tsv or .jsonl '
      'with a column text.'
    )
  if not found:
    raise InputError(f'The list {str(place)!r} is empty: give a text a line.')
  return found


def _numbers(row: Row) -> Row:
  """Fields of a table that are numbers as such."""
  found = dict(row)
  for name, kind in (('seed', int), ('seconds', float)):
    # `completed` says what is wrong with others.
    with contextlib.suppress(ValueError):
      found |= {name: kind(row[name])} if name in row else {}
  return found


def completed(rows: Sequence[Row], labels: Mapping[str, Any], **defaults: Any) -> list[Row]:
  """Rows with all that they leave out: an id of their own, defaults, seeds that count on.

  Args:
    rows: as of `read_list`.
    labels: of the model, by name; and texts.
    **defaults: `seconds`, `seed` (of the first row) and labels.

  Raises:
    InputError: an unknown field, a value of another kind, or an id twice.
  """
  found, seen = [], set()
  for i, row in enumerate(rows):
    for name in row:
      if name not in (*FIELDS, *labels):
        raise unknown('field of a request', name, (*FIELDS, *labels))
    base = int(defaults.get('seed') or 0)
    whole = {**defaults, 'seed': base + i, **{k: v for k, v in row.items() if v is not None}}
    stem = whole.get('source') or whole.get('prompt')
    name = str(row.get('id') or (Path(str(stem)).stem if stem else f'{i:04d}'))
    if name in seen and 'id' not in row:
      name = f'{name}_{i}'
    if name in seen or signal_files.stem(name) != name:
      raise InputError(
        f'The request {name!r} is there twice, or is no name of a file: every request needs an id '
        'of its own, without an ending.'
      )
    seen.add(name)
    seed, seconds = whole['seed'], whole.get('seconds')
    if type(seed) is not int or not 0 <= seed < 2**32:
      raise InputError(f'The request {name!r} has seed={seed!r}: give a whole number from 0.')
    if seconds is not None and (type(seconds) not in (int, float) or not 0 < seconds < 1e6):
      raise InputError(f'The request {name!r} has seconds={seconds!r}: give a number above 0.')
    found.append({**whole, 'id': name})
  return found


def request(generator: Any, row: Row) -> Request:
  """What a row asks of a generator; paths are read.

  Raises:
    InputError: the model cannot be asked for it.
    AudioError: a recording that cannot be read.
  """
  rate, generation = generator.model.frontend.sample_rate, generator.generation

  def samples(name: str) -> np.ndarray | None:
    path = row.get(name)
    if path is None:
      return None
    return decode(Example(str(path), {}, path=str(path)), sample_rate=rate)

  own = (*FIELDS, *generation.vectors)
  given = {k: v for k, v in row.items() if k not in own and v is not None}
  vectors = {k: generator.vector(k, row[k]) for k in generation.vectors if row.get(k) is not None}
  prompt, seconds = samples('prompt'), row.get('seconds')
  length = None
  if generation.source == 'none' and not (generation.spelt and seconds is None):
    length = round((generators.SECONDS if seconds is None else seconds) * rate)
    length += 0 if prompt is None else len(prompt)
  units = row.get('units')
  labels, texts = generators.conditions(generation, given)
  return Request(
    samples=length,
    seed=row['seed'],
    prompt=prompt,
    source=samples('source'),
    units=None if units is None else np.asarray(units, np.int32),
    labels=labels,
    texts=texts,
    vectors=vectors,
  )


def generate_files(
  generator: Any,
  rows: Sequence[Row],
  out: str | os.PathLike,
  *,
  format: str = 'wav',
  block: int = 16,
  about: Mapping[str, Any] | None = None,
  overwrite: bool = False,
) -> list[Row]:
  """Writes <out>/<id>.<format> for every row, and files.jsonl; where the generator gives codes,
  their lines in codes.tsv, as `units/code_files.py` has them.

  Args:
    generator: of `generators.make`.
    rows: of `completed`.
    out: a folder.
    format: 'wav' (floats) or 'flac'.
    block: rows that are generated at once; a killed job loses one block.
    about: what else the result depends on: an unfinished job is only gone on with if it is equal.
    overwrite: whether a finished folder may be done again.

  Returns:
    {id, seconds, file, …} of every row, or {id, error} where it could not be made; none on
    processes after the first.

  Raises:
    InputError: the folder is finished already, nothing could be made, or the disk is full.
  """
  place = folders.folder(out, 'out')
  listed = place / signal_files.LIST
  if listed.exists() and not overwrite:
    raise InputError(f'{listed} is there already: give another --out, or --overwrite.')
  model = generator.model
  todo = [list(rows[i : i + block]) for i in range(0, len(rows), block)]
  parts = Parts(listed, dict(about or {}, format=format, rows=key(list(rows))))
  job = Job(
    parts, [key(each) for each in todo], [len(each) for each in todo], out=place,
    process=distributed.process(), part_seconds=0.0,
  )  # fmt: skip

  def work(numbers: list[int]) -> Iterator[dict[str, np.ndarray]]:
    for number in numbers:
      asked: dict[int, Request] = {}
      errors: dict[int, str] = {}
      for i, row in enumerate(todo[number]):
        try:
          asked[i] = request(generator, row)
          generators.check(generator.generation, [asked[i]])
        except (InputError, AudioError) as error:
          asked.pop(i, None)
          errors[i] = str(error)
      made = dict(zip(asked, generator(list(asked.values())))) if asked else {}
      lines = ''
      for i, row in enumerate(todo[number]):
        said = {k: v for k, v in row.items() if v is not None}
        if i in errors:
          lines += clip_rows.line({**said, 'error': errors[i]})
        else:
          lines += clip_rows.line(said | _write(place, row['id'], made[i], model, format))
      yield {'lines': np.frombuffer(lines.encode(errors='surrogateescape'), np.uint8)}

  def finish() -> list[Row]:
    order = {row['id']: i for i, row in enumerate(rows)}
    found = sorted(clip_rows.rows_of(parts, job.keys), key=lambda row: order[row['id']])
    if all('error' in row for row in found):
      parts.remove()
      raise InputError(f'Nothing could be generated; {found[0]["id"]}: {found[0]["error"]}')
    # Codes lie in the file of all.
    lines = [(row['id'], row.pop('codes')) for row in found if 'codes' in row]
    if lines:
      text = ''.join(f'{name}\t{words}\n' for name, words in lines)
      folders.replace_text(place / CODES, text)
    folders.replace_text(listed, ''.join(clip_rows.jsonl(found)))
    parts.remove()
    return found

  return job.run(work, finish, 'generating') or []


def _write(place: Path, name: str, made: Any, model: Any, format: str) -> Row:
  if isinstance(made, Noted):
    return {**_write(place, name, made.result, model, format), **made.said}
  audio, rate = made, model.frontend.sample_rate
  if audio.dtype.kind == 'i':
    seconds = round(len(audio) * model.frontend.hop_samples / rate, 4)
    return {'seconds': seconds, 'file': CODES, 'codes': codec.words(audio)}
  peak = float(np.abs(audio).max()) if len(audio) else 0.0
  scale = 1.0 / peak if format == 'flac' and peak > 1 else 1.0
  file = f'{name}.{format}'
  signal_files.write(place / file, audio * np.float32(scale), rate, format)
  found: Row = {'seconds': round(len(audio) / rate, 4), 'file': file}
  return found if scale == 1.0 else {**found, 'scale': round(scale, 6)}
