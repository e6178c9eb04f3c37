"""Beam search over CTC paths, with an n-gram of words or of letters: flashlight-text's decoder.

It is the decoder behind the published numbers of wav2vec 2.0 and HuBERT (wav2letter's). KenLM,
which is part of it, reads ARPA files and its own binaries.
"""

import contextlib
import gzip
import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax

from research.audio import tables
from research.errors import InputError
from research.text import characters

# fairseq examples/speech_recognition/new/decoders/decoder_config.py: beam, beamthreshold, lmweight,
# wordscore; unknown words are forbidden there and silence weighs nothing.
BEAM, THRESHOLD, LM_WEIGHT, WORD_SCORE = 50, 50.0, 2.0, -1.0
# Impossible, but finite: sums of it stay numbers.
NEVER = -1e4
# Longer clips are searched in blocks; decisions are final N frames back, which bounds memory.
BLOCK, LOOK_BACK = 1000, 500
# How its binaries begin.
KENLM = b'mmap lm http://kheafield.com/code'
_NO_WORDS = ('<s>', '</s>', '<unk>', '<UNK>')


class Hypothesis(NamedTuple):
  """A text that a search has found.

  Attributes:
    words: of the lexicon; empty without one.
    tokens: ids of its alignment, repeats collapsed and blanks left out; with a lexicon a boundary
      stands before the first frame and after the last.
    score: of the alignment, see `BeamSearch`.
  """

  words: tuple[str, ...]
  tokens: tuple[int, ...]
  score: float


class BeamSearch:
  """A decoder of CTC logits that keeps the `beam` best prefixes.

  The score of a text is the log probability of its paths (natural), plus `lm_weight` times the
  log10 probability of the n-gram, as KenLM gives it, plus `word_score` for every word.

  - Without `lm` all letter sequences compete.
  - An n-gram of words searches the words of a lexicon: those of `lexicon`, or all of the ARPA file.
    The end of the clip ends a word.
  - An n-gram of letters (an ARPA file with the unigram '|') needs no lexicon; `word_score` has no
    meaning there.
  """

  def __init__(
    self,
    symbols: Sequence[str],
    blank: int = 0,
    *,
    lm: str | os.PathLike | None = None,
    lexicon: str | os.PathLike | None = None,
    beam: int = BEAM,
    threshold: float = THRESHOLD,
    lm_weight: float = LM_WEIGHT,
    word_score: float = WORD_SCORE,
    log_add: bool | None = None,
    free_end: bool = True,
  ):
    """Reads the n-gram.

    Args:
      symbols: the vocabulary.
      blank: the id of CTC's blank.
      lm: an ARPA file (.gz too) or a KenLM binary; None searches without.
      lexicon: a file with a word a line, or `word<tab>w o r d |` with its letters; needed with a
        binary, whose words cannot be listed.
      beam: prefixes kept.
      threshold: prefixes so much (natural log) below the best are dropped.
      lm_weight: of the n-gram.
      word_score: added for every word.
      log_add: sum the paths of a text rather than take the best of them. None: True without an
        n-gram, where the best path alone is the greedy one; False with one, as published.
      free_end: the end of the clip ends a word of a lexicon; if False its boundary has to be heard,
        as in fairseq and s3prl.

    Raises:
      InputError: flashlight-text is missing, a file cannot be read, or the words cannot be spelt.
    """
    if importlib.util.find_spec('flashlight') is None:
      raise InputError(
        'Beam search needs flashlight-text, which is not installed: '
        "pip install -e '.[lm]' (wheels exist for Python 3.11 and 3.12)."
      )
    if beam < 1 or not threshold > 0:
      raise InputError(f'beam is {beam} and threshold {threshold}: both have to be above 0.')
    if lexicon is not None and lm is None:
      raise InputError('A lexicon needs an n-gram of its words: give lm= too.')
    self.symbols, self.blank = tuple(symbols), blank
    self.log_add = lm is None if log_add is None else log_add
    self.free_end = free_end
    self.lm, self.lexicon = (None if p is None else Path(p) for p in (lm, lexicon))
    self.beam, self.threshold = beam, float(threshold)
    self.lm_weight, self.word_score = float(lm_weight), float(word_score)
    self._boundary = (
      self.symbols.index(characters.BOUNDARY) if characters.BOUNDARY in self.symbols else None
    )
    self.left_out = 0  # words of the n-gram that the vocabulary cannot spell
    self._by_words = False
    self._words_by_id: tuple[str, ...] = ()
    self._decoder = self._build()

  def __call__(self, logits: Float[np.ndarray, 'n v']) -> Int[np.ndarray, 'n']:
    """The path of the best text, as its best alignment found in the search."""
    emissions = self._emissions(logits)
    path: list[int] = []
    self._decoder.decode_begin()
    for at in range(0, len(emissions), BLOCK):
      part = emissions[at : at + BLOCK]
      self._decoder.decode_step(part.ctypes.data, *part.shape)
      if at + BLOCK < len(emissions):
        # The first of the tokens is that of the frame before.
        path += self._decoder.get_best_hypothesis(LOOK_BACK).tokens[1:]
        self._decoder.prune(LOOK_BACK)
    self._decoder.decode_end()
    path += self._decoder.get_all_final_hypothesis()[0].tokens[1:-1]
    return np.array(path[: len(logits)], np.int32)

  def best(self, logits: Float[np.ndarray, 'n v'], count: int = 1) -> list[Hypothesis]:
    """The `count` best alignments of the words of a lexicon or of letters, best first; several may
    have the same text. The whole clip is searched at once."""
    emissions = self._emissions(logits)
    found = self._decoder.decode(emissions.ctypes.data, *emissions.shape)[:count]
    return [
      Hypothesis(
        tuple(self._words_by_id[i] for i in each.words if 0 <= i < len(self._words_by_id)),
        tuple(int(i) for i, _ in itertools.groupby(each.tokens) if i != self.blank),
        each.score,
      )
      for each in found
    ]

  def _emissions(self, logits: Float[np.ndarray, 'n v']) -> Float[np.ndarray, 'm v']:
    emissions = np.maximum(log_softmax(logits.astype(np.float32), axis=1), NEVER)
    if self._by_words and self.free_end:
      # After the clip only a boundary can come: it ends the last word for free.
      end = np.full((1, emissions.shape[1]), NEVER, np.float32)
      end[0, self._boundary] = 0.0
      emissions = np.concatenate([emissions, end])
    return np.ascontiguousarray(emissions, np.float32)

  def about(self) -> dict[str, Any]:
    """What the result depends on, JSON-able."""
    files = {'lm': self.lm, 'lexicon': self.lexicon}
    values = {
      name: path and [str(path.absolute()), path.stat().st_size] for name, path in files.items()
    }
    names = ['beam', 'threshold', 'lm_weight', 'word_score', 'log_add']
    names += [] if self.free_end else ['free_end']
    return {'decoder': 'beam', **values, **{n: getattr(self, n) for n in names}}

  # -- Building --------------------------------------------------------------------------------

  def _build(self) -> Any:
    from flashlight.lib.text import decoder

    if self.lm is None:
      return self._letters(decoder.ZeroLM(), 0.0)
    listed = read_unigrams(self.lm)
    if self.lexicon is not None:
      if listed is not None and characters.BOUNDARY in listed:
        raise InputError(
          f'{self.lm} is an n-gram of letters, and the lexicon is for one of words: leave out one.'
        )
      return self._words(read_lexicon(self.lexicon))
    if listed is None and not _is_kenlm(Path(self.lm)):
      raise InputError(f'{self.lm} is no n-gram: neither ARPA text nor a binary of KenLM.')
    if listed is None:
      raise InputError(
        f'{self.lm} is no ARPA text, and the words of a KenLM binary cannot be listed: give a '
        'lexicon too, a file with a word a line.'
      )
    if characters.BOUNDARY in listed:
      return self._letters(self._load(self._tokens(set(listed))), self.lm_weight)
    return self._words({word: [word] for word in listed})

  def _letters(self, lm: Any, weight: float) -> Any:
    """A search over all letter sequences."""
    from flashlight.lib.text import decoder

    size = len(self.symbols)
    options = decoder.LexiconFreeDecoderOptions(
      self.beam, size, self.threshold, weight, 0.0, self.log_add, decoder.CriterionType.CTC
    )
    # flashlight takes its silence for the symbol before the first: as the blank it is none.
    return decoder.LexiconFreeDecoder(options, lm, self.blank, self.blank, [])

  def _tokens(self, listed: set[str]) -> list[str]:
    """The n-gram's names of the vocabulary, by id: its letters may have the other case."""
    forms = [(s, s.lower(), s.upper()) for s in self.symbols]
    return [next((f for f in form if f in listed), form[0]) for form in forms]

  def _words(self, spellings: Mapping[str, Sequence[str]]) -> Any:
    """A search over the words of a lexicon: {word of the n-gram: ways to write it}."""
    from flashlight.lib.text import decoder

    trie = decoder.Trie(len(self.symbols), self._need_boundary())
    words = [word for word in spellings if word not in _NO_WORDS]
    # All at once: the case is a matter of the whole vocabulary.
    cased = characters.in_case('\n'.join(' '.join(spellings[word]) for word in words), self.symbols)
    self._words_by_id = (characters.UNKNOWN, *words)
    lm = self._load(self._words_by_id)
    start = lm.start(False)
    letters = {s: i for i, s in enumerate(self.symbols) if not characters.is_special(s)}
    letters = {s: i for s, i in letters.items() if i != self.blank}
    boundary = letters.pop(characters.BOUNDARY)
    spelt = 0
    for i, line in enumerate(cased.split('\n'), start=1):
      for written in line.split():
        ids = [letters.get(letter, -1) for letter in written]
        if -1 in ids:
          self.left_out += 1
          continue
        spelt += 1
        trie.insert([*ids, boundary], i, lm.score(start, i)[1])
    if not spelt:
      raise InputError(
        f'The vocabulary spells none of the {len(words)} words of {self.lexicon or self.lm}; it '
        f'has {" ".join(self.symbols)}.'
      )
    trie.smear(decoder.SmearingMode.MAX)
    self._by_words = True
    options = decoder.LexiconDecoderOptions(
      self.beam, len(self.symbols), self.threshold, self.lm_weight, self.word_score,
      -np.inf, 0.0, self.log_add, decoder.CriterionType.CTC,
    )  # fmt: skip
    return decoder.LexiconDecoder(
      options, trie, lm, self._need_boundary(), self.blank, 0, [], False
    )

  def _need_boundary(self) -> int:
    if self._boundary is None:
      raise InputError(
        f'An n-gram of words needs a vocabulary with {characters.BOUNDARY!r}; this one has '
        f'{" ".join(self.symbols)}.'
      )
    return self._boundary

  def _load(self, names: Sequence[str]) -> Any:
    """The n-gram, whose word i is `names[i]`."""
    from flashlight.lib.text import dictionary
    from flashlight.lib.text.decoder.kenlm import KenLM

    known = dictionary.Dictionary()
    for i, name in enumerate(names):
      known.add_entry(name, i)
    try:
      with _quiet():
        return KenLM(str(self.lm), known)
    except RuntimeError as error:
      reason = str(error).strip().splitlines()[-1]
      raise InputError(f'{self.lm} cannot be read as an n-gram: {reason}') from None


# -- Files -------------------------------------------------------------------------------------


def read_unigrams(path: str | os.PathLike) -> list[str] | None:
  r"""The words of an ARPA file, its '<s>' and '<unk>' included; None if it is no ARPA text.

  Raises:
    InputError: there is no such file, or its list of words is broken off.
  """
  found: list[str] = []
  try:
    with _open(Path(path)) as file:
      first = next((line for line in file if line.strip()), b'')
      if first.strip() != b'\\data\\':
        return None
      for line in file:
        if line.strip() == b'\\1-grams:':
          break
      for line in file:
        fields = line.decode('utf-8').split()
        if fields and fields[0].startswith('\\'):
          return found
        if fields:
          found.append(fields[1])
  except (OSError, EOFError) as error:
    raise InputError(f'{path} cannot be read: {getattr(error, "strerror", 0) or error}.') from None
  except (UnicodeDecodeError, IndexError):
    raise InputError(f'{path} is damaged: its list of words is no ARPA text.') from None
  raise InputError(f'{path} is damaged: it ends in the middle of its list of words.')


def _is_kenlm(path: Path) -> bool:
  with open(path, 'rb') as file:
    return file.read(len(KENLM)) == KENLM


def read_lexicon(path: str | os.PathLike) -> dict[str, list[str]]:
  """{word: ways to write it} of a file with `word`, or `word<tab>w o r d |`, a line.

  Raises:
    InputError: there is no such file, or it names no word.
  """
  found: dict[str, list[str]] = {}
  for _, line in tables.lines(path):
    word, *letters = line.split()
    found.setdefault(word, []).append(''.join(letters).removesuffix(characters.BOUNDARY) or word)
  if not found:
    raise InputError(f'{path} names no word; a word a line was expected.')
  return found


def _open(path: Path) -> Any:
  with open(path, 'rb') as file:
    packed = file.read(2) == b'\x1f\x8b'
  return gzip.open(path) if packed else open(path, 'rb')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """KenLM draws its progress on stderr, past Python; only a terminal should see that."""
  if sys.stderr is None or sys.stderr.isatty():
    yield
    return
  sys.stderr.flush()
  kept = os.dup(2)
  try:
    with open(os.devnull, 'w') as nothing:
      os.dup2(nothing.fileno(), 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
