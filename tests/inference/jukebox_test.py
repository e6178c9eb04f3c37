"""Music from small Jukebox models: levels, prompts, continuation, upsampling, seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.inference import generators
from research.inference.generators import Request
from research.inference.jukebox import Drawing, Part, System
from research.text.jukebox import Song
from research.weights import Pretrained, save
from research.weights.jukebox_system import load_jukebox
from tests.contract import jit

VQVAE = dict(size='tiny', downs_t=(1, 1), width=4, depth=1, emb_width=4, l_bins=16)
SMALL = dict(
  size='tiny', vqvae=VQVAE, n_ctx=16, prior_width=8, prior_depth=1, attn_order=0, heads=1, blocks=4
)


def part(name, batch, **args):
  model = models.get(name)(**args)
  return Part(model, jit(model.init)(jax.random.key(0), batch))


@functools.cache
def system():
  vqvae = models.get('jukebox_vqvae')(**VQVAE)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(vqvae.init, jax.random.key(0), vqvae.example())
  draw = lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype)  # noqa: E731
  variables = jax.tree.map(draw, shapes)
  codes = {'codes': jnp.zeros((1, 16), jnp.int32)}
  song = {'labels': jnp.asarray([[16_000, 0, 64, 1, 1]], jnp.int32)}
  top = part('jukebox', {**codes, **song}, **SMALL, labels=True)
  lower = part(
    'jukebox', {**codes, 'codes_above': jnp.zeros((1, 8), jnp.int32)}, **SMALL, level=0,
    cond_width=4, cond_depth=1,
  )  # fmt: skip
  names = {True: {'she': 1}}
  return System(Part(vqvae, variables), [lower, top], names, {True: {'jazz': 2}})


SONGS = [Song('She', 'Jazz', '', 16_000), Song('nobody', 'noise', '', 16_000)]
# 24 codes of the top level: windows 0 to 16 and 8 to 24.
SECONDS = 24 * 4 / 16_000
HOPS = (0.5, 0.5)


@pytest.mark.slow
def test_every_level_is_sampled_and_seeds_decide():
  seen = []
  how = dict(hop_fraction=HOPS, progress=lambda *where: seen.append(where))
  first = system().sample(SONGS, SECONDS, seed=1, **how)
  assert [x.shape for x in first.codes] == [(2, 48), (2, 24)]
  assert first.audio.shape == (2, 96) and np.isfinite(first.audio).all()
  assert seen[:3] == [(1, 0, 2), (1, 1, 2), (1, 2, 2)] and seen[-1] == (0, 5, 5)
  again = system().sample(SONGS, SECONDS, seed=1, hop_fraction=HOPS, drawing=Drawing(max_batch=2))
  other = system().sample(SONGS, SECONDS, seed=2, hop_fraction=HOPS)
  for mine, same, drawn in zip(first.codes, again.codes, other.codes):
    np.testing.assert_array_equal(mine, same)
    assert (mine != drawn).any() and mine.min() >= 0 and mine.max() < 16

  # Upsampling the same codes of the top level gives the same music.
  empty = np.zeros((2, 0), np.int64)
  up = system().sample(
    SONGS, SECONDS, codes=[empty, first.codes[1]], levels=[0], hop_fraction=HOPS, seed=1
  )
  np.testing.assert_array_equal(up.audio, first.audio)


@pytest.mark.slow
def test_prompts_and_continuation_keep_what_was_given():
  audio = np.random.default_rng(0).standard_normal((2, 66)).astype(np.float32)
  given = system().encode(audio[:, :64])
  primed = system().sample(SONGS, SECONDS, prompt=audio, hop_fraction=HOPS)
  going = system().sample(SONGS, SECONDS, codes=given, hop_fraction=HOPS)
  for have, one, two in zip(given, primed.codes, going.codes):
    np.testing.assert_array_equal(one[:, : have.shape[1]], have)
    np.testing.assert_array_equal(one, two)


def test_the_system_opens_from_its_files(tmp_path):
  own = system()
  parts = {'vqvae': ('jukebox_vqvae', own.vqvae)}
  parts |= {f'level_{i}': ('jukebox', prior) for i, prior in enumerate(own.priors)}
  files = {}
  for name, (kind, part) in parts.items():
    made = Pretrained(kind, part.model, part.variables, 'drawn')
    files[name] = str(save(made, tmp_path / f'{name}.safetensors'))
  ids = {}
  for kind, line in (('artist', 'she;1'), ('genre', 'jazz;2')):
    path = tmp_path / f'{kind}.txt'
    path.write_text(f'{line}\n')
    ids[f'v3_{kind}_ids'] = path
  priors = [files['level_0'], files['level_1']]
  opened = load_jukebox(files['vqvae'], priors, ids)
  how = dict(hop_fraction=HOPS, seed=1)
  want, got = (x.sample(SONGS, SECONDS, **how) for x in (own, opened))
  np.testing.assert_array_equal(got.audio, want.audio)
  for args, says in (
    ((files['level_1'], priors), 'is a jukebox; expected the VQ-VAE'),
    ((files['vqvae'], [None, files['vqvae']]), 'is a jukebox_vqvae; expected a prior'),
    ((files['vqvae'], priors, {'v4_ids': 'x'}), 'v4_ids'),
  ):
    with pytest.raises(InputError, match=says):
      load_jukebox(*args)


@pytest.mark.slow
def test_songs_that_are_asked_for():
  """`launch.generate` and `load(…).generate`: the same as the system itself."""
  own = system()
  low, top = own.priors
  given = dict(vqvae=own.vqvae, level_0=low, hop_fraction=HOPS)
  generator = generators.make(top.model, top.variables, **given)
  samples = round(SECONDS * 16_000)
  texts = dict(artist='nobody', genre='noise', total_seconds='1')
  assert {*generator.generation.texts} == {*texts, 'offset_seconds'}
  asked = [Request(samples=samples, seed=seed, texts=texts) for seed in (1, 2)]
  made = generator(asked)
  want = System(own.vqvae, own.priors).sample(SONGS[1:], SECONDS, hop_fraction=HOPS, seed=1)
  np.testing.assert_array_equal(made[0], want.audio[0])
  assert made[1].shape == (96,) and not np.array_equal(made[0], made[1])
  # The top level alone, and a prompt.
  alone = generators.make(top.model, top.variables, vqvae=own.vqvae, hop_fraction=HOPS)
  prompt = np.random.default_rng(0).standard_normal(66).astype(np.float32)
  (primed,) = alone([Request(samples=samples, prompt=prompt, texts=texts)])
  kept = own.decode(own.encode(prompt[None, :64])[1], 1)
  assert primed.shape == (96,) and np.abs(primed[:40] - kept[0, :40]).max() < 1e-4
  with pytest.raises(InputError, match='total_seconds='):
    generator([Request(samples=samples, texts=dict(total_seconds='long'))])


def test_models_that_make_no_music_together():
  own = system()
  low, top = own.priors
  given = dict(vqvae=own.vqvae, level_0=low)
  untrained = dict(top.variables) | {
    'frozen': jax.tree.map(jnp.zeros_like, top.variables['frozen'])
  }
  for part, args, says in (
    (low, {}, 'parts=level_0'),
    (top, dict(given, level_1=low), 'level_1 was given'),
    (top, dict(given, vqvae=low), 'Jukebox was given as vqvae'),
    (Part(top.model, untrained), {}, 'parts=vqvae'),
  ):
    with pytest.raises(InputError, match=says):
      generators.make(part.model, part.variables, **args)


@pytest.mark.parametrize(
  ('args', 'says'),
  [
    (dict(songs=[]), 'at least one'),
    (dict(seconds=0.001), 'an upsampler has windows of 16: sample for longer'),
    (dict(levels=[0]), 'needs 24 codes of the level above, and there are 0'),
    (dict(prompt=np.zeros((1, 64), np.float32)), '1 prompts were given for 2 songs'),
    (dict(codes=[np.zeros((2, 4), np.int64)]), 'expected 2 levels'),
    (dict(hop_fraction=(0.5, 0.0)), 'larger hop_fraction'),
    (dict(hop_fraction=(0.2, 0.5)), 'begin at multiples'),
  ],
)
def test_what_does_not_fit_is_refused(args, says):
  args = dict(songs=SONGS, seconds=SECONDS, hop_fraction=HOPS) | args
  with pytest.raises(InputError, match=says):
    system().sample(args.pop('songs'), args.pop('seconds'), **args)
  with pytest.raises(InputError, match='choose one'):
    Drawing(top_k=3, top_p=0.5)
  with pytest.raises(InputError, match='place of level 1'):
    System(system().vqvae, [None, system().priors[0]])
