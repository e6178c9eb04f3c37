"""Procedural sound events of the built-in corpus: one NumPy function per class.

Every function takes `(rng, n)`, a NumPy generator and a number of samples at `RATE` Hz, and returns
float64 [n], not normalised. All sounds are synthetic, with random parameters that make the classes
varied enough to be worth learning.
"""

from collections.abc import Callable

import numpy as np

RATE = 16000
Event = Callable[[np.random.Generator, int], np.ndarray]


def _time(n: int) -> np.ndarray:
  return np.arange(n) / RATE


def tone(frequency: np.ndarray | float, n: int, harmonics: np.ndarray) -> np.ndarray:
  """A sum of harmonics of an instantaneous frequency in Hz, without those above 7.6 kHz."""
  frequency = np.broadcast_to(np.asarray(frequency, np.float64), (n,))
  phase = 2 * np.pi * np.cumsum(frequency) / RATE
  out = np.zeros(n)
  for k, level in enumerate(harmonics, start=1):
    out += level * np.sin(k * phase) * (k * frequency < 7600)
  return out


def fade(x: np.ndarray, seconds: float = 0.01) -> np.ndarray:
  """Raised-cosine ramps at both ends, to avoid clicks."""
  n = min(int(seconds * RATE), len(x) // 2)
  ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(n) / max(n, 1))
  x = x.copy()
  x[:n] *= ramp
  x[len(x) - n :] *= ramp[::-1]
  return x


def coloured_noise(
  rng: np.random.Generator, n: int, slope: float, low: float = 0.0, high: float = RATE / 2
) -> np.ndarray:
  """Gaussian noise whose amplitude falls as frequency^-slope between `low` and `high` Hz, rms 1."""
  spectrum = np.fft.rfft(rng.standard_normal(n))
  frequency = np.fft.rfftfreq(n, 1 / RATE)
  gain = np.maximum(frequency, 20.0) ** -slope
  spectrum *= gain * (frequency >= low) * (frequency <= high)
  noise = np.fft.irfft(spectrum, n)
  return noise / (np.sqrt(np.mean(noise**2)) + 1e-12)


def _ring(
  rng: np.random.Generator, n: int, partials: np.ndarray, decays: np.ndarray, levels: np.ndarray
) -> np.ndarray:
  """Exponentially decaying sines (Hz, seconds, amplitude), with random phases."""
  t = _time(n)
  out = np.zeros(n)
  for frequency, decay, level in zip(partials, decays, levels):
    if frequency < 7600:
      phase = rng.uniform(0, 2 * np.pi)
      out += level * np.exp(-t / decay) * np.sin(2 * np.pi * frequency * t + phase)
  return out


def _place(out: np.ndarray, x: np.ndarray, at: int) -> None:
  """Adds `x` into `out` from sample `at`, cut at the end."""
  n = min(len(x), len(out) - at)
  if n > 0:
    out[at : at + n] += x[:n]


def beep(rng: np.random.Generator, n: int) -> np.ndarray:
  """One to four equal sine beeps."""
  out = np.zeros(n)
  count = int(rng.integers(1, 5))
  frequency = rng.uniform(300, 3200)
  slot = n // count
  length = int(slot * rng.uniform(0.4, 0.9))
  harmonics = np.array([1.0, rng.uniform(0, 0.3), rng.uniform(0, 0.15)])
  for i in range(count):
    _place(out, fade(tone(frequency, length, harmonics)), i * slot)
  return out


def _chirp(rng: np.random.Generator, n: int, up: bool) -> np.ndarray:
  low = rng.uniform(150, 700)
  high = low * rng.uniform(3, 9)
  start, end = (low, high) if up else (high, low)
  s = np.linspace(0, 1, n) ** rng.uniform(0.7, 1.5)
  frequency = start * (end / start) ** s
  return fade(tone(frequency, n, np.array([1.0, rng.uniform(0, 0.4), rng.uniform(0, 0.2)])), 0.02)


def chirp_up(rng: np.random.Generator, n: int) -> np.ndarray:
  """A tone that rises by one and a half to three octaves."""
  return _chirp(rng, n, up=True)


def chirp_down(rng: np.random.Generator, n: int) -> np.ndarray:
  """A tone that falls by one and a half to three octaves."""
  return _chirp(rng, n, up=False)


def siren(rng: np.random.Generator, n: int) -> np.ndarray:
  """A tone that swings up and down several times, with a few harmonics."""
  centre, depth = rng.uniform(500, 1200), rng.uniform(0.15, 0.5)
  swing = np.sin(2 * np.pi * rng.uniform(2.0, 5.0) * _time(n) + rng.uniform(0, 2 * np.pi))
  if rng.random() < 0.4:  # two-tone horn instead of a wail
    swing = np.tanh(6 * swing)
  harmonics = rng.uniform(0.2, 1.0) ** np.arange(5)
  return fade(tone(centre * (1 + depth * swing), n, harmonics))


def noise_burst(rng: np.random.Generator, n: int) -> np.ndarray:
  """One to three short bursts of white noise with a fast attack."""
  out = np.zeros(n)
  count = int(rng.integers(1, 4))
  for i in range(count):
    length = int(n / count * rng.uniform(0.25, 0.7))
    burst = rng.standard_normal(length) * np.exp(-np.linspace(0, rng.uniform(0.5, 4), length))
    _place(out, fade(burst, 0.003), int(i * n / count + rng.uniform(0, 0.2) * n / count))
  return out


def wind(rng: np.random.Generator, n: int) -> np.ndarray:
  """Pink to brown noise under a slow random swell."""
  noise = coloured_noise(rng, n, rng.uniform(0.7, 1.3), low=40, high=rng.uniform(2000, 7000))
  knots = rng.uniform(0.15, 1.0, 6)
  return noise * np.interp(np.linspace(0, 5, n), np.arange(6), knots)


def clicks(rng: np.random.Generator, n: int) -> np.ndarray:
  """A regular train of very short clicks."""
  out = np.zeros(n)
  period = RATE / rng.uniform(6, 28)
  shape = _ring(rng, 80, rng.uniform(1500, 6000, 3), rng.uniform(0.0004, 0.0012, 3), np.ones(3))
  at = rng.uniform(0, period)
  while at < n:
    _place(out, shape * rng.uniform(0.7, 1.0), int(at))
    at += period * rng.uniform(0.97, 1.03)
  return out


def knock(rng: np.random.Generator, n: int) -> np.ndarray:
  """Two to five knocks on wood: low resonances after a thud."""
  out = np.zeros(n)
  count = int(rng.integers(2, 6))
  resonances = rng.uniform(120, 240) * np.array([1.0, 2.3, 3.9, 5.1])
  for i in range(count):
    hit = _ring(rng, 3200, resonances, np.array([0.035, 0.02, 0.012, 0.008]), 0.6 ** np.arange(4))
    hit[:160] += 0.4 * rng.standard_normal(160) * np.exp(-np.arange(160) / 40)
    _place(out, hit * rng.uniform(0.6, 1.0), int((i + rng.uniform(0.05, 0.25)) * n / count))
  return out


def bell(rng: np.random.Generator, n: int) -> np.ndarray:
  """A struck bell: inharmonic partials; high ones decay first."""
  partials = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.74, 3.76, 5.4]) * rng.uniform(350, 1400)
  partials *= rng.uniform(0.98, 1.02, 8)
  decays = rng.uniform(0.25, 0.7) / np.sqrt(np.arange(1, 9))
  return fade(_ring(rng, n, partials, decays, rng.uniform(0.3, 1.0, 8)), 0.002)


def drops(rng: np.random.Generator, n: int) -> np.ndarray:
  """Water drops: short tones that rise as the bubble closes."""
  out = np.zeros(n)
  for at in np.sort(rng.integers(0, int(n * 0.85), int(rng.integers(3, 9)))):
    length = int(RATE * rng.uniform(0.03, 0.09))
    s = np.linspace(0, 1, length)
    frequency = rng.uniform(500, 1600) * (1 + rng.uniform(0.4, 1.6) * s**2)
    drop = tone(frequency, length, np.array([1.0])) * np.exp(-5 * s)
    _place(out, fade(drop, 0.002) * rng.uniform(0.3, 1.0), int(at))
  return out


def engine(rng: np.random.Generator, n: int) -> np.ndarray:
  """A motor: many harmonics of a low, wavering frequency, plus rumble."""
  speed = np.interp(np.linspace(0, 3, n), np.arange(4), rng.uniform(0.8, 1.25, 4))
  base = rng.uniform(35, 110) * speed
  hum = tone(base, n, rng.uniform(0.3, 1.0, 24) * 0.88 ** np.arange(24))
  beat = 1 + 0.4 * np.sin(np.pi * np.cumsum(base) / RATE)
  return hum * beat + rng.uniform(0.2, 0.6) * coloured_noise(rng, n, 1.0, low=40, high=900)


def birds(rng: np.random.Generator, n: int) -> np.ndarray:
  """A bird's phrase: a syllable of fast frequency sweeps, repeated with small changes."""
  out = np.zeros(n)
  count = int(rng.integers(3, 9))
  base, bend, warble = rng.uniform(2200, 4500), rng.uniform(-0.35, 0.35), rng.uniform(15, 60)
  for i in range(count):
    length = int(n / count * rng.uniform(0.35, 0.75))
    s = np.linspace(0, 1, length)
    frequency = base * (1 + bend * s + 0.12 * np.sin(2 * np.pi * warble * _time(length)))
    note = tone(frequency * rng.uniform(0.95, 1.05), length, np.array([1.0, 0.15]))
    _place(out, note * np.sin(np.pi * s) ** 0.7, int((i + rng.uniform(0, 0.15)) * n / count))
  return out


EVENTS: dict[str, Event] = {
  f.__name__: f
  for f in (
    beep, bell, birds, chirp_down, chirp_up, clicks, drops, engine, knock, noise_burst, siren, wind
  )
}  # fmt: skip
