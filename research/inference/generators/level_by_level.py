"""Music of Jukebox: codes of the top level, upsampled level by level, decoded (arXiv 2005.00341);
`inference.jukebox` does it, this says what is asked for.

Songs are sampled one after the other, as draws of windows are of a whole batch: equal requests give
equal music, whatever else is asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float

from research.errors import InputError
from research.inference import generators
from research.inference.generators import Report, Request
from research.inference.jukebox import HOP_FRACTION, Drawing, Part, System
from research.text.jukebox import Song, read_ids

# Length of the song of a sample, where nothing says it: of openai/jukebox's README.
SONG_SECONDS = 180.0


class Generator:
  """Music of the prior of the top level, a VQ-VAE and upsamplers.

  top, vqvae = weights.load('prior_level_2.pth.tar'), weights.load('vqvae.pth.tar')
  top.generate(20.0, labels={'genre': 'jazz'}, vqvae=vqvae, level_1=…, level_0=…)
  """

  # The two upsamplers have arrays alike.
  PARTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
    'vqvae': {},
    'level_0': {'level': 0},
    'level_1': {'level': 1},
  }

  def __init__(
    self,
    model: Any,
    variables: Any,
    *,
    vqvae: Any = None,
    level_0: Any = None,
    level_1: Any = None,
    v2_artist_ids: str | None = None,
    v2_genre_ids: str | None = None,
    v3_artist_ids: str | None = None,
    v3_genre_ids: str | None = None,
    temperature: float = 0.99,
    top_k: int | None = None,
    top_p: float | None = None,
    hop_fraction: Sequence[float] | None = None,
    batch_size: int = 1,
  ):
    """Args:
      model: a `models.jukebox.Jukebox` of the top level.
      variables: its weights.
      vqvae: a `models.jukebox_vqvae`, with `model` and `variables`; None: that inside of a prior
        that was trained here.
      level_0, level_1: upsamplers of these levels. Music is decoded from the lowest that is there.
      v2_artist_ids, …: files of the numbers of names, see `text.jukebox.read_ids`; names are
        unknown without.
      temperature, top_k, top_p: of the draws; at a temperature of 0 the likeliest code is taken.
      hop_fraction: of every level, the lowest first: window to window / window.
      batch_size: songs are sampled one by one: 1.

    Raises:
      InputError: models that do not fit each other, or files that cannot be read.
    """
    if model.upsamples:
      raise InputError(
        f'This prior upsamples to level {model.own_level}: give that of the top level as --model, '
        f'and this one as a part (--parts=level_{model.own_level}=PATH).'
      )
    if temperature < 0 or batch_size < 1:
      raise InputError(
        f'temperature={temperature} and batch_size={batch_size} were given: give at least 0 and 1.'
      )
    codes = _inside(model, variables) if vqvae is None else _part(vqvae, 'vqvae', 'JukeboxVQVAE')
    levels = codes.model.levels
    given = {'level_0': level_0, 'level_1': level_1}
    priors: list[Part | None] = [None] * levels
    priors[-1] = Part(model, variables)
    for level, (name, each) in enumerate(given.items()):
      if each is None:
        continue
      if level >= levels - 1:
        raise InputError(f'{name} was given, and the VQ-VAE has {levels} levels with the top.')
      priors[level] = _part(each, name, 'Jukebox')
    self.levels = [i for i, prior in enumerate(priors) if prior is not None]
    if self.levels != list(range(levels - len(self.levels), levels)):
      raise InputError(
        f'Priors of the levels {self.levels} of {levels} were given: each level needs those above.'
      )
    files = {
      'artist': {False: v2_artist_ids, True: v3_artist_ids},
      'genre': {False: v2_genre_ids, True: v3_genre_ids},
    }
    ids = {
      kind: {v3: read_ids(path) for v3, path in some.items() if path is not None}
      for kind, some in files.items()
    }
    self.system = System(codes, priors, ids['artist'], ids['genre'])
    self.model, self.variables, self.generation = model, variables, model.generation
    # A low temperature takes the likeliest, as draws differ by less than its logits.
    self.drawing = Drawing(max(temperature, 1e-6), top_k, top_p, 1)
    whole = HOP_FRACTION if levels == len(HOP_FRACTION) else (0.5,) * levels
    self.hops = whole if hop_fraction is None else tuple(hop_fraction)
    if len(self.hops) != levels:
      raise InputError(f'hop_fraction={self.hops} was given for {levels} levels: one each.')

  def __call__(
    self, requests: Sequence[Request], report: Report | None = None
  ) -> list[Float[np.ndarray, ' t']]:
    """Music of each request, in whole codes of the top level; a prompt comes back as its codes.

    Args:
      requests: what is asked for.
      report: called with the number of samples that were made.

    Raises:
      InputError: what the models cannot be asked for.
    """
    generators.check(self.generation, requests)
    songs = [self.song(request) for request in requests]
    found = []
    for request, song in zip(requests, songs):
      prompt = None if request.prompt is None else request.prompt[None]
      # Rounded up by a millionth of a sample: seconds are whole samples here.
      seconds = (int(request.samples or 0) + 1e-6) / self.system.sample_rate
      made = self.system.sample(
        [song], seconds, prompt=prompt, levels=self.levels, hop_fraction=self.hops,
        drawing=self.drawing, seed=request.seed,
      )  # fmt: skip
      found.append(made.audio[0])
      if report is not None:
        report(made.audio.shape[1])
    return found

  def song(self, request: Request) -> Song:
    """What a request says of its song.

    Raises:
      InputError: a length that is no number.
    """
    texts, rate = request.texts, self.system.sample_rate
    least = (request.samples or 0) / rate

    def seconds(name: str, otherwise: float) -> int:
      try:
        value = float(texts.get(name, otherwise))
      except ValueError:
        value = -1.0
      if not 0 <= value < 1e6:
        raise InputError(f'{name}={texts.get(name)!r} was given: give seconds.')
      return int(value * rate)

    names = {name: texts.get(name, '') for name in ('artist', 'genre', 'lyrics')}
    total = seconds('total_seconds', max(SONG_SECONDS, least))
    return Song(**names, total_length=total, offset=seconds('offset_seconds', 0.0))


def _part(given: Any, name: str, kind: str) -> Part:
  if type(given.model).__name__ != kind:
    raise InputError(f'{type(given.model).__name__} was given as {name}: expected a {kind}.')
  return Part(given.model, given.variables)


def _inside(model: Any, variables: Any) -> Part:
  """The VQ-VAE that a prior has heard its codes by.

  Raises:
    InputError: it has none, as priors of releases.
  """
  own = variables.get('frozen', {}).get('vqvae')
  if own is None or not any(np.any(x) for x in jax.tree.leaves(own['params'])):
    raise InputError(
      'The prior holds no VQ-VAE, as files of openai: name its weights (--parts=vqvae=PATH).'
    )
  return Part(model.vqvae_alone(), own)
