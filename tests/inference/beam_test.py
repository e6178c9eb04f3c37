"""Beam search against brute force over all paths, without an n-gram and with ones of words and
letters."""

import gzip
import itertools

import numpy as np
import pytest
from scipy.special import log_softmax

from research.errors import InputError
from research.inference import beam, ctc
from research.text import characters

pytest.importorskip('flashlight.lib.text.decoder', reason="needs flashlight-text ('.[lm]')")

SYMBOLS = ('<s>', '|', 'A', 'B', 'T')
UNIGRAMS = {'</s>': (-1.0, 0.0), '<unk>': (-2.0, 0.0), '<s>': (-99.0, -0.3)}
WORDS = {
  1: UNIGRAMS | {'AT': (-0.7, -0.2), 'BAT': (-0.5, -0.1), 'TAB': (-0.9, -0.4)},
  2: {('<s>', 'AT'): -0.2, ('AT', 'BAT'): -0.6, ('BAT', '</s>'): -0.4, ('AT', 'TAB'): -0.05},
}
LETTERS = {
  1: UNIGRAMS | {'|': (-0.6, -0.1), 'A': (-0.5, -0.3), 'B': (-0.8, -0.2), 'T': (-0.7, -0.25)},
  2: {('<s>', 'T'): -0.1, ('T', 'A'): -0.15, ('A', 'B'): -0.2, ('B', '|'): -0.05},
}


def arpa(path, model):
  """Writes a bigram as ARPA text."""
  lines = ['\\data\\', *(f'ngram {n}={len(model[n])}' for n in (1, 2)), '', '\\1-grams:']
  lines += [f'{p}\t{word}\t{backoff}' for word, (p, backoff) in model[1].items()]
  lines += ['', '\\2-grams:', *(f'{p}\t{a} {b}' for (a, b), p in model[2].items()), '', '\\end\\']
  path.write_text('\n'.join(lines) + '\n')
  return path


def probability(model, words):
  """log10 P(words </s>) of a back-off bigram."""
  total = 0.0
  for a, b in itertools.pairwise(['<s>', *words, '</s>']):
    total += model[2][a, b] if (a, b) in model[2] else model[1][a][1] + model[1][b][0]
  return total


def all_paths(logits, spell):
  """{text: log probabilities of its paths}; spell(ids) is None for what may not be."""
  scores = log_softmax(logits, axis=1)
  found = {}
  for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
    spelt = spell(ctc.collapse(np.array(path, np.int32)).ids.tolist())
    if spelt is not None:
      score = scores[np.arange(len(path)), path].sum()
      found.setdefault(spelt, []).append(score)
  return found


def letters(ids):
  return ''.join(SYMBOLS[i] for i in ids)


def words(ids):
  spelt = tuple(w for w in ''.join(SYMBOLS[i] for i in ids).split('|') if w)
  return spelt if set(spelt) <= {'AT', 'BAT', 'TAB'} else None


def heard(decoder, logits):
  return ctc.collapse(decoder(logits)).ids.tolist()


def random_logits(seed, frames=5, scale=1.5):
  return np.random.default_rng(seed).normal(0, scale, (frames, len(SYMBOLS))).astype(np.float32)


def test_of_peaked_logits_every_width_gives_the_greedy_path():
  rng = np.random.default_rng(0)
  path = rng.integers(0, 32, 60)
  logits = rng.normal(size=(60, 32)).astype(np.float32)
  logits[np.arange(60), path] += 40.0
  for width in (1, 2, 50):
    for log_add in (True, False):
      found = beam.BeamSearch(characters.CHARACTERS, beam=width, log_add=log_add)(logits)
      np.testing.assert_array_equal(found, ctc.Greedy()(logits))


def test_without_sums_and_without_an_n_gram_it_is_greedy():
  search = beam.BeamSearch(SYMBOLS, log_add=False)
  for seed in range(10):
    logits = random_logits(seed)
    expected = letters(ctc.collapse(ctc.Greedy()(logits)).ids)
    assert letters(heard(search, logits)) == expected


def test_the_best_text_of_all_paths():
  search = beam.BeamSearch(SYMBOLS, beam=1000, threshold=1e3)
  greedy, differ = ctc.Greedy(), 0
  for seed in range(8):
    logits = random_logits(seed, scale=0.7)
    texts = {t: np.logaddexp.reduce(s) for t, s in all_paths(logits, letters).items()}
    best = max(texts, key=texts.get)
    assert letters(heard(search, logits)) == best
    differ += letters(ctc.collapse(greedy(logits)).ids) != best
  assert differ > 3  # The case is not one that greedy decoding solves as well.


@pytest.mark.parametrize('log_add', [True, False])
@pytest.mark.parametrize('kind', ['letters', 'words'])
def test_the_best_text_of_all_paths_with_an_n_gram(tmp_path, kind, log_add):
  model, spell = {'letters': (LETTERS, letters), 'words': (WORDS, words)}[kind]
  settings = dict(lm_weight=1.3, word_score=-0.7, log_add=log_add, beam=1000, threshold=1e3)
  search = beam.BeamSearch(SYMBOLS, lm=arpa(tmp_path / 'lm.arpa', model), **settings)
  reduce = np.logaddexp.reduce if log_add else np.max
  found = set()
  for seed in range(8):
    logits = random_logits(seed)
    if kind == 'words':
      paths = all_paths(logits, lambda ids: spell([*ids, 1]))
    else:
      paths = all_paths(logits, spell)
    score = lambda spelt: (  # noqa: E731
      reduce(paths[spelt])  # noqa: B023
      + 1.3 * probability(model, spelt)
      - 0.7 * (len(spelt) if kind == 'words' else 0)
    )
    best = max(paths, key=score)
    assert spell([*heard(search, logits), 1] if kind == 'words' else heard(search, logits)) == best
    found.add(best)
  assert len(found) > 2


def test_probabilities_by_hand():
  # log10: P(AT | <s>) listed -0.2; P(BAT | AT) -0.6; P(</s> | BAT) -0.4.
  assert probability(WORDS, ('AT', 'BAT')) == pytest.approx(-1.2)
  # P(TAB | <s>) = backoff(<s>) -0.3 + P(TAB) -0.9; P(</s> | TAB) = -0.4 - 1.0.
  assert probability(WORDS, ('TAB',)) == pytest.approx(-2.6)


def test_an_n_gram_decides_where_the_sound_does_not(tmp_path):
  # 'BAT' or 'TAT' a shade ahead of it: no such word.
  path = np.array([4, 2, 4, 1])
  logits = np.full((4, 5), -5.0, np.float32)
  logits[np.arange(4), path] = 5.0
  logits[0, 3] = 4.9
  assert characters.spell(heard(beam.BeamSearch(SYMBOLS), logits), SYMBOLS) == 'TAT'
  lm = arpa(tmp_path / 'lm.arpa', WORDS)
  assert characters.spell(heard(beam.BeamSearch(SYMBOLS, lm=lm), logits), SYMBOLS) == 'BAT'
  # Without the last boundary, the end of the clip ends the word; it stays within the clip.
  decoded = beam.BeamSearch(SYMBOLS, lm=lm)(logits[:3])
  assert decoded.tolist() == [3, 2, 4]
  # Two words that sound alike: the weight of the n-gram decides.
  logits[0, 3], logits[0, 0] = -5.0, 4.9  # 'TAT' or 'AT'.
  logits[0, 4] = 5.0
  assert characters.spell(heard(beam.BeamSearch(SYMBOLS, lm=lm), logits), SYMBOLS) == 'AT'


def test_a_word_score_makes_more_or_fewer_words(tmp_path):
  lm = arpa(tmp_path / 'lm.arpa', WORDS)
  rng = np.random.default_rng(3)
  logits = rng.normal(0, 0.5, (40, 5)).astype(np.float32)
  counts = []
  for score in (-8.0, 0.0, 8.0):
    search = beam.BeamSearch(SYMBOLS, lm=lm, word_score=score)
    counts.append(len(characters.spell(heard(search, logits), SYMBOLS).split()))
  assert counts[0] < counts[1] < counts[2]


def test_a_lexicon_limits_the_words_and_may_spell_them(tmp_path):
  lm = arpa(tmp_path / 'lm.arpa', WORDS)
  (tmp_path / 'words.txt').write_text('TAB\nBAT\tB A B |\n\n')
  logits = np.full((4, 5), -5.0, np.float32)
  logits[np.arange(4), [3, 2, 4, 1]] = 5.0  # 'BAT', which is written 'BAB' now.
  search = beam.BeamSearch(SYMBOLS, lm=lm, lexicon=tmp_path / 'words.txt')
  assert characters.spell(heard(search, logits), SYMBOLS) == 'BAB'
  assert beam.read_lexicon(tmp_path / 'words.txt') == {'TAB': ['TAB'], 'BAT': ['BAB']}


def test_the_case_of_the_n_gram_may_be_another(tmp_path):
  lower = {
    n: {
      (tuple(w.lower() for w in k) if n == 2 else k.lower()): v for k, v in model.items()
    }
    for n, model in WORDS.items()
  }  # fmt: skip
  logits = random_logits(5, frames=30)
  expected = beam.BeamSearch(SYMBOLS, lm=arpa(tmp_path / 'upper.arpa', WORDS))(logits)
  found = beam.BeamSearch(SYMBOLS, lm=arpa(tmp_path / 'lower.arpa', lower))(logits)
  np.testing.assert_array_equal(found, expected)
  small = tuple(s.lower() for s in SYMBOLS)
  found = beam.BeamSearch(small, lm=tmp_path / 'upper.arpa')(logits)
  np.testing.assert_array_equal(found, expected)


def test_words_that_cannot_be_spelt_are_counted(tmp_path):
  model = {1: WORDS[1] | {'CAT': (-1.0, 0.0), "AT'S": (-1.0, 0.0)}, 2: WORDS[2]}
  search = beam.BeamSearch(SYMBOLS, lm=arpa(tmp_path / 'lm.arpa', model))
  assert search.left_out == 2
  with pytest.raises(InputError, match='spells none of the 3 words'):
    beam.BeamSearch(('<s>', '|', 'X'), lm=arpa(tmp_path / 'lm.arpa', WORDS))
  with pytest.raises(InputError, match=r"needs a vocabulary with '\|'"):
    beam.BeamSearch(('<s>', 'A', 'T'), lm=tmp_path / 'lm.arpa')


@pytest.mark.parametrize('with_words', [False, True])
def test_long_clips_are_searched_in_blocks(tmp_path, monkeypatch, with_words):
  lm = arpa(tmp_path / 'lm.arpa', WORDS) if with_words else None
  logits = random_logits(7, frames=1500, scale=2.0)
  search = beam.BeamSearch(SYMBOLS, lm=lm, beam=20)
  whole = search(logits)
  assert whole.shape == (1500,)
  monkeypatch.setattr(beam, 'BLOCK', 200)
  monkeypatch.setattr(beam, 'LOOK_BACK', 100)
  np.testing.assert_array_equal(search(logits), whole)


def test_the_same_decoder_takes_clip_after_clip(tmp_path):
  search = beam.BeamSearch(SYMBOLS, lm=arpa(tmp_path / 'lm.arpa', WORDS))
  logits = random_logits(9, frames=30)
  first = search(logits)
  search(random_logits(10, frames=12))
  np.testing.assert_array_equal(search(logits), first)


def test_files_that_are_no_n_gram(tmp_path, capfd):
  missing, noise, broken = (tmp_path / n for n in ('absent.arpa', 'lm.bin', 'broken.arpa'))
  noise.write_bytes(bytes(range(200)))
  binary = tmp_path / 'kenlm.bin'
  binary.write_bytes(b'mmap lm http://kheafield.com/code format version 5\n')
  whole = arpa(tmp_path / 'lm.arpa', WORDS).read_text()
  broken.write_text(whole[: whole.index('-0.5\tBAT')])
  for path, lexicon, sentence in (
    (missing, None, 'absent.arpa cannot be read: No such file'),
    (noise, None, 'lm.bin is no n-gram: neither ARPA text nor a binary of KenLM'),
    (binary, None, 'words of a KenLM binary cannot be listed: give a lexicon'),
    (broken, None, 'ends in the middle of its list of words'),
    (noise, tmp_path / 'lm.arpa', 'cannot be read as an n-gram'),
    (tmp_path / 'lm.arpa', missing, 'absent.arpa cannot be read: No such file'),
    (None, missing, 'needs an n-gram'),
  ):
    with pytest.raises(InputError, match=sentence) as raised:
      beam.BeamSearch(SYMBOLS, lm=path, lexicon=lexicon)
    assert '\n' not in str(raised.value)
  broken.write_text(whole.replace('\\2-grams:', '\\3-grams:'))
  with pytest.raises(InputError, match='cannot be read as an n-gram'):
    beam.BeamSearch(SYMBOLS, lm=broken)
  for wrong in (dict(beam=0), dict(threshold=0.0)):
    with pytest.raises(InputError, match='above 0'):
      beam.BeamSearch(SYMBOLS, **wrong)
  assert 'Reading' not in capfd.readouterr().err


def test_packed_arpa_files(tmp_path):
  packed = tmp_path / 'lm.arpa.gz'
  packed.write_bytes(gzip.compress(arpa(tmp_path / 'lm.arpa', WORDS).read_bytes()))
  assert beam.read_unigrams(packed) == list(WORDS[1])
  logits = random_logits(11, frames=30)
  found = beam.BeamSearch(SYMBOLS, lm=packed)(logits)
  np.testing.assert_array_equal(found, beam.BeamSearch(SYMBOLS, lm=tmp_path / 'lm.arpa')(logits))
