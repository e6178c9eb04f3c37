"""All of Jukebox from files: the VQ-VAE, the priors of its levels, the numbers of names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from research.errors import InputError
from research.inference.jukebox import Part, System
from research.text.jukebox import read_ids
from research.weights.pretrained import load

# Which files of numbers there are, by what they hold and the version of the rules.
IDS = ('v2_artist_ids', 'v2_genre_ids', 'v3_artist_ids', 'v3_genre_ids')


def load_jukebox(
  vqvae: str, priors: Sequence[str | None], ids: Mapping[str, str | Path] | None = None
) -> System:
  """Jukebox from weights of openai's (.pth.tar), ours, or runs.

  Args:
    vqvae: where the VQ-VAE is, as `load` takes it.
    priors: those of its levels, the lowest first; None for levels that are not sampled.
    ids: {'v2_artist_ids': FILE, …}, keys of IDS, files of lines `name;number`; names that are in
      none are unknown.

  Raises:
    InputError: as `load`; weights of another model; an unknown kind of file.
  """
  for name in ids or {}:
    if name not in IDS:
      raise InputError(f'{name!r} is no file of numbers of Jukebox: expected {", ".join(IDS)}.')
  codes = load(vqvae)
  if codes.name != 'jukebox_vqvae':
    raise InputError(f'{vqvae!r} is a {codes.name}; expected the VQ-VAE of Jukebox.')
  found: list[Part | None] = []
  top = len(priors) - 1
  for level, path in enumerate(priors):
    if path is None:
      found.append(None)
      continue
    # The two upsamplers have arrays alike.
    one = load(path) if level == top else load(path, level=level)
    if one.name != 'jukebox':
      raise InputError(f'{path!r} is a {one.name}; expected a prior of Jukebox.')
    found.append(Part(one.model, one.variables))

  def numbers(kind: str) -> dict[bool, dict[str, int]]:
    given = {v3: (ids or {}).get(f'v{3 if v3 else 2}_{kind}_ids') for v3 in (False, True)}
    return {v3: read_ids(path) for v3, path in given.items() if path is not None}

  return System(Part(codes.model, codes.variables), found, numbers('artist'), numbers('genre'))
