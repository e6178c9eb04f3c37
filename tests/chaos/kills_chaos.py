"""SIGKILL at any moment: the same command, started again, ends in the same bits."""

import time

import pytest

from tests.chaos import commands
from tests.evals import toy

WRITING = [
  commands.on_change('OUT/checkpoints/*tmp*'),
  commands.on_change('OUT/checkpoints/*tmp*/state*', 0.02),
  commands.on_change('OUT/checkpoints/*tmp*/*/*', 0.02),
  commands.on_change('OUT/checkpoints/[0-9]*[0-9]', 0.02),
]
ENDING = [
  commands.on_change(f'OUT/checkpoints/{commands.STEPS}*', 0.3),
  commands.on_change('OUT/report.html*', 0.05),
]


@pytest.mark.parametrize('when', ['any', 'writing', 'ending'])
def test_training(when, whole, place, rng, table):
  expected, seconds, _ = whole()
  moments = dict(any=[commands.at_random(seconds)], writing=WRITING, ending=ENDING)[when]
  kills = dict(any=12, writing=12, ending=4)[when]
  done, ends, _ = commands.storm(commands.training(place / 'run'), expected, kills, moments, rng)
  where = dict(any='at any time', writing='as a checkpoint is written', ending='at the end')[when]
  table('SIGKILL', f'training, {where}', done, f'equal bits ({ends} runs to the end)')


@pytest.mark.parametrize('who', ['one', 'both'])
def test_training_in_two_processes(who, whole, place, rng, table):
  expected, seconds, _ = whole(2)
  moments = [commands.at_random(seconds), WRITING[0], commands.at_random(seconds), WRITING[2]]

  def one(rng, count):
    return (rng.randrange(count),)

  chosen = one if who == 'one' else (lambda rng, count: ())
  done, _, longest = commands.storm(
    commands.training(place / 'run', 2), expected, 5, moments, rng, chosen
  )
  ended = 'equal bits' if who == 'both' else 'the other: exit code 4 and a sentence; equal bits'
  table('SIGKILL', f'training, {who} of two processes', done, ended, longest)


def job(name, place):
  """A job over many files and, in the order in which they appear, what it leaves on its way."""
  data = toy.tones(place / 'data' / 'tones', per_class=30)
  if name == 'prepare_data':
    out, args = place / 'out', ('--shards=24', '--num_workers=1')
    args = (f'--source={data}', f'--out={out}', *args)
    seen = ['OUT/*.tmp', 'OUT/*.array_record', 'OUT/*.json', 'OUT/clips.index*']
    return commands.Command('launch.prepare_data', args, out, commands.contents), seen
  if name == 'label_kmeans':
    out = place / 'out'
    args = (
      f'--input={data}', f'--out={out}', '--features=mfcc', '--clusters=8', '--batch_frames=300',
      '--n_init=2', '--max_epochs=6', '--batch_seconds=5', '--save_seconds=0',
    )  # fmt: skip
    seen = ['OUT/fit/*', 'OUT/codebook*', 'OUT/units.parts/*', 'OUT/units*', 'OUT/*.json*']
    return commands.Command('launch.label_kmeans', args, out, labelled), seen
  out, model = place / 'e.npz', toy.save_audio_mae(place / 'model')
  args = (
    f'--model={model}', f'--input={data}', f'--out={out}', '--layers=all', '--pool=none',
    '--part_seconds=0',
  )  # fmt: skip
  command = commands.Command('launch.embed', args, out, commands.contents, once=True)
  return command, ['OUT.parts/*', 'OUT*']


def labelled(out):
  """Everything but the pages that say when they were made."""
  return {k: v for k, v in commands.contents(out).items() if k != 'report.html'}


@pytest.mark.parametrize(
  ('name', 'kills'), [('prepare_data', 10), ('label_kmeans', 10), ('embed', 7)]
)
def test_jobs(name, kills, place, rng, table):
  command, patterns = job(name, place)
  started = time.monotonic()
  expected, _ = command.at(place / 'whole' / command.out.name).finish()
  seconds = time.monotonic() - started
  moments = [commands.on_change(p, 0.05) for p in patterns]
  moments = [each for one in moments for each in (one, commands.at_random(seconds))]
  done, ends, _ = commands.storm(command, expected, kills, moments, rng)
  table('SIGKILL', name, done, f'equal bytes ({ends} runs to the end)')
