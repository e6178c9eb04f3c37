"""Damaged files, a full disk, one that only reads, one that fails and one that is slow."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import time

import numpy as np
import pytest

from tests.chaos import commands, kills_chaos
from tests.multiprocess import group

# -- Damage ------------------------------------------------------------------------------------


def arrays_of(folder):
  """Files of a checkpoint that hold what a run needs; the largest hold the arrays."""
  files = [p for p in folder.rglob('*') if p.is_file() and p.stat().st_size]
  left_out = ('commit_success.txt', '_sharding')  # which our own reader does not need
  return sorted(p for p in files if p.name not in left_out and p.parent.name != 'metrics')


@pytest.mark.parametrize('how', ['truncated', 'bit', 'zeros'])
def test_the_newest_checkpoint_is_damaged(how, whole, place, rng, table):
  """The one before is used and that is said; or the damage was in what nobody reads."""
  expected, _, out = whole()
  used, tries = {'newest': 0, 'before': 0}, 5
  for i in range(tries):
    run = commands.copy(out, place / f'run{i}')
    files = arrays_of(run / 'checkpoints' / str(commands.STEPS))
    # Half of them where the arrays are: by size.
    sizes = [p.stat().st_size for p in files] if i % 2 else None
    file = rng.choices(files, sizes)[0]
    commands.damage(file, how, rng)
    again = commands.training(run)
    ended = again.run()
    assert all(end.code == 0 for end in ended), ended
    if file.name.startswith('_') and file.exists():
      # What the restore does not read, and our reading below does.
      shutil.copy(out / file.relative_to(run), file)
    found, said = again.same(again.out), ended[0].out
    aside = (run / 'unreadable' / str(commands.STEPS)).is_dir()
    used['before' if aside else 'newest'] += 1
    assert aside == ('cannot be read' in said), (file, said)
    found['names'] = [name for name in found['names'] if name != 'unreadable']
    assert found['arrays'] == expected['arrays'], (file, aside)
    assert found['position'] == expected['position'] and found['rows'] == expected['rows'], file
    shutil.rmtree(run)
  ended = (
    f'equal bits: from the one before, said ({used["before"]}), or harmless ({used["newest"]})'
  )
  table(f'newest checkpoint: {how}', 'a file of it', tries, ended)


def test_all_checkpoints_are_damaged(whole, place, rng, table):
  _, _, out = whole()
  run = commands.copy(out, place / 'run')
  steps = group.steps_saved(run)
  for step in steps:
    folder = run / 'checkpoints' / str(step)
    whole_arrays, _ = commands.arrays(folder)
    file = max(arrays_of(folder / 'state'), key=lambda p: p.stat().st_size)
    data = file.read_bytes()
    # Some bits lie where nothing is.
    while _same(folder, whole_arrays):
      file.write_bytes(data)
      commands.damage(file, 'bit', rng)
  before = {p.read_bytes() for s in steps for p in arrays_of(run / 'checkpoints' / str(s))}
  started = time.monotonic()
  said = commands.refused(commands.training(run).run(), 'None of the checkpoints')
  seconds = time.monotonic() - started
  kept = {p.read_bytes() for s in steps for p in arrays_of(run / 'unreadable' / str(s))}
  assert before == kept
  commands.refused(commands.training(run).run(), 'unreadable')
  table('all checkpoints: bit', 'arrays', 2, f'refused: {short(said)}; nothing deleted', seconds)


def _same(folder, wanted):
  try:
    found, _ = commands.arrays(folder)
  except Exception:
    return False
  return all(np.array_equal(found[name], x, equal_nan=True) for name, x in wanted.items())


def short(said):
  """The beginning of a sentence, without folders."""
  words = [w.rsplit('/', 1)[-1] if '/' in w else w for w in said.split()]
  text = ' '.join(words)
  return text if len(text) < 100 else f'{text[:97]}…'


@pytest.mark.parametrize('how', ['truncated', 'bit'])
def test_shards_are_damaged(how, place, rng, table):
  """Training on them refuses or lists what it cannot read: it is never given other audio."""
  command, _ = kills_chaos.job('prepare_data', place)
  command = command.at(place / 'whole')
  command.finish()
  args = (f'--config.data.source={command.out}', '--config.data.split=None', '--config.evals={}')
  more = (*args, '--config.checkpoint.best=None', '--config.data.max_bad_fraction=0.5')
  first = commands.training(place / 'first', 1, *more)
  expected, _ = first.finish()
  tally = {'equal bits': 0, 'clips listed': 0, 'refused': 0}
  files = sorted(p for p in command.out.iterdir() if p.is_file())
  shards = [p for p in files if p.suffix == '.array_record']
  tries = [p for p in files if p not in shards] * 2 + rng.sample(shards, 3)
  for i, file in enumerate(tries):
    data = commands.copy(command.out, place / 'damaged')
    commands.damage(data / file.name, how, rng)
    run = place / f'run{i}'
    again = with_source(first.at(run), command.out, data)
    ended = again.run()
    if ended[0].code:
      commands.refused(ended)
      tally['refused'] += 1
    elif (run / 'bad_files.jsonl').exists():
      tally['clips listed'] += 1
    else:
      commands.assert_equal(again.same(run)['arrays'], expected['arrays'])
      tally['equal bits'] += 1
  # Prepared again by the same command, they are what they were.
  repaired = commands.copy(command.out, place / 'repaired')
  for file in rng.sample(shards, 3):
    commands.damage(repaired / file.name, how, rng)
  commands.assert_equal(command.at(repaired).finish()[0], command.same(command.out))
  found = ', '.join(f'{v} {k}' for k, v in tally.items())
  table(f'shards: {how}', 'shards and their index', len(tries), f'{found}; prepared again: equal')


def with_source(command, old, new):
  args = tuple(a.replace(f'source={old}', f'source={new}') for a in command.args)
  return dataclasses.replace(command, args=args)


@pytest.mark.parametrize('how', ['truncated', 'bit'])
@pytest.mark.parametrize('name', ['label_kmeans', 'embed'])
def test_parts_of_a_job_are_damaged(name, how, place, rng, table):
  command, _ = kills_chaos.job(name, place)
  expected, _ = command.at(place / 'whole' / command.out.name).finish()
  pattern = {'label_kmeans': 'OUT/units.parts/part_*.npz', 'embed': 'OUT.parts/part_*.npz'}[name]
  tally = {'refused': 0, 'equal bytes': 0}
  for _ in range(2):
    running = command.start()
    commands.on_change(pattern, 0.01, first=True)(running, command, rng)
    running.signal(group.KILL)
    running.wait()
    parts = sorted(place.glob(pattern.replace('OUT', command.out.name)))
    if not parts:
      continue
    file = rng.choice(parts)
    commands.damage(file, how, rng)
    ended = command.run()
    if ended[0].code:
      said = commands.refused(ended, 'damaged')
      tally['refused'] += 1
      file.unlink()
      ended = command.run()
    else:
      tally['equal bytes'] += 1
    assert ended[0].code == 0, ended
    commands.assert_equal(command.same(command.out), expected)
    shutil.rmtree(command.out) if command.out.is_dir() else command.out.unlink()
  found = f'{tally["refused"]} refused, {tally["equal bytes"]} equal bytes'
  if tally['refused']:
    found += f' ({short(said)})'
  table(f'parts: {how}', name, sum(tally.values()), found)


# -- A full disk -------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder, *how):
  """A mount that is gone afterwards; skips where that is not allowed."""
  folder.mkdir(parents=True, exist_ok=True)
  if subprocess.run(['mount', *how, folder], capture_output=True).returncode:
    pytest.skip('mounting is not allowed here')
  try:
    yield folder
  finally:
    subprocess.run(['umount', '-l', folder], check=True)


def fill(folder, leave):
  """Fills a disk until `leave` bytes are free."""
  free = os.statvfs(folder)
  size = free.f_bavail * free.f_frsize - leave
  ballast = folder / 'ballast'
  with open(ballast, 'wb', buffering=0) as file, contextlib.suppress(OSError):
    for _ in range(0, size, 4096):  # the command writes too, and may be faster
      file.write(bytes(4096))
  return ballast


@pytest.mark.parametrize('leave', [0, 60_000, 400_000])
def test_a_full_disk_in_training(leave, whole, place, rng, table):
  expected, _, _ = whole()
  with mounted(place / 'disk', '-t', 'tmpfs', '-o', 'size=24m', 'none') as disk:
    command = dataclasses.replace(commands.training(disk / 'run'), logs=place)
    running = command.start()
    group.wait_for_step(running, command.out, rng.randrange(3, 12))
    ballast = fill(disk, leave)
    running.since = time.monotonic()
    ended = running.wait(commands.LIMIT)
    saved = group.steps_saved(command.out)
    said = commands.refused(ended, 'No space left')
    ballast.unlink()
    found, out = command.finish()
    commands._check_resumed(out, saved)
    commands.assert_equal(found, expected)
  seconds = ended[0].seconds
  table(
    f'disk full, {leave // 1000} kB left', 'training', 1, f'{short(said)}; then equal bits', seconds
  )


@pytest.mark.parametrize('name', ['prepare_data', 'label_kmeans', 'embed'])
def test_a_full_disk_in_a_job(name, place, rng, table):
  with mounted(place / 'disk', '-t', 'tmpfs', '-o', 'size=24m', 'none') as disk:
    command, patterns = kills_chaos.job(name, place)
    expected, _ = command.at(place / 'whole' / command.out.name).finish()
    command = dataclasses.replace(command.at(disk / command.out.name), logs=place)
    running = command.start()
    commands.on_change(patterns[0], 0.001, first=True)(running, command, rng)
    ballast = fill(disk, rng.choice([0, 5000, 20_000]))
    running.since = time.monotonic()
    ended = running.wait(commands.LIMIT)
    said = commands.refused(ended, 'No space left')
    ballast.unlink()
    found, _ = command.finish()
    commands.assert_equal(found, expected)
  table('disk full', name, 1, f'{short(said)}; then equal bytes', ended[0].seconds)


def test_a_disk_that_can_only_be_read(whole, place, table):
  _, _, out = whole()
  run = commands.copy(out, place / 'run')
  (run / 'checkpoints' / str(commands.STEPS)).rename(place / 'last')
  before = commands.contents(run)
  with mounted(place / 'disk', '--bind', run):
    subprocess.run(['mount', '-o', 'remount,bind,ro', place / 'disk'], check=True)
    started = time.monotonic()
    again = commands.refused(commands.training(place / 'disk').run(), 'Read-only file system')
    new = dataclasses.replace(commands.training(place / 'disk' / 'new'), logs=place)
    fresh = commands.refused(new.run(), 'Read-only')
    seconds = (time.monotonic() - started) / 2
  assert commands.contents(run) == before and fresh
  table('read-only disk', 'training, new and resumed', 2, f'refused: {short(again)}', seconds)


# -- A disk that fails, and one that is slow ---------------------------------------------------


@pytest.fixture
def clips(place):
  """Audio files that are opened by the calls the faults are put into."""
  import numpy as np
  import soundfile

  from tests.evals import toy

  root = place / 'clips'
  root.mkdir()
  for i in range(40):
    soundfile.write(root / f'{i:02d}.wav', np.asarray(toy.tone(300 + 20 * i, 0.5, i)), toy.RATE)
  return root


def on(clips, out):
  args = (f'--config.data.source={clips}', '--config.data.split=None', '--config.evals={}')
  return commands.training(out, 1, *args, '--config.checkpoint.best=None')


def test_reads_that_fail(clips, place, rng, table):
  expected, _ = on(clips, place / 'whole').finish()
  after = rng.randrange(60, 120)
  once = on(clips, place / 'once')
  # Opening it, looking at its first bytes, reading it to its end.
  ended = once.run(fault=f'eio:3:{after}')
  assert ended[0].code == 0, ended
  assert 'Input/output error. Trying again' in ended[0].err
  commands.assert_equal(once.same(once.out), expected)
  table('EIO for a moment', 'reads of audio', 1, 'tried again: equal bits; no clip listed')
  lasting = on(clips, place / 'lasting')
  started = time.monotonic()
  said = commands.refused(lasting.run(fault=f'eio:-1:{after}'), 'Input/output error')
  seconds = time.monotonic() - started
  assert not (lasting.out / 'bad_files.jsonl').exists()
  commands.assert_equal(lasting.finish()[0], expected)
  table('EIO for good', 'reads of audio', 1, f'{short(said)}; then equal bits', seconds)


def test_a_checkpoint_that_cannot_be_read_now(whole, place, table):
  expected, _, out = whole()
  run = commands.copy(out, place / 'run')
  command, before = commands.training(run), commands.contents(run / 'checkpoints')
  started = time.monotonic()
  said = commands.refused(command.run(fault='eio_checkpoint:-1'), 'Input/output error')
  seconds = time.monotonic() - started
  assert commands.contents(run / 'checkpoints') == before and not (run / 'unreadable').exists()
  ended = command.run(fault='eio_checkpoint:2')
  assert ended[0].code == 0 and f'resumes from step {commands.STEPS}' in ended[0].out, ended
  commands.assert_equal(command.same(run), expected)
  table('EIO', 'reads of a checkpoint', 2, f'{short(said)}; then equal bits', seconds)


def test_a_slow_disk(clips, place, rng, table):
  expected, _ = on(clips, place / 'whole').finish()
  slow = on(clips, place / 'slow')
  ended = slow.run(fault=f'slow:0.2:{rng.randrange(99)}')
  assert ended[0].code == 0, ended
  commands.assert_equal(slow.same(slow.out), expected)
  table('reads of up to 0.2 s', 'audio', 1, 'equal bits')
