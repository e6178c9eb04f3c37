"""Regenerates the built-in sequences: 16 kHz mono Opus clips of 1 s and labels.csv, from a seed.

  python -m research.audio.builtin_sequences.generate --out=/tmp/sequences

needs Debian's `espeak-ng` (the committed clips: espeak-ng 1.51, NumPy 2.4, soxr 1.1, libsndfile
1.2). The same seed and versions give the same samples.

The corpus is for pre-training in minutes on a laptop. What a class is shows only in the order of
its parts, so that sums over a clip do not give it away. It is not a benchmark.

| kind | classes | what is heard |
|---|---|---|
| glide | 9 | a tone or a band of noise whose pitch moves: up, down, up-down, low-high … |
| pair | 12 | two of four sounds (beep, noise burst, knock, birds), one after the other |
| phrase | 12 | two of four words (yes, no, stop, go), one after the other, by 80 synthetic voices |

All clips get a random place in the second, level (peak of -20 to -1 dBFS), room (60 % of them),
equaliser (±5 dB) and background noise (15 to 40 dB below; steady, swelling or humming).

labels.csv: path,label,kind,speaker,split. No voice is in two splits.
"""

import argparse
import csv
import io
import pathlib
import subprocess
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile
import soxr

from research.audio.builtin import events

RATE = events.RATE
SEED = 7
SPLITS = {'train': 36, 'valid': 8, 'test': 36}  # clips of a class, in this proportion
CLIPS = 80  # of a pair; voices of the phrases
GLIDE_CLIPS = 96

# Knots of the pitch over time, 0 to 1; None jumps once.
GLIDES = {
  'up': (0, 1), 'down': (1, 0), 'flat': (0.5, 0.5), 'up-down': (0, 1, 0), 'down-up': (1, 0, 1),
  'up-down-up': (0, 1, 0, 1), 'down-up-down': (1, 0, 1, 0), 'low-high': None, 'high-low': None,
}  # fmt: skip
SOUNDS = ('beep', 'noise_burst', 'knock', 'birds')
WORDS = ('yes', 'no', 'stop', 'go')
ACCENTS = (
  'en-us', 'en-gb', 'en-gb-scotland', 'en-029', 'en-gb-x-rp', 'en-gb-x-gbclan', 'en-gb-x-gbcwmd',
  'en-us-nyc',
)  # fmt: skip
VARIANTS = (
  'm1', 'm2', 'm3', 'm4', 'm5', 'm6', 'm7', 'm8', 'f1', 'f2', 'f3', 'f4', 'f5', 'klatt', 'klatt2',
  'klatt3', 'klatt4', 'Annie', 'linda', 'Andy', 'steph', 'Alex', 'Andrea', 'Michael', 'Diogo',
  'belinda', 'adam', 'Denis', 'Mario', 'Mike', 'quincy', 'rob', 'edward', 'iven', 'Gene', 'marcelo',
)  # fmt: skip

Row = dict[str, str]


def _random(*name: Any) -> np.random.Generator:
  """One generator per clip, so that a new clip does not change the others."""
  return np.random.default_rng([SEED, zlib.crc32('/'.join(map(str, name)).encode())])


def _split(i: int, count: int) -> str:
  at = i * sum(SPLITS.values()) // count
  for name, size in SPLITS.items():
    if at < size:
      return name
    at -= size
  raise AssertionError((i, count))


# -- What is heard -----------------------------------------------------------------------------


def glides() -> Iterator[tuple[Row, np.ndarray]]:
  """(row, audio of any length) of the moving pitches."""
  for label, knots in GLIDES.items():
    for i in range(GLIDE_CLIPS):
      rng = _random('glide', label, i)
      n = int(rng.uniform(0.45, 0.85) * RATE)
      low, octaves = rng.uniform(150, 700), rng.uniform(1, 2.8)
      s = np.linspace(0, 1, n)
      if knots is None:
        height = (s > rng.uniform(0.4, 0.6)).astype(float)
        height = height if label == 'low-high' else 1 - height
      else:
        at = np.linspace(0, 1, len(knots))
        at[1:-1] += rng.uniform(-0.1, 0.1, len(knots) - 2)
        height = np.interp(s, at, knots)
      pitch = low * 2 ** (octaves * height)
      if rng.random() < 0.5:
        audio = events.tone(pitch, n, np.array([1.0, *(rng.uniform(0, 1, 3) * (0.5, 0.3, 0.2))]))
      else:
        band = np.convolve(rng.standard_normal(n), np.hanning(161), 'same')
        audio = band * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
      row = {'label': label, 'kind': 'glide', 'speaker': '', 'split': _split(i, GLIDE_CLIPS)}
      yield row | {'path': f'audio/glide/{label}-{i:02d}.ogg'}, events.fade(audio, 0.02)


def pairs() -> Iterator[tuple[Row, np.ndarray]]:
  """(row, audio) of two sounds, one after the other."""
  for first, second in _ordered(SOUNDS):
    for i in range(CLIPS):
      rng = _random('pair', first, second, i)
      parts = []
      for name in (first, second):
        sound = events.EVENTS[name](rng, int(rng.uniform(0.3, 0.42) * RATE))
        level = 10 ** (rng.uniform(-3, 3) / 20) / np.sqrt(np.mean(sound**2))
        parts += [sound * level, np.zeros(int(rng.uniform(0, 0.05) * RATE))]
      label = f'{first} then {second}'.replace('_', ' ')
      row = {'label': label, 'kind': 'pair', 'speaker': '', 'split': _split(i, CLIPS)}
      yield row | {'path': f'audio/pair/{first}-{second}-{i:02d}.ogg'}, np.concatenate(parts)


def phrases() -> Iterator[tuple[Row, np.ndarray]]:
  """(row, audio) of two words, one after the other."""
  for i, (accent, variant, pitch, stretch) in enumerate(_voices()):
    speaker = f'{accent}_{variant}'.lower()
    for first, second in _ordered(WORDS):
      rng = _random('phrase', i, first, second)
      parts = []
      for word in (first, second):
        height = int(np.clip(pitch + rng.integers(-15, 16), 0, 99))
        speed = int(rng.integers(140, 230))
        said = speak(word, f'{accent}+{variant}', height, speed, stretch)[: int(0.46 * RATE)]
        said = events.fade(said / np.sqrt(np.mean(said**2)))
        parts += [said, np.zeros(int(rng.uniform(0, 0.05) * RATE))]
      row = {'label': f'{first} {second}', 'kind': 'phrase', 'speaker': speaker}
      row |= {'split': _split(i, CLIPS), 'path': f'audio/phrase/{speaker}-{first}-{second}.ogg'}
      yield row, np.concatenate(parts)


def _ordered(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
  return ((a, b) for a in names for b in names if a != b)


def _voices() -> Iterator[tuple[str, str, int, float]]:
  """(accent, variant, pitch 0-99, stretch) of CLIPS voices."""
  rng = _random('voices')
  used: set[tuple[str, str]] = set()
  while len(used) < CLIPS:
    voice = ACCENTS[len(used) % len(ACCENTS)], VARIANTS[int(rng.integers(len(VARIANTS)))]
    if voice not in used:
      used.add(voice)
      yield *voice, int(rng.integers(20, 80)), rng.uniform(0.88, 1.14)


def speak(text: str, voice: str, pitch: int, speed: int, stretch: float) -> np.ndarray:
  """Speech of espeak-ng at `RATE` Hz without silence at its ends, `stretch` times as long (and
  lower)."""
  command = ['espeak-ng', '-v', voice, '-p', str(pitch), '-s', str(speed), '--stdout', text]
  done = subprocess.run(command, capture_output=True, check=True)
  audio, rate = soundfile.read(io.BytesIO(done.stdout), dtype='float64')
  audio = soxr.resample(audio, rate, RATE * stretch, quality='HQ')
  loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
  return audio[max(loud[0] - 320, 0) : loud[-1] + 480]


# -- Where it is heard -------------------------------------------------------------------------


def finish(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
  """The sound in a room, equalised, somewhere in a second of background noise, at some level."""
  audio = _equalise(rng, _room(rng, audio))[:RATE]
  at = int(rng.integers(0, RATE - len(audio) + 1))
  out = np.zeros(RATE)
  out[at : at + len(audio)] = audio / (np.sqrt(np.mean(audio**2)) + 1e-9)
  out += _background(rng) * 10 ** (-rng.uniform(15, 40) / 20)
  return (out / np.abs(out).max() * 10 ** (rng.uniform(-20, -1) / 20)).astype(np.float32)


def _room(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
  if rng.random() < 0.4:
    return audio
  decay = rng.uniform(0.03, 0.25) / 3
  t = np.arange(int(0.3 * RATE)) / RATE
  response = rng.standard_normal(len(t)) * np.exp(-t / decay) / np.sqrt(decay * RATE / 2)
  response *= rng.uniform(0.05, 0.35)
  response[: int(rng.uniform(0.001, 0.008) * RATE)] = 0.0
  response[0] = 1.0
  n = len(audio) + len(response) - 1
  return np.fft.irfft(np.fft.rfft(audio, n) * np.fft.rfft(response, n), n)[: len(audio) + 800]


def _equalise(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
  knots = (0, 300, 800, 1500, 3000, 5000, 8000)
  decibels = np.interp(np.fft.rfftfreq(len(audio), 1 / RATE), knots, rng.uniform(-5, 5, len(knots)))
  return np.fft.irfft(np.fft.rfft(audio) * 10 ** (decibels / 20), len(audio))


def _background(rng: np.random.Generator) -> np.ndarray:
  """A second of noise of rms 1: steady, swelling, or with a hum."""
  kind, noise = rng.integers(3), events.coloured_noise(rng, RATE, rng.uniform(0, 1.3))
  if kind == 1:
    noise *= np.interp(np.linspace(0, 5, RATE), np.arange(6), rng.uniform(0.2, 1, 6))
  if kind == 2:
    noise += events.tone(rng.uniform(50, 400), RATE, rng.uniform(0, 1, 6))
  return noise / np.sqrt(np.mean(noise**2))


def write(out: pathlib.Path) -> tuple[int, int]:
  """Writes the corpus under `out`; returns the number of clips and the bytes of audio."""
  rows, size = [], 0
  for made in (glides(), pairs(), phrases()):
    for row, audio in made:
      path = out / row['path']
      path.parent.mkdir(parents=True, exist_ok=True)
      sound = finish(_random('finish', row['path']), audio)
      soundfile.write(path, sound, RATE, format='OGG', subtype='OPUS', compression_level=0.95)
      size += path.stat().st_size
      rows.append(row)
  with open(out / 'labels.csv', 'w', newline='') as file:
    writer = csv.DictWriter(
      file, ('path', 'label', 'kind', 'speaker', 'split'), lineterminator='\n'
    )
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda r: r['path']))
  return len(rows), size


def main() -> None:
  parser = argparse.ArgumentParser(description='Regenerates the built-in sequences.')
  here = pathlib.Path(__file__).parent
  parser.add_argument('--out', type=pathlib.Path, default=here, help='folder to write into')
  count, size = write(parser.parse_args().out)
  print(f'{count} clips, {size / 2**20:.2f} MiB of audio')


if __name__ == '__main__':
  main()
