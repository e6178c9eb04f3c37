"""Sampling of Jukebox against openai/jukebox, on whatever cases the golden folder holds: codes and
logits behind caches, filters of logits, labels, windows of every level."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.inference import generate_rules
from research.inference.jukebox import Drawing, Part, sample_window
from research.inference.jukebox_windows import pieces, window_starts
from research.models.jukebox_attention import attn_functions
from research.models.jukebox_parts import range_bins
from research.text import jukebox as text
from tests.contract import jit
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.jukebox_cases import build


def kind(name):
  return lambda case: case.config.get('kind') == name


@pytest.mark.slow
@each_case('jukebox', where=kind('jb_sample'))
def test_sampled_codes(case: Case):
  inputs, want = case.inputs, case.outputs
  model, variables = build(case)
  z, y = (inputs[name].astype(np.int32) for name in ('z', 'y'))
  above = inputs['z_above'].astype(np.int32) if 'z_above' in inputs else None
  ahead = model.lyrics_ahead

  @jit
  def step(variables, tokens, state):
    return model.apply(variables, tokens, state, method='step')

  memories = jit(lambda v: model.apply(v, y, above, method='remember'))(variables)
  full = jit(lambda v, z: model.apply(v, z, y, above, method='forward'))
  for run in case.config['runs']:
    name, given = run['name'], z[:, : run['primed']]
    drawing = Drawing(run['temp'], run['top_k'] or None, run['top_p'] or None)
    uniform = inputs['uniform'].T if run['mode'] == 'sample' else None
    codes = sample_window(
      Part(model, variables), given, run['tokens'], y, above, drawing, None, uniform
    )
    np.testing.assert_array_equal(codes, want[f'{name}/codes'], err_msg=name)

    # All at once, and behind caches: a beginning, chunks, then one by one.
    found = full(variables, codes.astype(np.int32))
    parts = [found[name] for name in ('prime_logits', 'gen_logits') if ahead or name[0] == 'g']
    wanted = want[f'{name}/logits']
    if f'{name}/sequence' not in want:
      assert_close(jnp.concatenate(parts, axis=1), wanted, relative=2e-4, what=f'{name} at once')
    tokens = np.concatenate([y[:, y.shape[1] - ahead :][:, :ahead], codes], axis=1)
    tokens[:, ahead:] += model.n_vocab if ahead else 0
    if f'{name}/sequence' in want:
      tokens = want[f'{name}/sequence'].astype(np.int32)
    tokens = np.concatenate([np.zeros((len(z), 1), np.int64), tokens[:, :-1]], axis=1)
    state, seen, start = model.start(len(z), 0, memories), [], 0
    first = ahead + run['primed'] or 5
    sizes = [first, 3, 1, 1, 6] if name == 'greedy' else [first]
    for n in [*sizes, *[1] * (tokens.shape[1] - sum(sizes))]:
      logits, state = step(variables, jnp.asarray(tokens[:, start : start + n], jnp.int32), state)
      seen.append(logits)
      start += n
    assert_close(np.concatenate(seen, axis=1), wanted, relative=2e-4, what=f'{name} behind caches')


@each_case('jukebox', where=kind('jb_filter'))
def test_filtered_logits(case: Case):
  logits = jnp.asarray(case.inputs['logits'][:, 0])
  for run in case.config['runs']:
    found = logits
    if run['top_k']:
      found = generate_rules.top_k(found, run['top_k'])
    if run['top_p']:
      found = generate_rules.top_p(found, run['top_p'])
    found = np.where(np.isneginf(found), np.float32(-1e30), found)
    np.testing.assert_array_equal(found[:, None], case.outputs[run['name']], err_msg=run['name'])


# -- Labels ------------------------------------------------------------------------------------


def ids_of(entries, v3, name_of):
  """{name: number} of the names of a case; unknown ones are in no file."""
  key = 'v3' if v3 else 'v2'
  found = {}
  for entry in entries:
    names, numbers = name_of(entry, v3), entry[key].get('ids', [entry[key].get('id')])
    found |= {name: number for name, number in zip(names, numbers) if number}
  return found


@each_case('jukebox', where=kind('jb_labels'))
def test_labels(case: Case, tmp_path):
  want = case.info['outputs']
  unidecode = pytest.importorskip('unidecode') is not None
  for v3, key in ((False, 'v2'), (True, 'v3')):
    known = want['vocabulary'][key]
    assert text.vocabulary_size(v3) == known['size'] and text.CHARACTERS[v3] == known['characters']
    for entry in want['text']:
      assert unidecode
      clean = text.clean(entry['text'], v3)
      assert clean == entry[key]['clean']
      tokens = text.tokens_of(clean, v3)
      assert tokens == entry[key]['tokens'] and text.text_of(tokens, v3) == entry[key]['back']
  for entry in want['norm']:
    assert text.plain_name(entry['name']) == entry['norm']

  # Numbers of artists and genres, through a file.
  mechanics = want['table_mechanics']
  (tmp_path / 'ids.txt').write_text('\n'.join(mechanics['lines']) + '\n')
  ids = text.read_ids(tmp_path / 'ids.txt')
  assert ids == mechanics['name_to_id']
  assert {str(k): v for k, v in text.names_of(ids).items()} == mechanics['id_to_name']
  (tmp_path / 'ids.txt').write_text('no number\n')
  with pytest.raises(InputError, match=r'Line 1 .* a semicolon'):
    text.read_ids(tmp_path / 'ids.txt')
  tables = {}
  for v3, key in ((False, 'v2'), (True, 'v3')):
    artists = ids_of(want['artist'], v3, lambda e, v3: [text.artist_name(e['name'], v3)])
    genres = ids_of(want['genre'], v3, lambda e, v3: text.genre_words(e['name'], v3))
    for entry in want['label']:
      if entry['v3'] == v3 and 'y' in entry:
        artists |= {text.artist_name(entry['artist'], v3): entry['y'][3]}
        numbers = [n for n in entry['y'][4 : 4 + entry['max_genre_words']] if n >= 0]
        genres |= dict(zip(text.genre_words(entry['genre'], v3), numbers, strict=True))
    tables[v3] = artists, genres
    labeller = text.Labeller(5, 0, 1, v3, artists, genres)
    for entry in want['artist']:
      assert labeller.artist(entry['name']) == entry[key]['id']
    for entry in want['genre']:
      assert text.genre_words(entry['name'], v3) == entry[key]['words']
      assert labeller.genre(entry['name']) == entry[key]['ids']

  for entry in want['label']:
    sizes = entry['max_genre_words'], entry['n_tokens'], entry['sample_length']
    labeller = text.Labeller(*sizes, entry['v3'], *tables[entry['v3']])
    place = entry['total_length'], entry['offset']
    song = text.Song(entry['artist'], entry['genre'], entry['lyrics'], *place)
    if 'error' in entry:
      with pytest.raises(InputError, match='words, and this prior takes'):
        labeller.label(song)
      continue
    label = labeller.label(song)
    assert label.tolist() == entry['y'] and len(labeller.lyrics(song)) == entry['full_tokens']
    described = labeller.describe(label)
    if entry['y'][3]:
      assert described == entry['described']
    assert described['lyrics'] == entry['described']['lyrics']

  for entry in want['lyric_window'] + want['lyric_window_rounding']:
    args = [entry[k] for k in ('n_tokens', 'total_length', 'offset', 'duration')]
    for name, single in (('python_numbers', False), ('int64_tensors', True)):
      found = text.lyric_window(range(entry['n_full']), *args, single=single).places
      real = [i for i in found if i >= 0]
      got = {'pad': len(found) - len(real), 'first': real[0], 'last': real[-1]}
      assert got == entry[name], (entry, name)


# -- Windows -----------------------------------------------------------------------------------


@each_case('jukebox', where=kind('jb_windows'))
def test_windows(case: Case):
  want = case.info['outputs']
  for each in want['get_starts']:
    args = each['total_length'], each['n_ctx'], each['hop_length']
    assert window_starts(*args) == each['starts']
  for order, functions in want['attn_funcs_by_order'].items():
    assert list(attn_functions(int(order), len(functions))) == functions, order
  for each in want['range_embedding_bins']:
    end = None if each['end'] is None else jnp.float32([each['end']])
    args = jnp.float32([each['start']]), end, each['n_time'], each['bins'], tuple(each['range'])
    assert range_bins(*args, each['clamp'])[0].tolist() == each['result']
  for run in want['runs']:
    check_run(run)


def check_run(run):
  hops = np.cumprod(run['downs'])
  song = text.Song(total_length=run['total_sample_length'], offset=run['offset'])
  levels = sorted(map(int, run['levels']), reverse=True)
  for level in levels:
    found, n_ctx = run['levels'][str(level)], run['n_ctx'][level]
    total, hop = run['sample_length'] // hops[level], int(run['hop_fraction'][level] * n_ctx)
    assert (total, hop) == (found['total_length'], found['hop_length'])
    ratio = run['downs'][level + 1] if level + 1 < len(hops) else 1
    labeller = text.Labeller(1, 0, n_ctx * int(hops[level]), True)
    got = [
      {
        'start': piece.start,
        'given_tokens': piece.given,
        'total_tokens': piece.total,
        'new_tokens': piece.new,
        'above': None if piece.above is None else list(piece.above),
        'y': labeller.windows([song], piece.start * int(hops[level]))[0, :3].tolist(),
      }
      for piece in pieces(int(total), n_ctx, hop, run['primed'][level], ratio)
    ]
    assert got == found['windows']
  if 'error' in run:
    level = min(levels) - 1
    total, n_ctx = int(run['sample_length'] // hops[level]), run['n_ctx'][level]
    hop = int(run['hop_fraction'][level] * n_ctx)
    with pytest.raises(InputError, match=r'sample for longer|choose hop_fraction'):
      pieces(total, n_ctx, hop, run['primed'][level], run['downs'][level + 1])
