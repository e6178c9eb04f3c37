"""Regenerates the built-in corpus: 16 kHz mono FLAC clips and labels.csv, from one seed.

  python -m research.audio.builtin.generate --out=/tmp/builtin

needs Debian's `espeak-ng` (the committed clips: espeak-ng 1.51, NumPy 2.4, soxr 1.1). The same seed
and versions give the same samples; other versions of espeak-ng pronounce differently.

The corpus is a small stand-in for real audio, so that every command works without downloads. It is
not a benchmark: scores are comparable only between runs on this corpus.

Speech: 25 synthetic voices (accent x variant); each says the ten digits, ten of twenty words and
one sentence, at a pitch and a speed that vary by clip. Events: twelve procedural classes
(events.py). All clips get a random level, light background noise and sometimes a short
reverberation. Levels are low (peaks of -43 to -23 dBFS), which keeps the files small.

labels.csv: path,label,speaker,fold,split,transcript,kind; `kind` is digit, word, sentence or event.
Folds 0-2 are split `train`, 3 is `valid`, 4 is `test`. A speaker is in one fold only; so is the
seed of an event's parameters.
"""

import argparse
import csv
import io
import pathlib
import subprocess
import zlib

import numpy as np
import soundfile
import soxr

from research.audio.builtin import events

RATE = events.RATE
SEED = 2022
FOLDS = 5
SPLITS = ('train', 'train', 'train', 'valid', 'test')
EVENTS_PER_CLASS = 25

DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
WORDS = (
  'yes', 'no', 'up', 'down', 'left', 'right', 'stop', 'go', 'open', 'close',
  'house', 'tree', 'water', 'music', 'happy', 'garden', 'window', 'dog', 'cat', 'light',
)  # fmt: skip
# (accent, variant, mean pitch 0-99). Twenty-five voices, assigned to the folds in turn.
SPEAKERS = (
  ('en-us', 'm1', 40), ('en-gb', 'f1', 55), ('en-gb-scotland', 'm3', 45),
  ('en-us', 'f2', 60), ('en-029', 'm4', 35), ('en-gb-x-rp', 'm5', 50),
  ('en-us', 'f3', 65), ('en-gb', 'm7', 30), ('en-gb-x-gbclan', 'f4', 55),
  ('en-us', 'klatt2', 40), ('en-us-nyc', 'm2', 45), ('en-gb', 'f5', 70),
  ('en-gb-x-gbcwmd', 'm6', 50), ('en-us', 'Annie', 60), ('en-gb', 'klatt4', 35),
  ('en-gb-x-rp', 'linda', 55), ('en-us', 'm8', 25), ('en-029', 'f2', 60),
  ('en-gb-scotland', 'Andy', 55), ('en-us', 'steph', 50), ('en-us', 'Alex', 50),
  ('en-gb', 'Andrea', 60), ('en-us-nyc', 'Michael', 40), ('en-gb-x-gbclan', 'Diogo', 45),
  ('en-us', 'belinda', 65),
)  # fmt: skip
SENTENCES = (
  'the river was quiet in the morning',
  'please bring two cups of tea',
  'she opened the old green door',
  'a train left the station at nine',
  'we heard music from the garden',
  'the dog slept under the table',
  'turn left after the yellow house',
  'he wrote a letter to his sister',
  'rain fell on the tin roof all night',
  'my brother plays the violin',
  'the cat watched birds by the window',
  'they walked slowly up the hill',
  'the moon is bright this evening',
  'fresh bread is best with butter',
  'the children ran across the field',
  'could you close the window please',
  'an owl called from the dark wood',
  'the water in the lake is cold',
  'seven ships sailed out to sea',
  'her coat was hanging by the stove',
  'the wind moved through the trees',
  'I left my keys on the kitchen shelf',
  'a bell rang twice and then stopped',
  'summer came early that year',
  'the baker wakes before the sun',
)


def speak(text: str, accent: str, variant: str, pitch: int, speed: int) -> np.ndarray:
  """Speech of espeak-ng, float64 at `RATE` Hz, with silence at both ends trimmed."""
  command = ['espeak-ng', '-v', f'{accent}+{variant}', '-p', str(pitch), '-s', str(speed)]
  done = subprocess.run([*command, '--stdout', text], capture_output=True, check=True)
  audio, rate = soundfile.read(io.BytesIO(done.stdout), dtype='float64')
  audio = soxr.resample(audio, rate, RATE, quality='HQ')
  loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
  return audio[max(loud[0] - 320, 0) : loud[-1] + 480]


def _convolve(x: np.ndarray, response: np.ndarray) -> np.ndarray:
  n = len(x) + len(response) - 1
  return np.fft.irfft(np.fft.rfft(x, n) * np.fft.rfft(response, n), n)[: len(x) + 800]


def finish(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
  """Adds random reverberation, level and background noise; returns int16."""
  if rng.random() < 0.4:
    decay = rng.uniform(0.02, 0.08)
    t = np.arange(int(0.2 * RATE)) / RATE
    response = rng.uniform(0.05, 0.25) * rng.standard_normal(len(t)) * np.exp(-t / decay)
    response[: int(rng.uniform(0.001, 0.006) * RATE)] = 0.0
    response[0] = 1.0
    audio = _convolve(audio, response)
  level = 10 ** (rng.uniform(-43, -23) / 20)
  audio = level * audio / np.abs(audio).max()
  # Background 46 to 66 dB under the peak, and at least one bit: no clip is digital silence.
  noise = events.coloured_noise(rng, len(audio), rng.uniform(0.2, 1.2))
  audio = audio + noise * max(level * 10 ** (rng.uniform(-66, -46) / 20), 0.7 / 32768)
  return np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16)


def _random(seed: int, name: str) -> np.random.Generator:
  """One generator per clip, so that a new clip does not change the others."""
  return np.random.default_rng([seed, zlib.crc32(name.encode())])


def speech(seed: int):
  """Yields (row of labels.csv, int16 audio) for all spoken clips."""
  for s, (accent, variant, pitch) in enumerate(SPEAKERS):
    speaker, fold = f'{accent}_{variant}'.lower(), s % FOLDS
    # The speakers of a fold together cover all words.
    half = [w for i, w in enumerate(WORDS) if (i + s // FOLDS + fold) % 2 == 0]
    utterances = [('digit', w, w) for w in DIGITS] + [('word', w, w) for w in half]
    utterances.append(('sentence', 'sentence', SENTENCES[s]))
    for kind, label, text in utterances:
      name = text.replace(' ', '_') if kind != 'sentence' else '_'.join(text.split()[:3])
      path = f'audio/{kind}/{speaker}-{name}.flac'
      rng = _random(seed, path)
      high = int(np.clip(pitch + rng.integers(-15, 16), 0, 99))
      audio = speak(text, accent, variant, high, int(rng.integers(155, 241)))
      row = {'path': path, 'label': label, 'speaker': speaker, 'transcript': text, 'kind': kind}
      yield row | {'fold': fold, 'split': SPLITS[fold]}, finish(rng, audio)


def sounds(seed: int, per_class: int = EVENTS_PER_CLASS):
  """Yields (row of labels.csv, int16 audio) for all sound events."""
  for label, event in events.EVENTS.items():
    for i in range(per_class):
      path, fold = f'audio/event/{label}-{i:02d}.flac', i % FOLDS
      rng = _random(seed, path)
      audio = event(rng, int(rng.uniform(0.45, 0.85) * RATE))
      row = {'path': path, 'label': label, 'speaker': '', 'transcript': '', 'kind': 'event'}
      yield row | {'fold': fold, 'split': SPLITS[fold]}, finish(rng, audio)


def write(out: pathlib.Path, seed: int = SEED) -> tuple[int, int]:
  """Writes the corpus under `out`; returns the number of clips and the bytes of audio."""
  rows, size = [], 0
  for generator in (speech(seed), sounds(seed)):
    for row, audio in generator:
      path = out / row['path']
      path.parent.mkdir(parents=True, exist_ok=True)
      soundfile.write(path, audio, RATE, subtype='PCM_16', format='FLAC', compression_level=1.0)
      size += path.stat().st_size
      rows.append(row)
  with open(out / 'labels.csv', 'w', newline='') as file:
    columns = ('path', 'label', 'speaker', 'fold', 'split', 'transcript', 'kind')
    writer = csv.DictWriter(file, columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda r: r['path']))
  return len(rows), size


def main() -> None:
  parser = argparse.ArgumentParser(description='Regenerates the built-in corpus.')
  here = pathlib.Path(__file__).parent
  parser.add_argument('--out', type=pathlib.Path, default=here, help='folder to write into')
  parser.add_argument('--seed', type=int, default=SEED, help='of every random choice')
  args = parser.parse_args()
  count, size = write(args.out, args.seed)
  print(f'{count} clips, {size / 2**20:.2f} MiB of audio in {args.out}')


if __name__ == '__main__':
  main()
