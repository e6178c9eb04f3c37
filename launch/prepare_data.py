"""Writes any audio source as ArrayRecord shards, which are read several times faster than files.

  python -m launch.prepare_data --source=/data/my_audio --out=/data/my_shards
  python -m launch.prepare_data --source=esc50 --data_root=/data --out=/data/esc50 --encoding=flac
  python -m launch.prepare_data --source=tfds:speech_commands --out=/data/commands  # [tfds] extra

A run that was interrupted goes on when it is started again: finished shards are verified and kept.
Large data are prepared on several machines that see one disk: each runs the command with its own
--part=I/N (I from 0), at any time, and the last to end writes the index. Processes that run
together (--num_processes) share the shards too.

A manifest or folder of millions of files opens at once from an index, which also holds durations:

  python -m launch.prepare_data --source=/data/my_audio --out=/data/my_index --index_only

Train on the result with `--config.data.source=/data/my_shards`.
"""

import pathlib
from typing import Any

from absl import flags
from rich import progress as rich_progress
from rich.markup import escape

from launch import command, pipelines
from research.audio import index, prepare, shards, tfds
from research.audio.sources import Source, open_source
from research.errors import InputError, printable
from research.jobs import folders

_SOURCE = flags.DEFINE_string('source', '', 'a folder, a manifest, a name (esc50, …) or tfds:NAME')
_OUT = flags.DEFINE_string('out', '', 'folder for the shards')
_DATA_ROOT = flags.DEFINE_string('data_root', None, 'folder that named data sets are looked for in')
_SPLIT = flags.DEFINE_string('split', None, 'only this split')
_SHARDS = flags.DEFINE_integer('shards', None, 'number of shards; by default from --shard_mib')
_SHARD_MIB = flags.DEFINE_float('shard_mib', 256.0, 'size of a shard, MiB')
_SAMPLE_RATE = flags.DEFINE_integer('sample_rate', None, 'Hz; 16000 unless --encoding=copy')
_ENCODING = flags.DEFINE_string('encoding', 'pcm16', 'pcm16 (fastest), flac (smaller) or copy')
_CUT_SECONDS = flags.DEFINE_float('cut_seconds', None, 'cut long files into clips of this length')
_MAX_BAD = flags.DEFINE_float('max_bad_fraction', 0.01, 'of the files; more of them stop the run')
_INDEX_ONLY = flags.DEFINE_bool('index_only', False, 'write an index of the files, no shards')
_NUM_WORKERS = flags.DEFINE_integer('num_workers', 2, 'threads that decode')


def main(argv):
  del argv
  process, part = _process(), pipelines.part()
  settings = prepare.Settings(
    encoding=_ENCODING.value,
    sample_rate=_SAMPLE_RATE.value or (None if _ENCODING.value == 'copy' else 16000),
    num_workers=_NUM_WORKERS.value,
  )
  if _SHARD_MIB.value <= 0 or (_SHARDS.value is not None and _SHARDS.value < 1):
    raise InputError('--shards and --shard_mib are to be above 0.')
  source = _open()
  if _INDEX_ONLY.value:
    _write_index(source)
    return
  count = _SHARDS.value or prepare.shard_count(source, settings, _SHARD_MIB.value)
  out = folders.local(_OUT.value, 'out').expanduser()
  if flags.FLAGS.beam is not None:
    count = min(count, len(source))
    pipelines.run('launch.prepare_data', count, own=[f'--shards={count}'])
    _report(source, shards.read_index(out), out)
    return
  mine = len(range(part[0], min(count, len(source)), part[1]))
  with rich_progress.Progress(
    *rich_progress.Progress.get_default_columns(),
    rich_progress.MofNCompleteColumn(),
    disable=bool(process[0]),
  ) as bar:
    title = escape(printable(f'{source.name}: {mine} shards'))
    task = bar.add_task(title, total=len(source) // part[1])
    written = prepare.prepare(
      source,
      out,
      count=count,
      settings=settings,
      max_bad_fraction=_MAX_BAD.value,
      progress=lambda n: bar.advance(task, n),
      process=process,
      part=part,
    )
  if process[0]:
    return
  if not written:
    print(
      f'Part {flags.FLAGS.part}: {mine} shards in {out}; the part that ends last writes the index'
    )
    return
  _report(source, written, out)


def _report(source: Source, written: dict[str, Any], out: pathlib.Path) -> None:
  """Prints what was made."""
  left_out, parts = len(source) - written['count'], written['shards']
  size = sum(s['bytes'] for s in parts) / prepare.MIB
  print(
    f'{written["count"]} clips, {written["seconds"] / 3600:.2f} h, {len(parts)} shards, '
    f'{size:.1f} MiB in {out}'
    + (f'; {left_out} bad files, listed in {out / "bad_files.jsonl"}' if left_out else '')
  )


def _process() -> tuple[int, int]:
  """(index, count) of the processes that share the shards; JAX is only started for several."""
  if not (flags.FLAGS.distributed or flags.FLAGS.num_processes):
    return 0, 1
  command.start_jax()
  from research import distributed

  return distributed.process()


def _write_index(source: Source) -> None:
  """Writes the index of a source of audio files."""
  out = folders.folder(folders.local(_OUT.value, 'out').expanduser(), 'out')
  with folders.disk_errors(out, out):
    index.write_files(source, out / index.FILE)
  seconds = source.durations()
  unread = int((seconds == 0).sum())
  print(
    f'{len(source)} clips, {seconds.sum() / 3600:.2f} h, indexed in {out / index.FILE}'
    + (f'; {unread} of them cannot be opened' if unread else '')
  )


def _open() -> Source:
  name = _SOURCE.value
  folders.local(_OUT.value, 'out')  # before anything is read
  if name.startswith('tfds:'):
    tfds.prepare(name.removeprefix('tfds:'), _DATA_ROOT.value)
  out, here = pathlib.Path(_OUT.value).resolve(), pathlib.Path(name).resolve()
  # An index beside the audio would be read in its place when it is to be made again.
  inside = out == here or (here in out.parents and not _INDEX_ONLY.value)
  if here.is_dir() and inside:
    raise InputError(f'--out={_OUT.value} lies in the source {name}: give a folder outside of it.')
  return open_source(_spec(), split=_SPLIT.value, root=_DATA_ROOT.value)


def _spec() -> str | dict[str, Any]:
  """The source, as `open_source` takes it; JSON is taken as it is."""
  args: dict[str, Any] = {}
  if _CUT_SECONDS.value is not None:
    args['cut_seconds'] = _CUT_SECONDS.value
  if _SOURCE.value.startswith('tfds:'):
    args['data_dir'] = _DATA_ROOT.value
  return {'name': _SOURCE.value, 'args': args} if args else _SOURCE.value


pipelines.define_flags('shard')
command.required('source', 'out')
command.distributed_flags()

if __name__ == '__main__':
  command.run(main)
