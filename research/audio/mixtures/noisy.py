"""Small sets of noisy and clean speech, in the layout of VoiceBank-DEMAND as SUPERB reads it."""

from typing import Any

import numpy as np

from research.audio.clips import Source
from research.audio.mixtures import lists, pools, signals
from research.audio.mixtures.small import looped, stem
from research.audio.mixtures.writing import Item, Made, Recipe

# Signal-to-noise ratios in dB (Valentini-Botinhao et al., SSW 2016).
RATIOS = {
  'train': (0.0, 5.0, 10.0, 15.0),
  'valid': (0.0, 5.0, 10.0, 15.0),
  'test': (2.5, 7.5, 12.5, 17.5),
}
FOLDERS = {'train': 'train', 'valid': 'dev', 'test': 'test'}
KINDS = ('noisy', 'clean')


def small_noisy(
  source: Source,
  noise: Source,
  seed: int = 0,
  train: int = 300,
  valid: int = 60,
  test: int = 100,
  shortest: float = 1.0,
) -> Recipe:
  """{train,dev,test}/{noisy,clean} with wav.scp, as `superb_se` reads it. Neither speakers nor
  recordings of noise are in two splits; the ratios of the test do not occur in training.

  Args:
    source: clips with a column `speaker`.
    noise: clips of noise; short ones are repeated.
    seed: of every choice.
    train, valid, test: number of pairs.
    shortest: minimum length of a clip, seconds.

  Raises:
    InputError: too few speakers, clips or recordings of noise.
  """
  sizes = {'train': train, 'valid': valid, 'test': test}
  speakers = pools.by_speaker(source, seed, shortest=shortest, speakers=1, sizes=sizes)
  noises = pools.by_recording(noise, seed)
  items: list[Item] = []
  for split, count in sizes.items():
    rng = pools.random(seed, 'se', split)
    rows = [row for name in sorted(speakers[split]) for row in speakers[split][name]]
    order = [row for _ in range(-(-count // max(len(rows), 1))) for row in rng.permutation(rows)]
    group = noises[split]
    for number, row in enumerate(order[:count]):
      items.append(
        {
          'id': f'{stem(source, int(row))}_{number:05d}',
          'split': split,
          'row': int(row),
          'noise': pools.draw(rng, group[pools.draw(rng, sorted(group))]),
          'ratio': pools.draw(rng, RATIOS[split]),
        }
      )

  def make(item: Item) -> Made:
    clean = pools.read(source, item['row'])
    rng = pools.random(seed, 'se', item['id'])
    found = looped(pools.read(noise, item['noise']), len(clean), rng)
    level = 20 * np.log10(max(signals.rms(clean), 1e-6)) - item['ratio']
    found = signals.at_level(found, level)
    gain = np.float32(signals.headroom(clean, found))
    arrays = dict(zip(KINDS, (gain * (clean + found), gain * clean)))
    folder = FOLDERS[item['split']]
    files = {f'{folder}/{kind}/{item["id"]}': audio for kind, audio in arrays.items()}
    return files, {'split': item['split'], 'id': item['id']}

  settings = {
    'source': source.fingerprint(),
    'noise': noise.fingerprint(),
    'seed': seed,
    **sizes,
    'shortest': shortest,
  }
  return Recipe('small_noisy', settings, items, make, _lists)


def _lists(facts: list[dict[str, Any]], suffix: str) -> dict[str, str]:
  found = {}
  for split, folder in FOLDERS.items():
    names = [f['id'] for f in facts if f['split'] == split]
    for kind in KINDS if names else ():
      found[f'{folder}/{kind}/wav.scp'] = lists.scp((n, f'{n}{suffix}') for n in names)
  return found
