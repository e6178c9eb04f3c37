"""Songs as Jukebox's priors take them: lengths, artist, genres, lyrics (`text.jukebox`)."""

import dataclasses
from typing import Any

import numpy as np

from research.audio.clips import Source
from research.audio.fields import Context, Crops, Field, Rows
from research.errors import InputError
from research.text.jukebox import Labeller, Song, artist_name, genre_words, read_ids


@dataclasses.dataclass(frozen=True)
class SongLabels(Field):
  """Gives '<key>' i32 [b, l], labels of the windows that crops begin: total length and offset of
  the crop in its clip, samples of a window, artist, genres, lyrics around the window.

  Attributes:
    artists, genres: files of lines `name;number`; None numbers the names of the clips in order,
      from 1. Names that are in no file are 0, unknown.
    artist, genre, lyrics: columns; clips without one, or sources without such a column, have an
      unknown artist or genre, and no lyrics.
  """

  artists: str | None = None
  genres: str | None = None
  artist: str = 'artist'
  genre: str = 'genre'
  lyrics: str = 'lyrics'

  def open(self, source: Source, context: Context) -> 'SongLabelRows':
    """The labels of all clips.

    Raises:
      InputError: the model takes none, or has fewer rows in a table than there are names.
    """
    model = context.model
    if not getattr(model, 'label_width', 0):
      raise InputError(
        f'Labels of songs are given in {self.key!r}, and the model takes none: set '
        'config.model.args.labels=True, or leave the field out.'
      )
    v3 = model.labels_v3
    texts = [_texts(source, name) for name in (self.artist, self.genre, self.lyrics)]
    artists = self._ids(self.artists, [artist_name(name, v3) for name in texts[0]])
    words = [word for name in texts[1] for word in genre_words(name, v3)]
    genres = self._ids(self.genres, words)
    tables = ('genres', genres), ('artists', artists)
    for (what, ids), rows in zip(tables, model.y_bins, strict=True):
      if max(ids.values(), default=0) >= rows:
        raise InputError(
          f'There are {what} up to number {max(ids.values())}, and the model has {rows}: set '
          'config.model.args.y_bins=(genres, artists).'
        )
    sizes = model.max_bow_genre_size, model.n_tokens, model.sample_length
    labeller = Labeller(*sizes, v3, artists, genres)
    songs = [Song(*each) for each in zip(*texts, strict=True)]
    limits = tuple(int(limit) for limit in model.limits)
    return SongLabelRows(songs, labeller, limits, model.upsamples, self.key)

  def _ids(self, path: str | None, names: list[str]) -> dict[str, int]:
    if path is not None:
      return read_ids(path)
    return {name: i + 1 for i, name in enumerate(sorted({name for name in names if name}))}

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Songs of unknown artists."""
    del samples
    model = context.model
    y = np.zeros((clips, model.label_width), np.int32)
    y[:, 0], y[:, 2] = int(model.limits[0]), model.sample_length
    return {self.key: y}


@dataclasses.dataclass
class SongLabelRows(Rows):
  """Labels of the clips of a source."""

  songs: list[Song]
  labeller: Labeller
  limits: tuple[int, ...]
  free: bool  # lengths do not matter
  key: str

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Clips that are shorter or longer than the model knows count as the nearest that it does."""
    rows = []
    for row, valid, start, total in zip(crops.index, crops.valid, crops.starts, crops.totals):
      low, high = self.limits
      total = int(total) if self.free else min(max(int(total), low), high - 1)
      place: dict[str, Any] = dict(total_length=total, offset=min(int(start), total - 1))
      song = self.songs[row] if valid else Song()
      rows.append(self.labeller.windows([dataclasses.replace(song, **place)])[0])
    return {self.key: np.stack(rows)}


def _texts(source: Source, column: str) -> list[str]:
  if column not in source.column_names:
    return [''] * len(source)
  values = source.column(column)
  return ['' if value is None else str(value) for value in values]
