"""A command on a machine with a fault: `python -m tests.chaos.faulty FAULT MODULE args…`.

The fault is put into Python's own calls before the command starts; FAULT is one of FAULTS, with its
arguments after colons.
"""

import builtins
import errno
import importlib
import os
import random
import sys
import time


def clock(seed):
  """The wall clock jumps by up to ten years at one look in 300."""
  rng, now, offset = random.Random(seed), time.time_ns, [0]

  def jumping():
    if rng.random() < 1 / 300:
      offset[0] = int(rng.uniform(-1, 1) * 10 * 365 * 86_400 * 1e9)
    return now() + offset[0]

  time.time_ns = jumping
  time.time = lambda: jumping() / 1e9


def _audio_reads(meet):
  """`meet(path)` before every opening of a .wav file."""
  import soundfile

  opened, plain = soundfile.SoundFile.__init__, builtins.open

  def of_library(self, file, *args, **kwargs):
    path = os.fsdecode(file) if isinstance(file, str | bytes) else ''
    if path.endswith('.wav'):
      try:
        meet(path)
      except OSError as error:
        # libsndfile tells of a failed read only that it failed.
        raise soundfile.LibsndfileError(2) from error
    opened(self, file, *args, **kwargs)

  def of_python(file, *args, **kwargs):
    if str(file).endswith('.wav'):
      meet(str(file))
    return plain(file, *args, **kwargs)

  soundfile.SoundFile.__init__ = of_library
  builtins.open = of_python


def eio(times, after):
  """After `after` openings of audio, the disk answers EIO to `times` more; -1 for all."""
  left, before = [int(times)], [int(after)]

  def meet(path):
    if before[0] > 0:
      before[0] -= 1
      return
    if left[0]:
      left[0] -= 1
      raise OSError(errno.EIO, os.strerror(errno.EIO), path)

  _audio_reads(meet)


def slow(seconds, seed):
  """Every opening of audio takes a random time of at most `seconds`."""
  rng = random.Random(seed)
  _audio_reads(lambda path: time.sleep(rng.uniform(0, float(seconds))))


def eio_checkpoint(times):
  """The disk answers EIO to N reads of a checkpoint's arrays, or for good (N = -1)."""
  import orbax.checkpoint as ocp

  restore, left = ocp.StandardCheckpointHandler.restore, [int(times)]

  def failing(self, directory, *args, **kwargs):
    if left[0]:
      left[0] -= 1
      raise OSError(errno.EIO, os.strerror(errno.EIO), str(directory))
    return restore(self, directory, *args, **kwargs)

  ocp.StandardCheckpointHandler.restore = failing


def nan(batch):
  """The audio of one batch is NaN on its way to the devices, once."""
  import numpy as np

  from research.train.feed import Feed

  begin, seen = Feed.__init__, [0]

  def spoiling(self, iterator, put, **kwargs):
    def spoilt(arrays):
      seen[0] += 1
      if seen[0] == int(batch):
        arrays = {**arrays, 'audio': np.full_like(arrays['audio'], np.nan)}
      return put(arrays)

    begin(self, iterator, spoilt, **kwargs)

  Feed.__init__ = spoiling


FAULTS = dict(clock=clock, eio=eio, slow=slow, eio_checkpoint=eio_checkpoint, nan=nan)


def main():
  fault, module, *argv = sys.argv[1:]
  name, *args = fault.split(':')
  from launch import command

  sys.argv = [module, *argv]
  chosen = importlib.import_module(module)
  FAULTS[name](*args)
  command.run(chosen.main)


if __name__ == '__main__':
  main()
