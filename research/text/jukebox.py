"""Labels of songs as Jukebox's priors take them: artist, genres and lyrics as numbers.

Rules are those of openai/jukebox, data/labels.py, text_processor.py and artist_genre_processor.py,
in their versions v2 (5b, 5b_lyrics, upsamplers) and v3 (1b_lyrics). The numbers of artists and
genres are in files beside the weights, data/ids/v2_artist_ids.txt and the like, one `name;number` a
line; a person gives them.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from research.errors import InputError

_FIRST = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:;!?-'
_LAST = '\'"()[] \t\n'
# Token 0 is unknown and padding; those of characters begin at 1. v3 has no plus sign.
CHARACTERS = {False: f'{_FIRST}+{_LAST}', True: f'{_FIRST}{_LAST}'}


def vocabulary_size(v3: bool) -> int:
  """Tokens of lyrics: 80, in v3 79."""
  return len(CHARACTERS[v3]) + 1


def clean(text: str, v3: bool) -> str:
  """Lyrics in the characters of a version: others are transliterated to ASCII or left out, a
  backslash begins a line.

  Raises:
    InputError: text beyond ASCII without Unidecode installed.
  """
  if not text.isascii():
    if importlib.util.find_spec('unidecode') is None:
      raise InputError(
        'Lyrics beyond ASCII are transliterated by Unidecode, which is not installed: pip install '
        "-e '.[lyrics]', or give ASCII alone."
      )
    from unidecode import unidecode

    text = unidecode(text)
  known = set(CHARACTERS[v3])
  return ''.join(c for c in text.replace('\\', '\n') if c in known)


def tokens_of(text: str, v3: bool) -> list[int]:
  """Tokens of cleaned lyrics."""
  places = {c: i + 1 for i, c in enumerate(CHARACTERS[v3])}
  return [places[c] for c in text]


def text_of(tokens: Sequence[int], v3: bool) -> str:
  """Lyrics of tokens; 0 is nothing."""
  return ''.join(CHARACTERS[v3][t - 1] for t in tokens if t)


class Lyrics(NamedTuple):
  """The lyrics of a window.

  Attributes:
    tokens: as many as a prior takes, padding 0 in front.
    places: which of all lyrics each is, -1 for padding.
  """

  tokens: list[int]
  places: list[int]


def lyric_window(
  tokens: Sequence[int],
  count: int,
  total_length: int,
  offset: int,
  duration: int,
  *,
  single: bool = True,
) -> Lyrics:
  """The lyrics around the middle of a window, if they are spread evenly over a song.

  Args:
    tokens: all lyrics.
    count: how many a prior takes.
    total_length, offset, duration: of the song, of the window in it and of the window, samples.
    single: the middle in float32, as in the windows of official sampling; its labels before that
      have it in float64, which can differ by one.

  Raises:
    InputError: the window does not begin in the song.
  """
  full = list(tokens)
  if len(full) < count:
    pad = count - len(full)
    return Lyrics([0] * pad + full, [-1] * pad + list(range(len(full))))
  if not 0 <= offset < total_length:
    raise InputError(
      f'A window at sample {offset} of a song of {total_length} was asked for: give offsets from 0 '
      'to below the length.'
    )
  if single:
    # PyTorch's order of operations on whole numbers and a half.
    moved = np.float32(offset) + np.float32(duration) / np.float32(2.0)
    middle = int(np.float32(len(full)) * moved / np.float32(total_length))
  else:
    middle = int(len(full) * (offset + duration / 2.0) / total_length)
  half = count // 2
  middle = min(max(middle, half), len(full) - half)
  places = list(range(middle - half, middle + half))
  return Lyrics([full[i] for i in places], places)


# -- Artists and genres ------------------------------------------------------------------------


def plain_name(name: str) -> str:
  """v2's form of a name: lower case, everything but ASCII letters and digits one '_'."""
  return re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')


def genre_words(genre: str, v3: bool) -> list[str]:
  """The names under which genres are looked up: words in v2, one in v3."""
  return [genre.lower()] if v3 else plain_name(genre).split('_')


def artist_name(artist: str, v3: bool) -> str:
  """The name under which an artist is looked up."""
  return artist.lower() if v3 else plain_name(artist)


def read_ids(path: Path | str) -> dict[str, int]:
  """{name: number} of a file of lines `name;number`; of lines with one name the last counts.

  Raises:
    InputError: no such file, or a line of another form.
  """
  path = Path(path)
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'{str(path)!r} cannot be read ({error}): give a file of ids.') from error
  found = {}
  for i, line in enumerate(lines):
    name, mark, number = line.strip().rpartition(';')
    if not line.strip():
      continue
    if not mark or not number.isdecimal():
      raise InputError(
        f'Line {i + 1} of {str(path)!r} is {line[:60]!r}: expected a name, a semicolon and a '
        'number.'
      )
    found[name.lower()] = int(number)
  return found


def names_of(ids: Mapping[str, int]) -> dict[int, str]:
  """{number: its names in order, joined by '_'}."""
  found: dict[int, list[str]] = {}
  for name, number in ids.items():
    found.setdefault(number, []).append(name)
  return {number: '_'.join(sorted(names)) for number, names in found.items()}


@dataclasses.dataclass(frozen=True)
class Song:
  """What a window is told of its song.

  Attributes:
    artist, genre, lyrics: as a person writes them; unknown names count as number 0.
    total_length: samples.
    offset: where in the song sampling begins, samples.
  """

  artist: str = ''
  genre: str = ''
  lyrics: str = ''
  total_length: int = 0
  offset: int = 0


@dataclasses.dataclass(frozen=True)
class Labeller:
  """Songs as numbers for a prior.

  Attributes:
    max_genres, n_tokens, sample_length: max_bow_genre_size, lyrics and samples of a window.
    v3: version of the rules.
    artists, genres: {name: number}, see `read_ids`.
  """

  max_genres: int
  n_tokens: int
  sample_length: int
  v3: bool
  artists: Mapping[str, int] = dataclasses.field(default_factory=dict)
  genres: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def artist(self, name: str) -> int:
    """The number of an artist, 0 for an unknown one."""
    return self.artists.get(artist_name(name, self.v3), 0)

  def genre(self, name: str) -> list[int]:
    """The numbers of the genres, of each word in v2; 0 for unknown ones."""
    return [self.genres.get(word, 0) for word in genre_words(name, self.v3)]

  def lyrics(self, song: Song) -> list[int]:
    """All lyrics of a song."""
    return tokens_of(clean(song.lyrics, self.v3), self.v3)

  def label(self, song: Song) -> np.ndarray:
    """int32 [4 + max_genres + n_tokens]: total length, offset, window, artist, genres, lyrics.

    Raises:
      InputError: more words of genres than a prior takes.
    """
    return self._numbers(song, song.offset, self.lyrics(song), single=False)

  def windows(self, songs: Sequence[Song], moved: int = 0) -> np.ndarray:
    """Labels [b, l] of windows `moved` samples behind the offsets of the songs."""
    rows = [self._numbers(song, song.offset + moved, self.lyrics(song), True) for song in songs]
    return np.stack(rows)

  def _numbers(self, song: Song, offset: int, tokens: list[int], single: bool) -> np.ndarray:
    genres = self.genre(song.genre)
    if len(genres) > self.max_genres:
      raise InputError(
        f'The genre {song.genre!r} has {len(genres)} words, and this prior takes '
        f'{self.max_genres}: give fewer.'
      )
    pad = [-1] * (self.max_genres - len(genres))
    found: list[int] = []
    if self.n_tokens:
      place = self.n_tokens, song.total_length, offset, self.sample_length
      found = lyric_window(tokens, *place, single=single).tokens
    head = [song.total_length, offset, self.sample_length, self.artist(song.artist)]
    return np.array([*head, *genres, *pad, *found], np.int32)

  def describe(self, label: Sequence[int] | np.ndarray) -> dict[str, str]:
    """{'artist', 'genre', 'lyrics'} of a label."""
    numbers = [int(n) for n in label]
    genres, tokens = numbers[4 : 4 + self.max_genres], numbers[4 + self.max_genres :]
    names = names_of(self.genres)
    return {
      'artist': names_of(self.artists).get(numbers[3], ''),
      'genre': '_'.join(names.get(n, '') for n in genres if n >= 0),
      'lyrics': text_of(tokens, self.v3),
    }
