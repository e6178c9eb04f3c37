"""What a model can do, declared: small protocols that the rest of the house asks for.

A model is a Flax module that is called with a batch and returns named outputs. Everything beyond
that is a capability. Commands, evaluations and fields ask `isinstance(model, Embeds)`, and never
for single attributes. A model that has no audio (a text model) has no front-end and declares less.

| capability | who asks for it |
|---|---|
| `Model` | every model: its abstract example batch makes weights without data |
| `Hears` | the input pipeline: sample rate and front-end |
| `Embeds` | evaluation, clustering, embedding files |
| `Encodes` | `models.finetuned`: an encoder under a head, in training |
| `Composed` | configs and weights: arguments that describe modules |
| `Freezes` | the optimiser: parameters that never learn |
| `Classifies` | the field of labels |
| `HearsLabels` | the field of labels: classes that a model is conditioned on |
| `Names` | classification: names of the classes |
| `ComparesTexts` | zero-shot classification, retrieval |
| `Spells` | transcripts: fields, decoders, evaluations |
| `Diarizes` | diarization: who speaks in every frame |
| `ComparesSpeakers` | verification, clusters of speakers: a vector of the voice |
| `Separates` | enhancement and separation: signals of a mixture, or masks of its spectrogram |
| `Generates` | `inference.generate`: writes tokens, one after the other |
| `WritesSpeech` | transcripts: windows of audio that a decoder attends to |
| `WritesCaptions` | captions: clips that a decoder attends to |
| `Answers` | `inference.chat`: questions about clips |
| `GeneratesAudio` | `launch.generate`: audio, continued, conditioned or from nothing |
| `PredictsUnits` | the field of units |
| `EncodesToCodes` | files of codes |
| `DecodesCodes` | codecs: audio of codes, files of codes |
| `Draws` | pictures of a run |
| `TakesStatistics` | protocols that normalise by the data of a task |
| `Resizes` | warm starts: arrays that fit at another size |
| `Borrows` | warm starts: settings that the weights of a part need |
| `HasTraining` | fingerprints: arguments that only training depends on |
| `Sheds` | `weights.load`: parts that only training needs, as a discriminator |
| `MixesRows` | the training loop: batches that cannot have empty rows |
| `NeedsFields` | the input pipeline: fields without which the model cannot learn |

Letters: b batch, t samples, n tokens, d width, l layers, g groups of codes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

Example = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Embedding:
  """How the embeddings of a model are used.

  Attributes:
    pool: from tokens to one vector a clip where nothing else is asked, a key of `pooling.POOLS`.
    max_seconds: the longest clip that is embedded in one piece; None for any.
  """

  pool: str = 'mean'
  max_seconds: float | None = None


@runtime_checkable
class Model(Protocol):
  """Every model."""

  def example(self) -> Example:
    """Shapes and types of the smallest batch from which all parameters can be made."""
    ...


@runtime_checkable
class Hears(Protocol):
  """Takes audio."""

  frontend: Any  # features.frontend.Frontend or features.waveform.Waveform


@runtime_checkable
class Embeds(Hears, Protocol):
  """Gives tokens of every layer for audio of any length."""

  EMBEDDING: Embedding

  def embed(self, audio: Any, audio_mask: Any) -> tuple[Any, Any]:
    """Audio [b, t] and its mask -> tokens [l, b, n, d] float32 and their mask [b, n]."""
    ...


@runtime_checkable
class GivesHiddenStates(Protocol):
  """The method of `Encodes`, which classes can be asked for too."""

  def hidden_states(self, batch: Mapping[str, Any], train: bool, layers: bool) -> dict[str, Any]:
    """'tokens' [b, n, d], 'frame_mask' [b, n] of the real ones, named intermediates; with `layers`
    'layers' [l, b, n, d], those of `embed`. 'cls' [b, d] where there is a class token. In training
    its masks and dropout act."""
    ...


@runtime_checkable
class Encodes(Hears, GivesHiddenStates, Protocol):
  """Can stand under a head.

  FINETUNING holds the arguments that differ from those of pre-training where a head learns: their
  defaults in `models.finetuned`.
  """

  FINETUNING: Mapping[str, Any]


@runtime_checkable
class Composed(Protocol):
  """Has arguments that describe modules, dict(name=…, args={…}).

  PARTS holds, for each of these arguments, the function from a name to a class of modules.
  """

  PARTS: Mapping[str, Callable[[str], type]]


@runtime_checkable
class Freezes(Protocol):
  """Has parameters that never learn: no gradient, no weight decay, no state of the optimiser."""

  @property
  def frozen(self) -> Sequence[str]:
    """Patterns of their paths, without the collection."""
    ...


@runtime_checkable
class Classifies(Protocol):
  """Gives logits [b, c] of classes."""

  @property
  def classes(self) -> int:
    """Number of classes; 0 where the model has no logits."""
    ...


@runtime_checkable
class HearsLabels(Protocol):
  """Is conditioned on classes of clips."""

  @property
  def label_counts(self) -> Mapping[str, int]:
    """{key of a batch: how many classes the model has a vector for}."""
    ...


@runtime_checkable
class Names(Classifies, Protocol):
  """Knows what its classes are called."""

  @property
  def labels(self) -> Sequence[str]:
    """Names in the order of the logits; empty where they are not known."""
    ...


@runtime_checkable
class ComparesTexts(Hears, Protocol):
  """Embeds audio and text in one space."""

  vocabulary: int  # rows of the embedding of tokens
  max_tokens: int  # of a text
  seconds: float  # of a clip
  dim: int

  def embed_clips(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """'audio_embedding' [b, d], normalised."""
    ...

  def embed_texts(self, ids: Any, mask: Any, train: bool = False) -> dict[str, Any]:
    """Ids [n, u] and which of them are real -> 'text_embedding' [n, d], normalised."""
    ...


@runtime_checkable
class Spells(Hears, Protocol):
  """Gives logits [b, n, v] over the symbols of a vocabulary, for CTC."""

  vocabulary: Sequence[str]
  blank: int


@runtime_checkable
class Diarizes(Hears, Protocol):
  """Gives 'logits' [b, n, k] of the speakers of every frame, and 'logits_mask' [b, n]."""

  @property
  def frame_speakers(self) -> int:
    """k; 0 where the model has no such logits."""
    ...


@runtime_checkable
class ComparesSpeakers(Hears, Protocol):
  """Gives 'embedding' [b, d] of unit length, alike for clips of one speaker."""

  @property
  def speaker_width(self) -> int:
    """d; 0 where the embedding is not one of speakers."""
    ...

  @property
  def speaker_frames(self) -> int:
    """Tokens that a clip has at least."""
    ...


@runtime_checkable
class Separates(Hears, Protocol):
  """Gives signals: 'estimates' [b, k, t], or 'masks' [b, k, m, f] of 'mixture' [b, m, f, 2]."""

  @property
  def signals(self) -> int:
    """k; 0 where the model has none."""
    ...

  @property
  def mask_hop(self) -> int:
    """Samples between frames of the spectrogram; 0 where it gives 'estimates'."""
    ...


@runtime_checkable
class Generates(Protocol):
  """Writes tokens one after the other. Letters: r rows, u tokens, v vocabulary."""

  @property
  def vocab_size(self) -> int:
    """Number of tokens that have logits."""
    ...

  @property
  def max_tokens(self) -> int:
    """Tokens that a row can have in all, prompt included."""
    ...

  def start(self, rows: int, slots: int, memories: Any = None) -> Any:
    """The state (`nn.cache.State`) before the first token, of rows that take up to `slots` tokens,
    padding included. `memories`: what rows attend to besides their tokens, computed once."""
    ...

  def step(self, tokens: Any, state: Any, real: Any = None, at: Any = None) -> tuple[Any, Any]:
    """Tokens [r, u] that come next, a prompt or single ones, of which `real` [r, u] are no padding
    -> (logits [r, u, v] float32 behind each, or behind those `at` [r, p], and the next state)."""
    ...


@runtime_checkable
class WritesSpeech(Hears, Generates, Protocol):
  """Writes what is said in windows of audio, and when: `inference.whisper_decoding`."""

  n_vocab: int
  n_audio_ctx: int  # audio tokens of a window
  n_text_ctx: int
  alignment_heads: Any  # (layer, head) of the decoder whose attention follows the audio

  @property
  def multilingual(self) -> bool:
    """Whether the vocabulary has languages and tasks."""
    ...

  @property
  def window_frames(self) -> int:
    """Frames of the front-end in a window."""
    ...

  def encode(self, mel: Any) -> Any:
    """Windows [b, s, f] -> audio tokens [b, n, d]."""
    ...

  def remember(self, encoded: Any) -> Any:
    """What the decoder attends to, computed once from audio tokens."""
    ...


@runtime_checkable
class WritesCaptions(Hears, Generates, Protocol):
  """Writes what is heard in clips: `inference.caption`."""

  vocabulary: int
  seconds: float  # of a clip

  def remember_clips(self, audio: Any, audio_mask: Any) -> Any:
    """What the decoder attends to, computed once from clips [b, t] and their mask."""
    ...


@runtime_checkable
class Answers(Hears, Generates, Protocol):
  """Answers questions about clips in words: `inference.chat`. See `models.audio_prompts`."""

  prompt: Any  # how it is spoken to: a file of `text.prompts`
  places: Any  # ids that stand for audio
  window_samples: Any  # clips are heard in whole windows
  max_samples: Any  # of a clip that are heard
  placeholders: Any  # samples of a clip -> its ids in a prompt
  remember: Any  # batch -> what is heard, computed once


@dataclasses.dataclass(frozen=True)
class Generation:
  """What a model that generates audio can be asked for.

  Attributes:
    prompt: whether it continues a clip.
    source: what results need: 'none', 'audio' (vocoders), 'units', 'codes' (or the recording).
    labels: {name of a label: names of its values, or how many there are}.
    texts: {name of a text: what it is}, as of the lyrics of a song.
    spelt: {name of a text that has to be given: function from it to ids, or InputError}.
    vectors: {name of a vector that has to be given: its width}, as of a voice.
    max_seconds: of a result; None for any length.
  """

  prompt: bool = True
  source: str = 'none'
  labels: Mapping[str, Sequence[str] | int] = dataclasses.field(default_factory=dict)
  texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  spelt: Mapping[str, Callable[[str], Any]] = dataclasses.field(default_factory=dict)
  vectors: Mapping[str, int] = dataclasses.field(default_factory=dict)
  max_seconds: float | None = None


@runtime_checkable
class GeneratesAudio(Hears, Protocol):
  """Generates audio at the rate of its front-end.

  GENERATOR names the file of `inference.generators` with what makes it do so.
  """

  GENERATOR: str

  @property
  def generation(self) -> Generation:
    """What it can be asked for."""
    ...


@runtime_checkable
class PredictsUnits(Protocol):
  """Learns from discrete units."""

  TITLE: str
  num_clusters: int | Sequence[int]
  label_rate: float  # units a second

  @property
  def sets(self) -> tuple[int, ...]:
    """Number of units of every label set."""
    ...


@runtime_checkable
class EncodesToCodes(Hears, Protocol):
  """Has a codebook of its own."""

  @property
  def code_sizes(self) -> tuple[int, ...]:
    """Size of the codebook of every group; empty where the arguments left the codebook out."""
    ...

  def encode(self, audio: Any, audio_mask: Any) -> tuple[Any, Any]:
    """Audio [b, t] and its mask -> codes int32 [b, n, g] and their mask [b, n]."""
    ...


@runtime_checkable
class DecodesCodes(EncodesToCodes, Protocol):
  """Makes audio of its codes: `inference.codec`."""

  bandwidth: Any  # kbit/s, of `bandwidths`; None for all codebooks
  channels: int
  quantizers: int
  codebook_size: int
  normalize: bool  # whether segments have a loudness
  segment: Any  # seconds; None where a clip is coded as a whole

  def codebooks_for(self, bandwidth: float | None) -> int:
    """Codebooks of a bandwidth."""
    ...

  def coded(self, audio: Any, audio_mask: Any, n_q: int | None = None, whole: bool = False) -> Any:
    """Audio [b, t] or [b, t, a] and its mask -> codes, their mask, loudness of segments."""
    ...

  def decode(self, codes: Any, mask: Any = None, scales: Any = None) -> tuple[Any, Any]:
    """What `coded` gives -> audio and its mask."""
    ...


@runtime_checkable
class Draws(Protocol):
  """Draws what it does."""

  def picture(self, batch: Mapping[str, Any], **args: Any) -> dict[str, Any]:
    """Panels [b, s, f] by name."""
    ...


@runtime_checkable
class TakesStatistics(Protocol):
  """Is normalised by the mean and standard deviation of what it is used on."""

  def with_statistics(self, mean: float, std: float) -> Any:
    """The same model normalised by these."""
    ...


@runtime_checkable
class Resizes(Protocol):
  """Takes arrays of a model of other sizes, as a table of positions of another length."""

  def resized(self, name: str, x: Any, theirs: Any) -> Any:
    """The array of that name of another model of this kind, in the size of this one; None where
    there is no way."""
    ...


@runtime_checkable
class Borrows(Protocol):
  """Has parts whose weights compute something else under other settings."""

  @property
  def borrowed(self) -> Mapping[str, Mapping[str, Any]]:
    """{path of a part: {argument: value}}."""
    ...


@runtime_checkable
class HasTraining(Protocol):
  """Has arguments that only training depends on."""

  TRAINING: Sequence[str]


@runtime_checkable
class Sheds(Protocol):
  """Can have parts that only training needs."""

  def shed(self, flat: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model without them, and of its variables by path those that it then has."""
    ...


@runtime_checkable
class MixesRows(Protocol):
  """Can compute statistics over all rows of a training batch (batch norm, a memory of clips)."""

  @property
  def MIXES_ROWS(self) -> bool:
    """Whether it does."""
    ...


@runtime_checkable
class NeedsFields(Protocol):
  """Reads more from a batch than audio."""

  NEEDS: Mapping[str, str]  # key of the field -> what to do where a config lacks it


def audio_example(frontend: Any) -> Example:
  """The example batch of a model of audio: one clip of one frame."""
  shape = (1, frontend.min_samples)
  return {
    'audio': jax.ShapeDtypeStruct(shape, jnp.float32),
    'audio_mask': jax.ShapeDtypeStruct(shape, jnp.bool_),
  }


def mixes_rows(model: Any) -> bool:
  """Whether a model computes statistics over the rows of a training batch."""
  return isinstance(model, MixesRows) and model.MIXES_ROWS


def spells(model: Any) -> bool:
  """Whether a model gives symbols."""
  return isinstance(model, Spells) and bool(model.vocabulary)


def diarizes(model: Any) -> bool:
  """Whether a model says who speaks in every frame."""
  return isinstance(model, Diarizes) and bool(model.frame_speakers)


def compares_speakers(model: Any) -> bool:
  """Whether a model gives vectors of speakers."""
  return isinstance(model, ComparesSpeakers) and bool(model.speaker_width)


def separates(model: Any) -> bool:
  """Whether a model gives the signals of a mixture."""
  return isinstance(model, Separates) and bool(model.signals)
