"""Clocks that jump, two runs in one folder, corrupted audio, gradients that are not finite."""

import json
import os
import time

import numpy as np
import pytest
import soundfile

from tests.chaos import commands, disk_chaos, kills_chaos
from tests.evals import toy
from tests.multiprocess import group


def test_the_clock_jumps(whole, place, rng, table):
  expected, _, _ = whole()
  refusals, tries = [], 4
  for i in range(tries):
    command = commands.training(place / f'run{i}')
    ended = command.run(fault=f'clock:{rng.randrange(10**6)}')
    if ended[0].code:
      # The library that writes checkpoints measures its patience with the wall clock.
      refusals.append(commands.refused(ended, 'timed out', 'run the same command again'))
    commands.assert_equal(command.finish()[0], expected)
  ended = f'{tries - len(refusals)} equal bits'
  if refusals:
    ended += f', {len(refusals)} refused ({disk_chaos.short(refusals[0])}), then equal bits'
  table('clock jumps by years', 'training', tries, ended)


@pytest.mark.parametrize('date', ['1971', '2100'])
def test_files_of_another_time(date, whole, place, table):
  expected, _, out = whole()
  run = commands.copy(out, place / 'run')
  (run / 'checkpoints' / str(commands.STEPS)).rename(place / 'last')
  seconds = (int(date) - 1970) * 365 * 86_400
  for path in run.rglob('*'):
    os.utime(path, (seconds, seconds))
  found, said = commands.training(run).finish()
  assert f'resumes from step {commands.STEPS - 2}' in said
  commands.assert_equal(found, expected)
  table(f'files of the year {date}', 'training, resumed', 1, 'equal bits')


def test_two_trainings_in_one_folder(whole, place, table):
  expected, _, _ = whole()
  command = commands.training(place / 'run')
  running = command.start()
  group.wait_for_step(running, command.out, 1)
  table('two runs in one folder', 'training', 1, *second(command, running, expected))


def second(command, running, expected):
  """Starts a command a second time: it is refused, and the first ends as expected; what is said of
  it, and seconds."""
  # The first must not end before the second has looked.
  running.signal(group.signal.SIGSTOP)
  started = time.monotonic()
  said = commands.refused(command.run(), 'is in use by')
  seconds = time.monotonic() - started
  running.signal(group.signal.SIGCONT)
  assert running.wait(commands.LIMIT)[0].code == 0
  commands.assert_equal(command.same(command.out), expected)
  return f'second refused: {disk_chaos.short(said)}; first: as undisturbed', seconds


@pytest.mark.parametrize('name', ['prepare_data', 'label_kmeans', 'embed'])
def test_two_jobs_at_one_output(name, place, rng, table):
  command, patterns = kills_chaos.job(name, place)
  expected, _ = command.at(place / 'whole' / command.out.name).finish()
  running = command.start()
  commands.on_change(patterns[0], 0.001, first=True)(running, command, rng)
  table('two runs in one folder', name, 1, *second(command, running, expected))


# -- Audio -------------------------------------------------------------------------------------


def corrupted(root, count, bad, rng):
  """`count` clips, of which `bad` are damaged in several ways; the names of those."""
  root.mkdir()
  for i in range(count):
    kind = 'flac' if i % 2 else 'wav'
    soundfile.write(root / f'{i:03d}.{kind}', toy.tone(300 + 5 * i, 0.5, i), toy.RATE)
  names = []
  for k, file in enumerate(rng.sample(sorted(root.iterdir()), bad)):
    way = ('empty', 'truncated', 'noise', 'not finite')[k % 4]
    if way == 'not finite':
      audio = np.zeros(8000, np.float32)
      audio[rng.randrange(8000)] = rng.choice([np.nan, np.inf])
      file.unlink()
      file = file.with_suffix('.wav')
      soundfile.write(file, audio, toy.RATE, 'FLOAT')
    else:
      data = file.read_bytes()
      short = data[: rng.randrange(60, len(data) * 3 // 4)]
      file.write_bytes({'empty': b'', 'truncated': short, 'noise': rng.randbytes(999)}[way])
    names.append(file.name)
  return names


def test_one_in_a_hundred_clips_is_corrupted(place, rng, table):
  bad = corrupted(place / 'clips', 200, 2, rng)
  command = disk_chaos.on(place / 'clips', place / 'run')
  _, _ = command.finish()
  # 24 batches of 8 are less than an epoch of 200 clips: it may have met none.
  command = disk_chaos.on(place / 'clips', place / 'long')
  steps = 30
  ended = command.run(f'--config.total_steps={steps}')
  assert ended[0].code == 0, ended
  listed = [json.loads(line)['id'] for line in (command.out / 'bad_files.jsonl').open()]
  assert sorted(listed) == sorted(bad)
  losses = group.losses(command.out)
  assert sorted(losses) == list(range(1, steps + 1)) and np.isfinite(list(losses.values())).all()
  table('1 % corrupted audio', 'training', 1, f'trains; lists the {len(bad)} clips and no other')


def test_one_in_five_clips_is_corrupted(place, rng, table):
  bad = corrupted(place / 'clips', 200, 40, rng)
  command = disk_chaos.on(place / 'clips', place / 'run')
  started = time.monotonic()
  said = commands.refused(command.run(), 'Too many bad audio files', 'max_bad_fraction=0.05')
  seconds = time.monotonic() - started
  listed = [json.loads(line)['id'] for line in (command.out / 'bad_files.jsonl').open()]
  assert set(listed) <= set(bad) and len(set(listed)) == len(listed)
  table('20 % corrupted audio', 'training', 1, f'stops: {disk_chaos.short(said)}', seconds)
  out = place / 'shards'
  args = (f'--source={place / "clips"}', f'--out={out}')
  prepare = commands.Command('launch.prepare_data', args, out, commands.contents)
  started = time.monotonic()
  said = commands.refused(prepare.run(), 'Too many bad audio files')
  seconds = time.monotonic() - started
  table('20 % corrupted audio', 'prepare_data', 1, f'stops: {disk_chaos.short(said)}', seconds)


# -- Gradients ---------------------------------------------------------------------------------


def test_a_batch_of_nan(whole, place, rng, table):
  expected, _, _ = whole()
  batch = rng.randrange(6, commands.STEPS - 2)
  command = commands.training(place / 'stop')
  started = time.monotonic()
  said = commands.refused(command.run(fault=f'nan:{batch}'), 'not finite', 'the last good')
  seconds = time.monotonic() - started
  commands.assert_equal(command.finish()[0], expected)
  ended = f'{disk_chaos.short(said)}; then equal bits'
  table('NaN gradients', "a batch, on_nan='stop'", 1, ended, seconds)
  command = commands.training(place / 'rewind', 1, '--config.on_nan=rewind')
  ended = command.run(fault=f'nan:{batch}')
  assert ended[0].code == 0 and 'the input continues' in ended[0].out, ended
  losses = group.losses(command.out)
  assert np.isfinite(list(losses.values())).all() and commands.STEPS in losses
  arrays = commands.trained(command.out)['arrays']
  for name, (kind, _, data) in arrays.items():
    assert 'float' not in kind or np.isfinite(np.frombuffer(data, kind)).all(), name
  table('NaN gradients', "a batch, on_nan='rewind'", 1, 'said, skipped; all saved values finite')


def test_gradients_that_overflow(place, table):
  args = ('--config.optim.lr=1e37', '--config.optim.schedule.warmup_steps=6')
  command = commands.training(place / 'run', 1, *args)
  started = time.monotonic()
  said = commands.refused(command.run(), 'not finite')
  seconds = time.monotonic() - started
  for step in group.steps_saved(command.out):
    arrays, _ = commands.arrays(command.out / 'checkpoints' / str(step))
    for name, x in arrays.items():
      assert x.dtype.kind != 'f' or np.isfinite(x).all(), name
  ended = f'{disk_chaos.short(said)}; no saved value is infinite'
  table('NaN gradients', 'a learning rate of 1e37', 1, ended, seconds)
