"""All of Jukebox from files: the VQ-VAE, the priors of its levels, the numbers of names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import InputError
from research.inference.jukebox import Part, System
from research.text.jukebox import read_ids
from research.weights.conversion import revert
from research.weights.pretrained import load

# Which files of numbers there are, by what they hold and the version of the rules.
IDS = ('v2_artist_ids', 'v2_genre_ids', 'v3_artist_ids', 'v3_genre_ids')


def load_jukebox(
  vqvae: str,
  priors: Sequence[str | None] = (),
  ids: Mapping[str, str | Path] | None = None,
  *,
  vqvae_args: Mapping[str, Any] | None = None,
  args: Mapping[str, Any] | None = None,
) -> System:
  """Jukebox from weights of openai's (.pth.tar), of transformers, ours, or runs.

  Args:
    vqvae: where the VQ-VAE is, as `load` takes it; without `priors` a whole `JukeboxModel` of
      transformers 4, as openai/jukebox-1b-lyrics.
    priors: those of its levels, the lowest first; None for levels that are not sampled.
    vqvae_args, args: of the VQ-VAE and of the priors, that files of openai and transformers do not
      show; the published ones need none.
    ids: {'v2_artist_ids': FILE, …}, keys of IDS, files of lines `name;number`; names that are in
      none are unknown.

  Raises:
    InputError: as `load`; weights of another model; an unknown kind of file.
  """
  for name in ids or {}:
    if name not in IDS:
      raise InputError(f'{name!r} is no file of numbers of Jukebox: expected {", ".join(IDS)}.')
  whole = not priors
  how: dict[str, Any] = dict(release='jukebox_vqvae_hf') if whole else {}
  codes = load(vqvae, **how, **(vqvae_args or {}))
  if whole:
    priors = [vqvae] * codes.model.levels
  if codes.name != 'jukebox_vqvae':
    raise InputError(f'{vqvae!r} is a {codes.name}; expected the VQ-VAE of Jukebox.')
  found: list[Part | None] = []
  top = len(priors) - 1
  for level, path in enumerate(priors):
    if path is None:
      found.append(None)
      continue
    # The two upsamplers have arrays alike.
    own: dict[str, Any] = {} if level == top else {'level': level}
    one = load(path, **own, **(args or {}))
    if one.name != 'jukebox':
      raise InputError(f'{path!r} is a {one.name}; expected a prior of Jukebox.')
    found.append(Part(one.model, one.variables))

  def numbers(kind: str) -> dict[bool, dict[str, int]]:
    given = {v3: (ids or {}).get(f'v{3 if v3 else 2}_{kind}_ids') for v3 in (False, True)}
    return {v3: read_ids(path) for v3, path in given.items() if path is not None}

  return System(Part(codes.model, codes.variables), found, numbers('artist'), numbers('genre'))


def to_transformers(system: System) -> dict[str, np.ndarray]:
  """All arrays under the names of a `JukeboxModel` of transformers 4, but the outputs that are the
  embeddings; levels without a prior are left out."""
  found = revert('jukebox_vqvae_hf', system.vqvae.model, system.vqvae.variables)
  for prior in system.priors:
    if prior is not None:
      found |= revert('jukebox_hf', prior.model, prior.variables)
  return found
