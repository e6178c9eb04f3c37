"""`load` and `save`: a model with its weights, its front-end and where they came from."""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from safetensors.numpy import save_file

from research import models
from research.capabilities import (
  Answers,
  ComparesTexts,
  Composed,
  HasTraining,
  Hears,
  WritesCaptions,
  WritesSpeech,
)
from research.errors import InputError, unknown
from research.features.frontend import Frontend
from research.features.waveform import Waveform
from research.inference import generators, transcribers
from research.inference.codec import Codec, Coded
from research.inference.ctc import Transcript
from research.inference.diarize import Diarizer
from research.inference.embedder import Embedder, from_model
from research.inference.inputs import Audio
from research.inference.separate import Separator
from research.inference.speaker_clusters import ClusterDiarizer
from research.inference.speakers import SpeakerEncoder
from research.jobs import mirror, paths
from research.metrics.diarization import Segment
from research.models import finetuned, settings
from research.nn import adapters
from research.nn.layers import unstack_blocks
from research.text.whisper import WhisperTokenizer
from research.weights import conversion, downloads, read, tables, tokenizer_files, writers

FILE = 'model.safetensors'
FORMAT = 1
AnyFrontend = Frontend | Waveform
# Models that are nothing without their tokenizer.
WITH_TEXT = (Answers, ComparesTexts, WritesCaptions, WritesSpeech)


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
  """A model and its weights, ready to use.

  Attributes:
    name: of the model, as `research.models.get` takes it.
    model: the Flax module.
    variables: its weights: 'params' and other collections.
    origin: where they came from: a sentence.
    tokenizer: file or folder where the tokenizer of the weights is, if they need one: what the run
      was trained with, or the folder that they lie in.
    place: what `load` was given; None where nothing was loaded.
  """

  name: str
  model: nn.Module
  variables: dict[str, Any]
  origin: str
  tokenizer: str | None = None
  place: str | None = None

  @property
  def frontend(self) -> AnyFrontend:
    """From audio to what the model takes, with the settings that the weights were trained with.

    Raises:
      InputError: the model takes no audio.
    """
    if not isinstance(self.model, Hears):
      raise InputError(f'{self.name} takes no audio: it has no front-end.')
    return self.model.frontend

  @functools.cached_property
  def embedder(self) -> Embedder:
    """It as evaluation, clustering and export see any system."""
    return from_model(self.model, self.variables, self.name, self.fingerprint)

  @functools.cached_property
  def _unhashed(self) -> Embedder:
    return from_model(self.model, self.variables, self.name, weights='')

  def embed(
    self,
    audio: Audio | Sequence[Audio],
    sample_rate: float | None = None,
    *,
    layers: str | int = 'last',
    pool: str | None = None,
    batch_size: int = 16,
  ) -> np.ndarray | list[np.ndarray]:
    """Embeddings of one clip or many, of any length: see `Embedder.embed`."""
    # Nothing is kept under the hash of the weights, which takes long of large ones.
    return self._unhashed.embed(audio, sample_rate, layers=layers, pool=pool, batch_size=batch_size)

  @functools.cached_property
  def _reader(self) -> WhisperTokenizer:
    return transcribers.read_tokenizer(self.model, self.tokenizer)

  def transcribe(
    self,
    audio: Audio | Sequence[Audio],
    sample_rate: float | None = None,
    **options: Any,
  ) -> Transcript | list[Transcript]:
    """What is said in one recording or many, of any length: texts, with times.

    Args:
      audio: a path, samples in [-1, 1] ([t] for one, [b, t] for several), or a list of either.
      sample_rate: of arrays, Hz. Files know theirs.
      **options: of a Whisper, see `transcribers.whisper`: language, task, timestamps,
        word_timestamps, beam_size, temperature, initial_prompt, tokenizer, …. A model with a CTC
        head has none, and always gives words.

    Raises:
      InputError: the model writes no text, it has no such option, its tokenizer is missing or does
        not fit, or audio that cannot be used.
    """
    if isinstance(self.model, WritesSpeech):
      given = options.pop('tokenizer', None)
      reader = self._reader if given is None else transcribers.read_tokenizer(self.model, given)
      own: Any = transcribers.whisper(self.model, self.variables, reader, **options)
    else:
      own = transcribers.ctc(self.model, self.variables, **options)
    return own.transcribe(audio, sample_rate)

  def caption(
    self,
    audio: Audio | Sequence[Audio],
    sample_rate: float | None = None,
    *,
    tokenizer: str | None = None,
    suffix: str | None = None,
    **options: Any,
  ) -> str | list[str]:
    """What is heard in one clip or many: a sentence each.

    Args:
      audio: a path, samples in [-1, 1] ([t] for one, [b, t] for several), or a list of either.
      sample_rate: of arrays, Hz. Files know theirs.
      tokenizer: a folder, a file or 'bytes'; None: that of the weights.
      suffix: what ended captions in training; None: that of the run, else the published one.
      **options: beams, max_tokens, temperature, …, see `caption.Captioner`.

    Raises:
      InputError: the model writes no captions, its tokenizer is missing or does not fit, or audio
        that cannot be used.
    """
    own = writers.captioner(self, tokenizer, suffix, **options)
    return own.caption(audio, sample_rate)

  def answer(
    self,
    audio: Audio | Sequence[Audio] | None,
    messages: Any,
    sample_rate: float | None = None,
    **options: Any,
  ) -> str:
    """The answer of an audio language model to a question about clips.

    Args:
      audio: a path, samples [t] in [-1, 1], or a list of either; None: the messages have paths.
      messages: a question about these clips; or a conversation, see `text.messages`, with a clip
        for each of them.
      sample_rate: of arrays, Hz. Files know theirs.
      **options: tokenizer, base, on_text, max_new_tokens, do_sample, …, see `writers.chat`.

    Raises:
      InputError: the model answers nothing, its tokenizer is missing or does not fit, messages or
        audio that cannot be used.
    """
    on_text = options.pop('on_text', None)
    own = writers.chat(self, **options)
    return own.answer(*own.heard(audio, messages, sample_rate), on_text)

  def diarize(
    self, audio: Audio, sample_rate: float | None = None, **options: Any
  ) -> list[Segment]:
    """Who speaks when in a recording of any length: (start, end, speaker), seconds.

    Args:
      audio: a path, or samples [t] in [-1, 1].
      sample_rate: of samples, Hz. Files know theirs.
      **options: of a model with the head 'diarization' see `Diarizer`: threshold, median, …. With
        speakers= or similarity= voices are clustered, by the head 'x_vector' or an encoder's
        embeddings: see `ClusterDiarizer`.

    Raises:
      InputError: the model cannot, it has no such option, or audio that cannot be used.
    """
    if {'speakers', 'similarity'} & set(options):
      return self._made(ClusterDiarizer, self._speakers, **options)(audio, sample_rate)
    return self._made(Diarizer, self.model, self.variables, **options)(audio, sample_rate)

  @functools.cached_property
  def _speakers(self) -> SpeakerEncoder:
    return SpeakerEncoder(self.model, self.variables)

  def speaker(self, audio: Audio, sample_rate: float | None = None) -> np.ndarray:
    """The voice of a recording, float64 [d] of length 1: see `SpeakerEncoder.vector`."""
    return self._speakers.vector(audio, sample_rate)

  def verify(self, first: Audio, second: Audio, sample_rate: float | None = None) -> float:
    """How alike the voices of two recordings are: the cosine of their vectors. What it means for a
    pair says a calibration, see `launch.verify`."""
    return self._speakers.similarity(first, second, sample_rate)

  def separate(self, audio: Audio, sample_rate: float | None = None, **options: Any) -> np.ndarray:
    """The signals of a recording of any length, float32 [k, t] at the model's rate: one, cleaned of
    noise, or several speakers. Arguments as of `diarize`; options: see `Separator`.

    Raises:
      InputError: the model gives no signals, it has no such option, or audio that cannot be used.
    """
    return self._made(Separator, self.model, self.variables, **options)(audio, sample_rate)

  def encode(
    self, audio: Audio, sample_rate: float | None = None, bandwidth: float | None = None
  ) -> Coded:
    """Codes of a clip of any length, by a codec: see `codec.Codec.encode` and `.samples`."""
    return Codec(self.model, self.variables, bandwidth).encode(audio, sample_rate)

  def decode(self, codes: Coded | str | os.PathLike) -> np.ndarray:
    """The audio of codes, or of a file of them (.ecdc, .npz, .safetensors): float32 [t, a] at the
    codec's rate."""
    own = Codec(self.model, self.variables)
    return own.decode(own.read(codes) if isinstance(codes, (str, os.PathLike)) else codes)

  def generate(self, seconds: float | None = None, **asked: Any) -> np.ndarray | list[np.ndarray]:
    """Audio of a model that generates it, float32 [t]: see `generators.generate`."""
    return generators.generate(self.model, self.variables, seconds, **asked)

  def _made(self, cls: Any, *args: Any, **options: Any) -> Any:
    known = list(inspect.signature(cls).parameters)[len(args) :]
    for name in options:
      if name not in known:
        raise unknown('option', name, known)
    return cls(*args, **options)

  @property
  def fingerprint(self) -> str:
    """Hash of weights, sizes and front-end: equal for equal embeddings, whatever file they came
    from. Of models that name their settings of training (TRAINING) those are not in it."""
    digest = hashlib.sha256()
    digest.update(json.dumps([self.name, _lasting(self.model)], sort_keys=True).encode())
    for key, value in sorted(tables.flatten(unstack_blocks(self.variables)).items()):
      digest.update(key.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _lasting(model: Any) -> dict[str, Any]:
  """Arguments on which outputs depend, those of parts by themselves."""
  left_out = (*HOW, *(model.TRAINING if isinstance(model, HasTraining) else ()))
  about = {k: v for k, v in model_args(model, defaults=True).items() if k not in left_out}
  if isinstance(model, Composed):
    for part, get in model.PARTS.items():
      if about[part]:
        module = get(about[part]['name'])(**about[part]['args'], parent=None)
        about[part] = [about[part]['name'], _lasting(module)]
  return about


# Arguments that say how to compute, not what.
HOW = ('scan_layers', 'remat', 'attention')
# Arguments of training that files of older versions have.
RETIRED = ('mask_rows',)


def model_args(model: nn.Module, defaults: bool = False) -> dict[str, Any]:
  """A model's arguments, JSON-able: those that differ from its defaults, or all; always the
  front-end."""
  return settings.arguments(model, defaults)


# -- Saving ------------------------------------------------------------------------------------


def save(pretrained: Pretrained, path: str | os.PathLike) -> paths.AnyPath:
  """Writes a safetensors file that `load` understands without anything else.

  Args:
    pretrained: what to save.
    path: of a disk, gs:// or s3://: a .safetensors file, or a folder to write model.safetensors in,
      with the files of the tokenizer that a model of texts needs.

  Returns:
    the file. Its metadata hold the model's name and arguments, the front-end and the origin.
  """
  place = paths.path(path)
  file = place if place.suffix == '.safetensors' else place / FILE
  with mirror.folder(file.parent) as folder:
    _write(pretrained, folder / file.name)
    if place is not file and isinstance(pretrained.model, WITH_TEXT):
      said = isinstance(pretrained.model, Answers)
      tokenizer_files.copy(pretrained.tokenizer, folder, decoding=said)
  return file


def _write(pretrained: Pretrained, file: Path) -> None:
  flat = tables.flatten(unstack_blocks(nn.meta.unbox(pretrained.variables)))
  # safetensors writes wrong data for arrays that are not contiguous; a scalar stays one.
  arrays = {k: np.asarray(v, order='C') for k, v in flat.items()}
  about = {
    'format': FORMAT,
    'model': {'name': pretrained.name, 'args': model_args(pretrained.model, defaults=True)},
    'origin': pretrained.origin,
  }
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    # A reader never sees half a file.
    partial = file.with_suffix('.partial')
    save_file(arrays, partial, metadata={'oido': json.dumps(about)})
    os.replace(partial, file)
  except OSError as error:
    raise InputError(
      f'Cannot write weights to {str(file)!r}: {error.strerror or error}.'
    ) from error


# -- Loading -----------------------------------------------------------------------------------


def load(
  path: str | os.PathLike, release: str | None = None, *, teacher: bool = False,
  whole: bool = False, **args: Any,
) -> Pretrained:  # fmt: skip
  """A model with its weights.

  Args:
    path: of a disk, gs:// or s3://: a workdir of ours (its best checkpoint where
      `config.checkpoint.best` says what counts, else its newest), one checkpoint in it, a
      safetensors file that we saved, a folder with one, a file of original weights, or a folder
      as transformers saves it; hf://ORG/NAME[@REVISION] or https://…#sha256=…, see
      `downloads`. What the file or folder says beside the arrays counts.
    release: whose original weights they are, a key of `RELEASES`; None: detected, see `detect`.
    teacher: take the EMA teacher of a checkpoint.
    whole: keep parts that only training needs, as a discriminator.
    **args: model arguments. For our own weights they may change how the model computes (dtype,
      padding, scan_layers, …) but not contradict what the weights are; for a release see `convert`.

  Raises:
    InputError: nothing there, not readable, or the weights do not fit the arguments: a front-end
      or a size that contradicts the weights is refused with both values named.
  """
  found = _load(path, release, teacher, args)
  own = (found.model, found.variables) if whole else tables.shed(found.model, found.variables)
  return dataclasses.replace(found, model=own[0], variables=own[1], place=str(path))


def _load(
  path: str | os.PathLike, release: str | None, teacher: bool, args: dict[str, Any]
) -> Pretrained:
  name = str(path) if downloads.is_download(path) else None
  place = downloads.fetch(name) if name else paths.path(path)
  if paths.is_remote(place):
    place = _remote(place)
  if release is not None:
    return _load_release(place, release, args, name)
  if not place.exists():
    raise InputError(f'There are no weights at {str(place)!r}: give a workdir or a weights file.')
  if read.is_workdir(place):
    variables, which = read.read_run(place, teacher)
    return _load_run(place, variables, which, args)
  if read.is_checkpoint(place):
    variables = read.read_checkpoint(place, teacher)
    workdir = (place if paths.is_remote(place) else place.absolute()).parent.parent
    return _load_run(workdir, variables, f'step {place.name}', args)
  file = place / FILE if place.is_dir() else place
  if read.is_ours(file):
    return _load_saved(file, args)
  if place.is_dir() and not any((place / each).exists() for each in read.WEIGHTS):
    raise InputError(
      f'{str(place)!r} holds no weights: expected a workdir (config.json and checkpoints/), '
      f'{FILE}, or a folder of transformers.'
    )
  return _load_release(place, None, args, name)


def _remote(path: paths.AnyPath) -> paths.AnyPath:
  """An address that is a run or one of its checkpoints, as it is; files of weights, copied into
  the cache folder.

  Raises:
    InputError: there is nothing, or it cannot be read.
  """
  with paths.sentences(path, 'read'):
    found = paths.info(path)
    if found is None:
      raise InputError(
        f"There are no weights at '{path}': give a workdir, a folder or a weights file."
      )
    if found.get('type') == 'file':
      return paths.local_copy(path)
    if read.is_workdir(path) or read.is_checkpoint(path):
      return path
    return paths.local_folder(path)


def _load_release(
  path: Path, release: str | None, args: dict[str, Any], address: str | None
) -> Pretrained:
  release, arrays, files = conversion.read_files(release, path)
  model, variables = conversion.convert_files(release, arrays, files, args)
  name = models.name_of(type(model))
  tables.check_numbers(variables, address or str(path))
  origin = f'{release} weights from {address or path.name}'
  return Pretrained(name, model, variables, origin, _beside(path))


def _load_run(
  workdir: paths.AnyPath, variables: dict[str, Any], which: str, args: dict[str, Any]
) -> Pretrained:
  model = read.read_config(workdir)
  name = workdir.name if paths.is_remote(workdir) else workdir.absolute().name
  origin = f'run {name}, {which}'
  flat = tables.flatten(unstack_blocks(adapters.merged(variables)))
  tokenizer = read.read_tokenizer_place(workdir) or str(workdir)
  return _assemble(model, flat, origin, args, tokenizer)


def _load_saved(file: Path, args: dict[str, Any]) -> Pretrained:
  arrays, metadata = read.read_arrays(file)
  try:
    about = json.loads(metadata['oido'])
    own, known = about['format'], isinstance(about['model']['args'], dict)
    known = known and isinstance(about['model']['name'], str) and isinstance(about['origin'], str)
  except (ValueError, KeyError, TypeError, RecursionError):
    own, known = FORMAT, False
  if not known:
    raise InputError(f'{str(file)!r} is damaged: its header does not say which model it is for.')
  if own != FORMAT:
    raise InputError(f'{str(file)!r} has format {own}, this version reads {FORMAT}: update oido.')
  return _assemble(about['model'], arrays, about['origin'], args, _beside(file))


def _beside(path: Path) -> str:
  """The folder of weights."""
  return str(path if path.is_dir() else path.parent)


def _assemble(
  spec: Mapping[str, Any],
  flat: Mapping[str, Any],
  origin: str,
  args: dict[str, Any],
  tokenizer: str,
) -> Pretrained:
  """Model and checked variables from saved arguments and the caller's changes."""
  known = {k: v for k, v in spec['args'].items() if k not in RETIRED}
  saved: Any = conversion.build(spec['name'], known)
  changes = dict(args)
  given = changes.pop('frontend', None)
  if given is not None:
    if not isinstance(saved, Hears):
      raise InputError(f'frontend={given!r} was given, but {spec["name"]} takes no audio.')
    own = saved.frontend
    if not isinstance(given, (Frontend, Waveform)):
      waveform = isinstance(own, Waveform)
      given = (
        Waveform.from_dict({**own.to_dict(), **given}) if waveform else Frontend.from_dict(given)
      )
    check_frontend(own, given)
  model = conversion.build(spec['name'], conversion.changed(spec['name'], known, changes))
  try:
    variables = tables.nest(flat, model)
  except InputError as error:
    own_args = finetuned.flat_arguments(saved)
    for name, value in changes.items():
      if own_args[name] != value:
        raise InputError(
          f'{name}={value!r} was given, but the weights were made with {name}={own_args[name]!r}.'
        ) from error
    raise
  tables.check_numbers(variables, origin)
  return Pretrained(spec['name'], model, variables, origin, tokenizer)


def check_frontend(own: AnyFrontend, given: AnyFrontend) -> None:
  """Refuses a front-end that is not the one the weights were trained with; names both values."""
  different = own.differences(given)
  if different:
    named = '; '.join(
      f'{k} is {a!r} in the weights, {b!r} was asked for' for k, (a, b) in different.items()
    )
    raise InputError(f'These weights belong to another front-end: {named}.')
