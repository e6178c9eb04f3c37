"""Front-ends as values: the kind of spectrogram, its settings, and its normalisation statistics.

A `Frontend` is hashable (an attribute of a Flax module), converts to and from plain JSON (stored in
every weight file) and is a function on a padded batch:

  frontend = Frontend.create('kaldi_fbank', statistics='esc50')
  spectrogram, frame_mask = frontend(audio, audio_mask)          # [b, s, f], [b, s]

`FRONTENDS` names the published ones. Dimensions: see spectral.py.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from research.errors import InputError, unknown
from research.features import deltas, fbank, mfcc, spectral
from research.features.spectral import Array

# Mean and standard deviation of the 128-bin Kaldi log-mel over all pixels of each data set's padded
# clips, as published with AudioMAE (main_pretrain.py, main_finetune_as.py) and AST (egs/*/run.sh).
# Both divide by 2 std.
STATISTICS: dict[str, tuple[float, float]] = {
  'audioset': (-4.2677393, 4.5689974),
  'k400': (-4.2677393, 4.5689974),
  'esc50': (-6.6268077, 5.358466),
  'speech_commands': (-6.845978, 5.5654526),
}

# Spectrogram functions by kind.
KINDS: dict[str, Callable] = {
  'kaldi_fbank': fbank.kaldi_fbank,
  'fbank_deltas': deltas.kaldi_fbank_deltas,
  'mfcc': mfcc.kaldi_mfcc_deltas,
  'log_mel': spectral.log_mel,
  'whisper': spectral.whisper_log_mel,
}

_PLAIN = dict(mean=0.0, std=1.0, std_factor=1.0)
_BYOL_A = dict(
  kind='log_mel',
  sample_rate=16000,
  num_mel_bins=64,
  n_fft=1024,
  hop_length=160,
  f_min=60.0,
  f_max=7800.0,
)
_CLAP = dict(
  kind='log_mel',
  sample_rate=48000,
  num_mel_bins=64,
  n_fft=1024,
  hop_length=480,
  f_min=50.0,
  f_max=14000.0,
  log='db',
  floor=1e-10,
)

# Functions that some of them pass their arguments on to.
INNER: dict[str, Callable] = {'mfcc': mfcc.kaldi_mfcc, 'fbank_deltas': fbank.kaldi_fbank}

# Published front-ends. Omitted arguments have the defaults of the function.
FRONTENDS: dict[str, dict[str, Any]] = {
  # AudioMAE dataset.py, AST src/dataloader.py, EAT data/raw_audio_dataset.py.
  'kaldi_fbank': dict(kind='kaldi_fbank', mean=-4.2677393, std=4.5689974, std_factor=2.0),
  # BEATs.py: 16-bit scale, Kaldi's own window.
  'beats': dict(
    kind='kaldi_fbank', window='povey', scale=2.0**15, mean=15.41663, std=6.55582, std_factor=2.0
  ),
  # byol_a/dataset.py: the released code defaults to torchaudio's mel; the released weights were
  # trained with librosa's.
  'byol_a_v1': dict(_BYOL_A, scale='htk', norm='none', **_PLAIN),
  'byol_a_v1_librosa': dict(_BYOL_A, power_offset=2.220446049250313e-16, **_PLAIN),
  # v2/train_v2.py (nnAudio).
  'byol_a_v2': dict(_BYOL_A, **_PLAIN),
  # whisper/audio.py; num_mel_bins=128 for large-v3.
  'whisper': dict(kind='whisper', **_PLAIN),
  # clap_module/htsat.py (non-fusion) and training/data.py (fusion).
  'laion_clap': dict(_CLAP, **_PLAIN),
  'laion_clap_fusion': dict(_CLAP, scale='htk', norm='none', **_PLAIN),
  # msclap/models/audio.py (Cnn14). HTSAT's wrapper has the filters of 32 kHz for audio of 44.1 kHz.
  'msclap_2022': dict(_CLAP | dict(sample_rate=44100, hop_length=320), **_PLAIN),
  'msclap_2023': dict(_CLAP | dict(sample_rate=44100, hop_length=320), filter_rate=32000, **_PLAIN),
  # fairseq examples/hubert/simple_kmeans/dump_mfcc_feature.py: 39 dimensions at 100 Hz.
  'mfcc': dict(kind='mfcc', **_PLAIN),
  # s3prl upstream/baseline/fbank.yaml, fbank_no_cmvn.yaml: 240 dimensions at 100 Hz.
  'superb_fbank': dict(kind='fbank_deltas', num_mel_bins=80, window='povey', **_PLAIN),
  'superb_fbank_no_cmvn': dict(
    kind='fbank_deltas', num_mel_bins=80, window='povey', normalise_clips=False, **_PLAIN
  ),
  # Not a published front-end: set all arguments.
  'log_mel': dict(
    kind='log_mel', sample_rate=16000, num_mel_bins=80, n_fft=400, hop_length=160, **_PLAIN
  ),
}

_OWN = ('sample_rate', 'num_mel_bins', 'mean', 'std', 'std_factor')
_POSITIVE = {
  'sample_rate',
  'num_mel_bins',
  'std',
  'std_factor',
  'n_fft',
  'hop_length',
  'num_ceps',
  'frame_length_ms',
  'frame_shift_ms',
}


def _defaults(kind: str) -> dict[str, Any]:
  """Every keyword argument of a kind's function with its default (None where it has none)."""
  found: dict[str, Any] = {}
  for function in (KINDS[kind], *([INNER[kind]] if kind in INNER else [])):
    for name, parameter in inspect.signature(function).parameters.items():
      if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        found[name] = None if parameter.default is inspect.Parameter.empty else parameter.default
  return found


@dataclasses.dataclass(frozen=True)
class Frontend:
  """waveform -> normalised spectrogram.

  Build one with `Frontend.create`, which fills in published values.

  Attributes:
    name: a key of FRONTENDS.
    sample_rate: Hz of the audio it takes.
    num_mel_bins: mel filters.
    mean, std, std_factor: normalise(x) = (x - mean) / (std_factor * std).
    settings: every other argument of the spectrogram function, as sorted (name, value) pairs.
  """

  name: str
  sample_rate: int
  num_mel_bins: int
  mean: float
  std: float
  std_factor: float
  settings: tuple[tuple[str, Any], ...]

  @classmethod
  def create(
    cls, name: str = 'kaldi_fbank', *, statistics: str | None = None, **overrides: Any
  ) -> 'Frontend':
    """The published front-end of that name, with overrides.

    Args:
      name: a key of FRONTENDS.
      statistics: a key of STATISTICS that gives mean and std (Kaldi log-mel with 128 bins only).
      **overrides: sample_rate, num_mel_bins, mean, std, std_factor, or any argument of the
        spectrogram function.

    Raises:
      InputError: unknown name, data set or argument, or an invalid value.
    """
    if name not in FRONTENDS:
      raise unknown('front-end', name, FRONTENDS)
    preset = dict(FRONTENDS[name])
    values = {**_defaults(preset.pop('kind')), **preset}
    for key, value in overrides.items():
      if key not in values:
        raise unknown(f'argument of front-end {name}', key, [*values, 'statistics'])
      _check(name, key, value, values[key])
      values[key] = value
    if statistics is not None:
      for key, value in _statistics(name, statistics, values).items():
        values[key] = overrides.get(key, value)
    own = {key: values.pop(key) for key in _OWN}
    frontend = cls(name=name, settings=tuple(sorted(values.items())), **own)

    # Inconsistent settings are rejected here, not in the middle of a run.
    one = jax.ShapeDtypeStruct((1, frontend.min_samples), jnp.float32)
    jax.eval_shape(frontend.raw, one, jax.ShapeDtypeStruct(one.shape, jnp.bool_))
    return frontend

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> 'Frontend':
    """The inverse of `to_dict`; also accepts a partial dict, as in a config."""
    return cls.create(**dict(values))

  def to_dict(self) -> dict[str, Any]:
    """Every value, flat and JSON-able."""
    return {'name': self.name, **{key: getattr(self, key) for key in _OWN}, **dict(self.settings)}

  def replace(self, **changes: Any) -> 'Frontend':
    """The same front-end with other values: replace(mean=-5.0), replace(statistics='esc50')."""
    values = self.to_dict()
    if changes.get('statistics') is not None:
      del values['mean'], values['std']
    return Frontend.create(**{**values, **changes})

  def differences(self, other: Any) -> dict[str, tuple[Any, Any]]:
    """Differing arguments: {argument: (mine, theirs)}. Names alone do not count."""
    mine, theirs = self.to_dict(), other.to_dict()
    if self.kind != other.kind:
      return {'name': (self.name, other.name)}
    return {
      key: (mine[key], theirs[key]) for key in mine if key != 'name' and mine[key] != theirs[key]
    }

  def __call__(
    self, audio: Float[Array, 'b t'], audio_mask: Bool[Array, 'b t'], frames: int | None = None
  ) -> tuple[Float[jax.Array, 'b s f'], Bool[jax.Array, 'b s']]:
    """Normalised spectrogram and frame mask.

    Frames behind the mask are 0 before normalisation, as published, and so -mean / (std_factor *
    std) after it.

    Args:
      audio: waveform in [-1, 1] at `sample_rate`.
      audio_mask: True for real samples.
      frames: pad or cut to N frames; None keeps all.
    """
    spectrogram, frame_mask = self.raw(audio, audio_mask)
    if frames is not None:
      spectrogram, frame_mask = fit_frames(spectrogram, frame_mask, frames)
    return self.normalise(spectrogram), frame_mask

  def raw(
    self, audio: Float[Array, 'b t'], audio_mask: Bool[Array, 'b t']
  ) -> tuple[Float[jax.Array, 'b s f'], Bool[jax.Array, 'b s']]:
    """Spectrogram before normalisation (0 behind the mask) and frame mask."""
    self.check(audio.shape[1])
    function = KINDS[self.kind]
    return function(
      audio,
      audio_mask,
      sample_rate=self.sample_rate,
      num_mel_bins=self.num_mel_bins,
      **dict(self.settings),
    )

  def normalise(self, spectrogram: Float[Array, '*shape']) -> Float[jax.Array, '*shape']:
    """(x - mean) / (std_factor * std)."""
    return (jnp.asarray(spectrogram) - self.mean) / (self.std_factor * self.std)

  def denormalise(self, spectrogram: Float[Array, '*shape']) -> Float[jax.Array, '*shape']:
    """The inverse of `normalise`."""
    return jnp.asarray(spectrogram) * (self.std_factor * self.std) + self.mean

  @property
  def kind(self) -> str:
    """The spectrogram function's key in KINDS."""
    return FRONTENDS[self.name]['kind']

  @property
  def num_features(self) -> int:
    """Size of the last axis of the output."""
    settings = dict(self.settings)
    if self.kind == 'mfcc':
      return 3 * settings['num_ceps']
    if self.kind == 'fbank_deltas':
      return (self.num_mel_bins + bool(settings['use_energy'])) * (1 + settings['delta_order'])
    return self.num_mel_bins + bool(settings.get('use_energy'))

  @property
  def hop_samples(self) -> int:
    """Samples between frames."""
    settings = dict(self.settings)
    if 'frame_shift_ms' in settings:
      return fbank.frame_samples(self.sample_rate, settings['frame_shift_ms'])
    return settings['hop_length']

  @property
  def min_samples(self) -> int:
    """Minimum samples for one frame."""
    settings = dict(self.settings)
    if 'frame_shift_ms' in settings:
      size = fbank.frame_samples(self.sample_rate, settings['frame_length_ms'])
      return fbank.kaldi_min_samples(size, self.hop_samples, settings['snip_edges'])
    if self.kind == 'whisper':
      edge = settings['n_fft'] // 2 + 1
      return max(1, max(edge, settings['hop_length']) - settings['appended'])
    return spectral.stft_min_samples(
      settings['n_fft'],
      settings['hop_length'],
      center=settings['center'],
      pad_mode=settings['pad_mode'],
      drop_last=settings['drop_last'],
    )

  def frames(self, samples: int) -> int:
    """Number of frames of a clip of N samples; 0 if it is too short."""
    if samples < self.min_samples:
      return 0
    settings = dict(self.settings)
    if 'frame_shift_ms' in settings:
      size = fbank.frame_samples(self.sample_rate, settings['frame_length_ms'])
      return fbank.kaldi_frame_count(samples, size, self.hop_samples, settings['snip_edges'])
    n_fft, hop = settings['n_fft'], settings['hop_length']
    if self.kind == 'whisper':
      return (samples + settings['appended'] + 2 * (n_fft // 2) - n_fft) // hop
    edge = n_fft // 2 if settings['center'] else 0
    return 1 + (samples + 2 * edge - n_fft) // hop - settings['drop_last']

  def samples(self, frames: int) -> int:
    """Minimum samples for N frames."""
    low = self.min_samples
    missing = frames - self.frames(low)
    if missing <= 0:
      return low
    # Each hop adds a frame; the minimum length may include part of a hop.
    exact = low + missing * self.hop_samples
    return next(n for n in range(exact - self.hop_samples, exact + 1) if self.frames(n) >= frames)

  def check(self, samples: int) -> None:
    """Raises InputError, in seconds and samples, if a clip is too short for one frame."""
    spectral.check_samples(
      samples, self.min_samples, f'the front-end {self.name}', self.sample_rate
    )


def fit_frames(
  spectrogram: Float[Array, 'b s f'], frame_mask: Bool[Array, 'b s'], frames: int
) -> tuple[Float[jax.Array, 'b frames f'], Bool[jax.Array, 'b frames']]:
  """Pads with zeros, or keeps the first frames."""
  extra = max(0, frames - spectrogram.shape[1])
  spectrogram = jnp.pad(spectrogram[:, :frames], ((0, 0), (0, extra), (0, 0)))
  return spectrogram, jnp.pad(frame_mask[:, :frames], ((0, 0), (0, extra)))


def _statistics(name: str, data_set: str, values: Mapping[str, Any]) -> dict[str, float]:
  """Mean and std of a data set, for the front-end they were measured with."""
  if data_set not in STATISTICS:
    raise unknown('statistics', data_set, STATISTICS)
  if (name, values['sample_rate'], values['num_mel_bins']) != ('kaldi_fbank', 16000, 128):
    raise InputError(
      f'The published statistics of {data_set!r} are for the front-end kaldi_fbank with 128 '
      f'bins at 16000 Hz, not for {name} with {values["num_mel_bins"]} bins at '
      f'{values["sample_rate"]} Hz: give mean and std.'
    )
  return dict(zip(('mean', 'std'), STATISTICS[data_set]))


def _check(name: str, key: str, value: Any, default: Any) -> None:
  """Raises InputError for a value of another type than the default, or not above 0 if required."""
  what = f'{key} of front-end {name} is {value!r}: expected '
  if isinstance(default, bool) or isinstance(value, bool):
    if not (isinstance(default, bool) and isinstance(value, bool)):
      raise InputError(
        what + ('True or False.' if isinstance(default, bool) else 'a value that is not a bool.')
      )
  elif isinstance(default, str) and not isinstance(value, str):
    raise InputError(what + f'a name, such as {default!r}.')
  elif isinstance(default, int) and not isinstance(value, int):
    raise InputError(what + 'a whole number.')
  elif isinstance(default, float) and not isinstance(value, int | float):
    raise InputError(what + 'a number.')
  if key in _POSITIVE and not value > 0:
    raise InputError(what + 'a number above 0.')
