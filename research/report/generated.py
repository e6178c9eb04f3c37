"""A page of generated audio: players and spectrograms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from research.jobs import folders
from research.report import page, players
from research.report.run import spectrogram_png

# Results that are shown.
SHOWN = 24
# Seconds of a window of the pictures, and between windows.
WINDOW, HOP = 0.032, 0.008


def log_spectrogram(audio: Float[np.ndarray, ' t'], sample_rate: int) -> Float[np.ndarray, 's f']:
  """log10 of magnitudes, by windows of 32 ms every 8 ms."""
  size, hop = (max(round(x * sample_rate), 1) for x in (WINDOW, HOP))
  x = np.pad(np.asarray(audio, np.float64), size // 2)
  count = 1 + max(len(x) - size, 0) // hop
  at = np.arange(count)[:, None] * hop + np.arange(size)[None]
  frames = np.pad(x, (0, max(size - len(x), 0)))[at] * np.hanning(size)
  return np.log10(np.abs(np.fft.rfft(frames)) + 1e-4).astype(np.float32)


def write(out: Path, rows: Sequence[Mapping[str, Any]], model: str) -> Path:
  """Writes <out>/generated.html.

  Args:
    out: the folder of `audio_files.generate_files`.
    rows: what it returned.
    model: where the audio is from, in a few words.

  Returns:
    the page.
  """
  made = [row for row in rows if 'file' in row]
  clips = []
  for row in made[:SHOWN]:
    audio, rate = soundfile.read(out / row['file'], dtype='float32')
    audio = audio[: int(players.MAX_SECONDS * rate)]
    picture = log_spectrogram(audio, rate)
    low, high = np.percentile(picture, [5, 99.5])
    sound = players.players(players.arrays([audio], rate, [row['id']]))[0].source
    skipped = ('id', 'file', 'seconds', 'units')
    said = ', '.join(f'{k} {v}' for k, v in row.items() if k not in skipped)
    clips.append(
      dict(
        name=row['id'],
        said=f'{row["seconds"]:.2f} s' + (f', {said}' if said else ''),
        sound=sound,
        picture=spectrogram_png(picture, low, high),
      )
    )
  text = page.render(
    'generated.html', title='Generated audio', model=model, clips=clips, made=len(made),
    left=[(row['id'], row['error']) for row in rows if 'error' in row],
  )  # fmt: skip
  place = out / 'generated.html'
  folders.replace_text(place, text)
  return place
