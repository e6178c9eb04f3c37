"""Writing tokens: against loops that read all tokens anew at every step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from research.capabilities import Generates
from research.errors import InputError
from research.inference import generate as generation
from research.inference import generate_rules as rules
from research.inference.generate import Settings, generate, pad_prompts, stream
from research.inference.generate_rules import SoFar
from research.train import sharding
from tests.models.toy_language import made
from tests.models.toy_text import ToyText

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
STOP = 15


@pytest.fixture(scope='module')
def model():
  return made()


@pytest.fixture(scope='module')
def logits(model):
  """Logits behind a sequence, which is read whole."""
  language, variables = model
  width = language.max_tokens
  call = jax.jit(language.apply)

  def behind(tokens):
    padded = np.zeros((1, width), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(call(variables, padded)[0, len(tokens) - 1], np.float64)

  return behind


def logprobs(x):
  return x - np.log(np.exp(x - x.max()).sum()) - x.max()


def greedy(logits, prompt, count, rule=lambda tokens, x: x):
  tokens, scores = list(prompt), []
  while len(scores) < count:
    x = logprobs(rule(tokens, logits(tokens)))
    token = int(x.argmax())
    scores.append(x[token])
    if token == STOP:
      break
    tokens.append(token)
  return tokens[len(prompt) :], scores


def beams(logits, prompt, k, count, enough):
  """Beam search with dictionaries of sequences."""
  live, finished = [((), 0.0)], {}
  for _ in range(count):
    scores = {}
    for tokens, score in live:
      x = logprobs(logits([*prompt, *tokens]))
      for token in np.argsort(-x)[: k + 1]:
        scores[(*tokens, int(token))] = score + x[token]
    live, new = [], {}
    for tokens in sorted(scores, key=scores.get, reverse=True):
      if tokens[-1] == STOP:
        new[tokens[:-1]] = scores[tokens]
      elif len(live) < k:
        live.append((tokens, scores[tokens]))
      if len(live) == k:
        break
    for tokens in sorted(new, key=new.get, reverse=True):
      if len(finished) < enough:
        finished[tokens] = new[tokens]
    if len(finished) >= enough:
      break
  for tokens, score in live:
    if len(finished) < k:
      finished[tokens] = score
  return finished


def test_it_declares_itself(model):
  assert isinstance(model[0], Generates)
  with pytest.raises(InputError, match='ToyText writes no tokens'):
    generate(ToyText(), {}, PROMPTS, Settings(4, (STOP,)))


def test_greedy(model, logits):
  """Prompts of several lengths in one batch: each as if alone; some end, some do not."""
  out = generate(*model, PROMPTS, Settings(12, (STOP,)))
  ended = 0
  for i, prompt in enumerate(PROMPTS):
    tokens, scores = greedy(logits, prompt, 12)
    assert out.best()[i] == tokens
    np.testing.assert_allclose(out.sums[i, 0], sum(scores), rtol=1e-5)
    np.testing.assert_allclose(out.logprobs[i, 0, : len(scores)], scores, atol=1e-5)
    ended += len(tokens) < 12
  assert 0 < ended < len(PROMPTS)
  assert out.steps == 12


@pytest.mark.slow
def test_limits_and_positions(model, logits):
  """No row gets more tokens than it may, nor than there are positions."""
  language, variables = model
  long = (np.arange(language.max_tokens - 2) % 14 + 1).tolist()
  out = generate(language, variables, [long, [1]], Settings(8, (STOP,)), limits=[8, 3])
  assert out.lengths[:, 0].tolist() == [3, 3]
  assert out.best()[1] == greedy(logits, [1], 3)[0]
  with pytest.raises(InputError, match=f'{language.max_tokens} positions'):
    generate(language, variables, [[1] * 41], Settings(8, (STOP,)))
  with pytest.raises(InputError, match='Token 23'):
    generate(language, variables, [[23]], Settings(8, (STOP,)))


@pytest.mark.parametrize(
  ('k', 'patience'),
  [
    (4, 1.0),
    pytest.param(3, 2.0, marks=pytest.mark.slow),
    pytest.param(3, 0.4, marks=pytest.mark.slow),
  ],
)
def test_beams(model, logits, k, patience):
  out = generate(*model, PROMPTS, Settings(8, (STOP,), beams=k, patience=patience))
  for i, prompt in enumerate(PROMPTS):
    want = beams(logits, prompt, k, 8, round(k * patience))
    filled = out.filled[i]
    assert [out.text(i, int(j)) for j in np.flatnonzero(filled)] == [list(t) for t in want]
    np.testing.assert_allclose(out.sums[i][filled], list(want.values()), rtol=1e-5)
    for j in np.flatnonzero(filled):
      n = out.lengths[i, j] + 1
      np.testing.assert_allclose(out.logprobs[i, j, :n].sum(), out.sums[i, j], rtol=1e-5)


def mean_beams(logits, prompt, k, count, temperature):
  """ClipCap's search with lists of hypotheses: (tokens with a stop token, sum), best mean first."""

  def mean(each):
    return each[1] / max(len(each[0]), 1)

  live = [((), 0.0)]
  for _ in range(count):
    found = []
    for tokens, score in live:
      if tokens[-1:] == (STOP,):
        found.append((tokens, score))
        continue
      x = logprobs(logits([*prompt, *tokens]) / temperature)
      found += [((*tokens, int(t)), score + x[t]) for t in np.argsort(-x)[:k]]
    live = sorted(found, key=mean, reverse=True)[:k]
  return live


@pytest.mark.parametrize('temperature', [1.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_beams_by_their_mean(model, logits, temperature):
  """Hypotheses that have ended stay, and are ranked with those that go on."""
  settings = Settings(8, (STOP,), beams=4, style='clipcap')
  out = generate(*model, PROMPTS, settings, temperature=temperature)
  ended = 0
  for i, prompt in enumerate(PROMPTS):
    want = mean_beams(logits, prompt, 4, 8, temperature)
    order = np.argsort(-out.scores()[i], kind='stable')
    got = [tuple(out.text(i, int(j))) for j in order]
    assert got == [tuple(t for t in tokens if t != STOP) for tokens, _ in want]
    np.testing.assert_allclose(out.sums[i][order], [score for _, score in want], rtol=1e-5)
    assert out.counts[i][order].tolist() == [len(tokens) for tokens, _ in want]
    ended += sum(tokens[-1] == STOP for tokens, _ in want)
  assert 0 < ended < 4 * len(PROMPTS)


def early_beams(logits, prompt, k, count, penalty):
  """The search of transformers 4.27 with lists of hypotheses: (score, tokens), best first."""
  live, kept = [((), 0.0)], []

  def add(tokens, total):
    kept.append((total / (len(prompt) + len(tokens)) ** penalty, tokens))
    kept.sort(reverse=True)
    del kept[k:]

  for step in range(count):
    each = [(tokens, score, logprobs(logits([*prompt, *tokens]))) for tokens, score in live]
    found = [((*tokens, t), score + x[t]) for tokens, score, x in each for t in range(len(x))]
    found = sorted(found, key=lambda one: one[1], reverse=True)[: 2 * k]
    live = [one for one in found if one[0][-1] != STOP][:k]
    for tokens, score in found[:k]:
      if tokens[-1] == STOP:
        add(tokens[:-1], score)
    attainable = found[0][1] / (len(prompt) + step + 1) ** penalty
    if len(kept) == k and kept[-1][0] >= attainable:
      return kept
  for tokens, score in live:
    add(tokens, score)
  return kept


@pytest.mark.slow
@pytest.mark.parametrize('penalty', [1.0, 2.5])
def test_beams_whose_length_has_the_prompt(model, logits, penalty):
  settings = Settings(8, (STOP,), beams=3, style='transformers_4_27', length_penalty=penalty)
  out = generate(*model, PROMPTS, settings)
  lengths = set()
  for i, prompt in enumerate(PROMPTS):
    want = early_beams(logits, prompt, 3, 8, penalty)
    order = np.argsort(-out.scores()[i])[: len(want)]
    np.testing.assert_allclose(out.scores()[i][order], [score for score, _ in want], rtol=1e-5)
    assert [tuple(out.text(i, int(j))) for j in order] == [tokens for _, tokens in want]
    lengths |= {len(tokens) for _, tokens in want}
  assert len(lengths) > 1


@pytest.mark.slow
def test_length_penalty(model):
  plain = generate(*model, PROMPTS, Settings(8, (STOP,), beams=4))
  want = plain.sums / ((5 + plain.lengths) / 6.0) ** 0.6
  out = generate(*model, PROMPTS, Settings(8, (STOP,), beams=4, length_penalty=0.6))
  np.testing.assert_allclose(out.scores(), want)
  np.testing.assert_allclose(plain.scores(), plain.sums / np.maximum(plain.lengths, 1))


@pytest.mark.slow
def test_given_noise(model, logits):
  """A draw is the largest sum of logit / temperature and Gumbel noise."""
  rng = np.random.default_rng(0)
  noise = rng.gumbel(size=(6, 6, 23)).astype(np.float32)
  settings = Settings(6, (STOP,), sample=True, candidates=2)
  out = generate(*model, PROMPTS, settings, temperature=0.7, noise=noise)
  for i, prompt in enumerate(PROMPTS):
    for j in range(2):
      tokens = list(prompt)
      for step in range(6):
        token = int((logits(tokens) / 0.7 + noise[step, 2 * i + j]).argmax())
        if token == STOP:
          break
        tokens.append(token)
      assert out.text(i, j) == tokens[len(prompt) :]


@pytest.mark.slow
def test_draws_follow_the_filters(model):
  settings = dict(max_tokens=1, stop=(STOP,), sample=True, candidates=400)
  key = jax.random.key(0)
  for more, allowed in ((dict(top_k=3), 3), (dict(top_p=1e-6), 1), (dict(min_p=1.0), 1)):
    out = generate(*model, [[1, 2]], Settings(**settings, **more), key=key)
    drawn = set(out.tokens[0, :, 0].tolist())
    assert len(drawn) == allowed, more
  with pytest.raises(InputError, match='random key'):
    generate(*model, [[1]], Settings(**settings))


@pytest.mark.slow
def test_a_stream_is_what_generate_gives(model):
  for settings, key in (
    (Settings(12, (STOP,)), None),
    (Settings(12, (STOP,), sample=True, top_k=5), jax.random.key(3)),
  ):
    want = generate(*model, PROMPTS, settings, key=key).best()
    for every in (1, 5):
      found = [[] for _ in PROMPTS]
      for part in stream(*model, PROMPTS, settings, key=key, every=every):
        assert max(map(len, part)) <= every
        for tokens, new in zip(found, part):
          tokens += new
      assert found == want
  with pytest.raises(InputError, match='beams=2'):
    next(stream(*model, PROMPTS, Settings(4, (STOP,), beams=2)))


@pytest.mark.slow
def test_rules_in_a_search(model, logits):
  """Suppression, repetition and n-grams by their definitions."""
  settings = Settings(
    10, (STOP,), rules=(rules.Suppress((3, 9)), rules.BlockNgrams(2), rules.RepetitionPenalty(1.4))
  )
  out = generate(*model, PROMPTS, settings)

  def rule(tokens, x):
    x = x.copy()
    x[[3, 9]] = -np.inf
    x[[b for a, b in itertools.pairwise(tokens) if a == tokens[-1]]] = -np.inf
    seen = sorted(set(tokens))
    x[seen] = np.where(x[seen] < 0, x[seen] * 1.4, x[seen] / 1.4)
    return x

  for i, prompt in enumerate(PROMPTS):
    assert out.best()[i] == greedy(logits, prompt, 10, rule)[0]


def so_far(tokens, prompt):
  width = max(len(t) for t in tokens)
  padded = np.full((len(tokens), width + 3), -1, np.int32)
  for row, t in zip(padded, tokens):
    row[: len(t)] = t
  return SoFar(jnp.asarray(padded), prompt, jnp.int32(width - prompt))


def test_first_tokens():
  x = jnp.zeros((1, 5))
  begin, later = so_far([[2]], 1), so_far([[2, 3]], 1)
  blank = rules.Suppress((1,), first=True)
  assert np.isinf(blank(begin, x)[0, 1]) and np.isfinite(blank(later, x)).all()
  force = rules.Force((None, 4))
  assert np.isfinite(force(begin, x)).all()
  assert np.flatnonzero(np.isfinite(force(later, x)[0])).tolist() == [4]
  longer = rules.MinTokens(1, (0,))
  assert np.isinf(longer(begin, x)[0, 0]) and np.isfinite(longer(later, x)).all()


def test_prompts_have_few_widths():
  widths = {pad_prompts([[1] * n]).shape[1] for n in range(1, 300)}
  assert widths == {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}
  padded = pad_prompts(PROMPTS)
  assert padded[1].tolist() == [-1] * 7 + [4]
  with pytest.raises(InputError, match='without tokens'):
    pad_prompts([[]])


@pytest.mark.slow
def test_programs_are_met_again(model):
  """Prompts of other lengths, temperatures, keys and limits: one program."""
  settings = Settings(5, (STOP,), sample=True)
  sizes = []
  for length, seed in ((5, 0), (6, 1), (8, 2)):
    key = jax.random.key(seed)
    args = dict(temperature=0.5 + seed, limits=[3 + seed % 2])
    generate(*model, [[1] * length], settings, key=key, **args)
    sizes.append(generation._generate._cache_size())
  assert len(set(sizes)) == 1


def test_settings_that_cannot_be():
  for args, match in (
    (dict(max_tokens=0), 'max_tokens=0'),
    (dict(stop=(), beams=2), 'stop token'),
    (dict(beams=2, sample=True), 'beams=2'),
    (dict(candidates=2), 'candidates=2'),
    (dict(style='clip'), "style of generation 'clip'. Did you mean 'clipcap'"),
    (dict(beams=2, patience=0.1), 'patience=0.1'),
    (dict(sample=True, top_p=0.0), 'top_p=0.0'),
    (dict(sample=True, top_k=0), 'top_k=0'),
  ):
    with pytest.raises(InputError, match=match):
      Settings(**(dict(max_tokens=4, stop=(STOP,)) | args))


@pytest.mark.slow
@pytest.mark.parametrize('beams', [1, 3])
def test_on_a_mesh(model, beams):
  """Rows spread over eight devices: the tokens of one."""
  language, variables = model
  prompts = [[1 + i, 2 + i] for i in range(8)]
  settings = Settings(8, (STOP,), beams=beams)
  want = generate(language, variables, prompts, settings)
  mesh = sharding.make_mesh(dict(data=8))
  spread = jax.device_put(variables, NamedSharding(mesh, P()))
  with jax.set_mesh(mesh):
    out = generate(language, spread, prompts, settings)
  assert out.best() == want.best()
  np.testing.assert_allclose(out.sums, want.sums, rtol=1e-5)
