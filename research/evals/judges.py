"""What is kept of every held-out clip, and what is said of all of them: the metrics of tasks.

A judge is data (`get(dict(name=…, args={…}))`): `keep` runs on the device with the model, `score`
afterwards on the CPU, over all clips of a source. Metrics are fractions (0 to 1) unless said
otherwise. Letters: b batch, n frames, c classes.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from research.audio.clips import Source
from research.errors import InputError, unknown
from research.evals.writing_judges import Converted, Translated
from research.inference import ctc
from research.inference import separation as separation_of
from research.inference.beam import BeamSearch
from research.metrics import asr, diarization, enhancement, separation, slots, verification
from research.text import characters
from research.text import slots as slot_text

# beam, beam_threshold, lm_weight and word_score of s3prl's configuration for ASR with the 4-gram.
SUPERB_SEARCH: dict[str, Any] = dict(
  beam=5, threshold=25.0, lm_weight=2.0, word_score=-1.0, free_end=False
)

Kept = Mapping[int, Mapping[str, np.ndarray]]  # row of the source -> arrays


@runtime_checkable
class Judge(Protocol):
  """What a task is judged by."""

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Arrays [b, …] that are kept of a batch, from the outputs of the model."""
    ...

  def reduce(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """What is kept of one clip in the end; done on the CPU, batch by batch."""
    ...

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """{metric: value}."""
    ...


@runtime_checkable
class Hides(Protocol):
  """A judge before which the model does not see some of a batch."""

  HIDDEN: ClassVar[tuple[str, ...]]


@runtime_checkable
class Decodes(Protocol):
  """A judge that runs the model on, step by step, from what it keeps."""

  def decode(
    self, model: Any, variables: Mapping[str, Any], kept: Mapping[str, jax.Array]
  ) -> Mapping[str, Any]:
    """Arrays [b, …] that replace those that `keep` gave of a batch."""
    ...


class _Whole:
  """Keeps what comes from the device."""

  def reduce(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """All of it."""
    return arrays


@dataclasses.dataclass(frozen=True)
class Classes(_Whole):
  """Accuracy of one class a clip: 'accuracy'.

  Attributes:
    column: of the classes.
  """

  column: str = 'label'

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The class with the highest logit."""
    return {'found': jnp.asarray(out['logits']).argmax(-1)}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    values, names = source.column(self.column), source.classes(self.column)
    right = [names[int(x['found'])] == values[row] for row, x in kept.items()]
    return {'accuracy': float(np.mean(right))}


@dataclasses.dataclass(frozen=True)
class Slots(_Whole):
  """Several classes a clip, of which all have to be right: 'accuracy', and that of each slot.

  Attributes:
    columns: of the slots, in the order of the logits.
    sizes: classes of each.
  """

  columns: Sequence[str]
  sizes: Sequence[int]

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The class of every slot with the highest logit, [b, slots]."""
    ends = np.cumsum(self.sizes)[:-1].tolist()
    parts = jnp.split(jnp.asarray(out['logits']), ends, axis=-1)
    return {'found': jnp.stack([part.argmax(-1) for part in parts], axis=-1)}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    right = []
    for place, column in enumerate(self.columns):
      values, names = source.column(column), source.classes(column)
      right.append([names[int(x['found'][place])] == values[row] for row, x in kept.items()])
    table = np.array(right)  # [slots, clips]
    each = {f'accuracy_{name}': float(x.mean()) for name, x in zip(self.columns, table)}
    return {'accuracy': float(table.all(axis=0).mean()), **each}


@dataclasses.dataclass(frozen=True)
class _Sequences(_Whole):
  """Greedy symbols of a head with CTC.

  Attributes:
    column: of the reference.
    vocabulary: symbols in the order of the logits.
    blank: index of CTC's blank among them.
  """

  column: str
  vocabulary: Sequence[str]
  blank: int = 0

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The best symbol of every frame, blanks behind the clip."""
    best = jnp.asarray(out['logits']).argmax(-1)
    return {'path': jnp.where(out['frame_mask'], best, self.blank)}

  def pairs(self, kept: Kept, source: Source) -> list[tuple[Any, list[int]]]:
    """(reference, ids of the hypothesis) of every clip."""
    values = source.column(self.column)
    return [
      (values[row], ctc.collapse(x['path'], self.blank).ids.tolist()) for row, x in kept.items()
    ]


class Symbols(_Sequences):
  """Error rate of single symbols, as phones: 'per'."""

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    ends = {i for i, s in enumerate(self.vocabulary) if characters.is_special(s)}
    references, hypotheses = [], []
    for text, ids in self.pairs(kept, source):
      references.append(text.split() if isinstance(text, str) else list(text))
      hypotheses.append([self.vocabulary[i] for i in ids if i not in ends])
    return {'per': asr.unit_errors(references, hypotheses).rate}


class Letters(_Sequences):
  """Error rate of the letters of words, with a boundary behind each: 'per'."""

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    ends = {i for i, s in enumerate(self.vocabulary) if characters.is_special(s)}
    pairs = self.pairs(kept, source)
    references = [characters.encode(str(text), self.vocabulary).tolist() for text, _ in pairs]
    hypotheses = [[i for i in ids if i not in ends] for _, ids in pairs]
    return {'per': asr.unit_errors(references, hypotheses).rate}


@dataclasses.dataclass(frozen=True)
class Words(_Sequences):
  """Error rates of words and characters: 'wer', 'cer'; with an n-gram of words also those of a beam
  search with the published settings: 'wer_lm', 'cer_lm'.

  Attributes:
    lm: an ARPA file or a KenLM binary; None for greedy texts alone.
    lexicon: its words and how they are spelt, see `inference.beam.BeamSearch`.
  """

  lm: str | None = None
  lexicon: str | None = None

  @functools.cached_property
  def search(self) -> BeamSearch:
    """The decoder of SUPERB (s3prl/downstream/asr/config.yaml, `decoder_args`)."""
    files: dict[str, Any] = dict(lm=self.lm, lexicon=self.lexicon)
    return BeamSearch(self.vocabulary, self.blank, **files, **SUPERB_SEARCH)

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The best symbol of every frame; with an n-gram all logits too."""
    found = super().keep(out, batch)
    if self.lm is None:
      return found
    return found | {'logits': jnp.asarray(out['logits']), 'real': jnp.asarray(out['frame_mask'])}

  def reduce(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Logits are searched at once, and not kept."""
    if self.lm is None:
      return arrays
    best = self.search.best(arrays['logits'][np.asarray(arrays['real'], bool)])
    return {'path': arrays['path'], 'text': np.array(' '.join(best[0].words if best else ()))}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    references, hypotheses = [], []
    for text, ids in self.pairs(kept, source):
      references.append(characters.in_case(str(text), self.vocabulary))
      hypotheses.append(characters.spell(ids, self.vocabulary))
    found = {
      'wer': asr.word_errors(references, hypotheses).rate,
      'cer': asr.character_errors(references, hypotheses).rate,
    }
    if self.lm is None:
      return found
    searched = [characters.in_case(str(x['text']), self.vocabulary) for x in kept.values()]
    return found | {
      'wer_lm': asr.word_errors(references, searched).rate,
      'cer_lm': asr.character_errors(references, searched).rate,
    }


class SlotText(_Sequences):
  """Slots of a text with marks: 'slot_type_f1', 'slot_value_cer', 'wer'."""

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    pairs = self.pairs(kept, source)
    known = list(self.vocabulary)
    references = [
      slot_text.decode(slot_text.encode(str(t), known).tolist(), known) for t, _ in pairs
    ]
    hypotheses = [slot_text.decode(ids, known) for _, ids in pairs]
    split = [[text.split(' ') for text in side] for side in (references, hypotheses)]
    return {
      'slot_type_f1': slots.slot_type_f1(references, hypotheses),
      'slot_value_cer': slots.slot_value_cer(references, hypotheses),
      'wer': asr.unit_errors(*split).rate,
    }


@dataclasses.dataclass(frozen=True)
class Activity(_Whole):
  """Who speaks when: 'frame_accuracy' in the best order of speakers, and 'der', the lowest over
  thresholds and median filters as SUPERB reports it, with 'der_default' at 0.5 and a median of 11.

  Attributes:
    column: of turns, lists of 'SPEAKER START END'.
    frame_seconds: from one frame to the next.
    search: whether thresholds and medians are tried; else 'der' is that at 0.5 and 11.
  """

  column: str = 'turns'
  frame_seconds: float = 0.02
  search: bool = True

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Probabilities [b, n, k], labels and mask of frames."""
    names = ('label', 'label_mask')
    probability = jax.nn.sigmoid(jnp.asarray(out['logits']))
    return {'probability': probability, **{k: jnp.asarray(batch[k]) for k in names}}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    right = frames = 0.0
    for x in kept.values():
      real = np.asarray(x['label_mask'], bool)
      found, label = x['probability'][real] > 0.5, x['label'][real] > 0
      each = [(found == label[:, order]).sum() for order in _orders(label.shape[1])]
      right, frames = right + max(each, default=0), frames + label.size
    tried = itertools.product(diarization.THRESHOLDS, diarization.MEDIANS)
    grid = {
      setting: self.errors(kept, source, *setting).rate
      for setting in (tried if self.search else [(0.5, 11)])
    }
    return {
      'der': min(grid.values()),
      'frame_accuracy': float(right / max(frames, 1.0)),
      'der_default': grid[0.5, 11],
    }

  def errors(
    self, kept: Kept, source: Source, threshold: float, median: int
  ) -> diarization.DiarizationErrors:
    """Errors of all recordings with one setting of the decision."""
    turns = source.column(self.column)
    total = diarization.DiarizationErrors()
    for row, x in kept.items():
      found = diarization.frames_to_segments(
        x['probability'][np.asarray(x['label_mask'], bool)],
        threshold=threshold,
        median=median,
        frame_seconds=self.frame_seconds,
      )
      total += diarization.diarization_errors(segments(turns[row]), found)
    return total


def segments(turns: Sequence[str]) -> list[diarization.Segment]:
  """Segments of lines 'SPEAKER START END'."""
  found = [(str(turn).rsplit(' ', 2)) for turn in turns if turn]
  return [diarization.Segment(float(start), float(end), name) for name, start, end in found]


def _orders(count: int) -> list[list[int]]:
  return [list(order) for order in itertools.permutations(range(count))]


@dataclasses.dataclass(frozen=True)
class Trials(_Whole):
  """Whether two recordings are of one speaker, by the cosine of their vectors: 'eer', 'min_dcf'.

  Attributes:
    column: of the speakers.
    trials: (same, id, id) of every pair; None for pairs drawn from the clips.
    count: of drawn pairs, half of them of one speaker.
    seed: of the draws.
  """

  column: str = 'speaker'
  trials: Sequence[tuple[int, str, str]] | None = None
  count: int = 20_000
  seed: int = 0

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The vector of every clip, of unit length."""
    del batch
    return {'embedding': jnp.asarray(out['embedding'], jnp.float32)}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    rows, same = self._pairs(kept, source)
    x = {row: np.asarray(v['embedding'], np.float64) for row, v in kept.items()}
    scores = np.array([float(x[a] @ x[b]) for a, b in rows])
    rate, threshold = verification.equal_error_rate(scores, same)
    cost = verification.minimum_detection_cost(scores, same)[0]
    return {'eer': rate, 'min_dcf': cost, 'threshold': threshold}

  def _pairs(self, kept: Kept, source: Source) -> tuple[list[tuple[int, int]], np.ndarray]:
    if self.trials is not None:
      places = {source.id(row): row for row in kept}
      known = [(s, places[a], places[b]) for s, a, b in self.trials if {a, b} <= set(places)]
      if not known:
        raise InputError('None of the trials is of clips that are there: compare their ids.')
      return [(a, b) for _, a, b in known], np.array([s for s, _, _ in known], bool)
    speakers: dict[str, list[int]] = {}
    values = source.column(self.column)
    for row in kept:
      speakers.setdefault(str(values[row]), []).append(row)
    several = [name for name, rows in sorted(speakers.items()) if len(rows) > 1]
    if not several or len(speakers) < 2:
      raise InputError(
        f'Pairs need two speakers and two clips of one; {source.name!r} has {len(speakers)} '
        f'speakers, {len(several)} of them with several clips.'
      )
    rng = np.random.default_rng(self.seed)
    rows, same = [], []
    for i in range(self.count):
      if i % 2:
        a, b = rng.choice(speakers[several[rng.integers(len(several))]], 2, replace=False)
      else:
        first, second = rng.choice(sorted(speakers), 2, replace=False)
        a, b = (rng.choice(speakers[str(name)]) for name in (first, second))
      rows.append((int(a), int(b)))
      same.append(bool(i % 2))
    return rows, np.array(same)


@dataclasses.dataclass(frozen=True)
class Masked:
  """Signals of masked spectrograms: of one signal (enhancement) 'pesq' and 'stoi', of several
  (separation) 'si_sdri', the improvement of SI-SDR in dB over the mixture; always 'si_sdr'. PESQ
  refuses some clips, as silent ones: 'pesq' is the mean of the others (nan where there are none),
  'pesq_clips' their fraction.

  Attributes:
    hop: of the head, samples.
    sample_rate: Hz.
    heard: whether PESQ and STOI are computed, which takes 0.1 s a clip.

  Raises:
    InputError: a library that they need is missing.
  """

  hop: int = 320
  sample_rate: int = 16_000
  heard: bool = True

  def __post_init__(self):
    if self.heard:
      enhancement.check_libraries()

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Masks and spectrum of the mixture; audio, its sources, and how many samples are real."""
    audio_mask = jnp.asarray(batch['audio_mask'])
    kept = {name: jnp.asarray(out[name]) for name in ('masks', 'mixture')}
    kept |= {name: jnp.asarray(batch[name]) for name in ('audio', 'sources')}
    return {**kept, 'samples': audio_mask.sum(axis=1)}

  def reduce(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The metrics of a clip."""
    samples = int(arrays['samples'])
    mixture = np.asarray(arrays['audio'][:samples], np.float64)
    clean = np.asarray(arrays['sources'][:, :samples], np.float64)
    made = separation_of.signals(
      arrays['masks'][None], arrays['mixture'][None], [samples], hop=self.hop
    )[0]
    found = np.zeros(clean.shape)
    length = min(made.shape[1], samples)
    found[:, :length] = made[:, :length]
    after, before, _ = separation.assigned_si_sdr(found, clean, mixture)
    scores = {'si_sdr': np.mean(after), 'si_sdri': np.mean(after) - np.mean(before)}
    if self.heard:
      scores['stoi'] = np.float64(enhancement.stoi(found[0], clean[0], self.sample_rate))
      with contextlib.suppress(InputError):
        scores['pesq'] = np.float64(enhancement.pesq(found[0], clean[0], self.sample_rate))
    return {name: np.asarray(value) for name, value in scores.items()}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    del source
    names = dict.fromkeys(name for x in kept.values() for name in x)
    found = {n: float(np.mean([x[n] for x in kept.values() if n in x])) for n in names}
    if self.heard:
      found['pesq_clips'] = float(np.mean(['pesq' in x for x in kept.values()]))
      found.setdefault('pesq', float('nan'))
    return found


JUDGES: dict[str, type[Any]] = {
  'classes': Classes,
  'slots': Slots,
  'symbols': Symbols,
  'letters': Letters,
  'words': Words,
  'slot_text': SlotText,
  'activity': Activity,
  'trials': Trials,
  'masked': Masked,
  'translated': Translated,
  'converted': Converted,
}


def get(spec: Mapping[str, Any]) -> Judge:
  """The judge that a spec describes, dict(name=…, args={…}).

  Raises:
    InputError: an unknown name or argument.
  """
  name, args = spec['name'], dict(spec.get('args') or {})
  if name not in JUDGES:
    raise unknown('judge', name, JUDGES)
  known = [f.name for f in dataclasses.fields(JUDGES[name])]
  for key in args:
    if key not in known:
      raise unknown(f'argument of judge {name}', key, known)
  try:
    return JUDGES[name](**args)
  except TypeError as error:
    raise InputError(f'judge {name}: {error}.') from error
