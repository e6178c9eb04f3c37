"""Decoding of Whisper against openai/whisper: every recorded run, token for token."""

import dataclasses

import jax
import numpy as np
import pytest

from research.inference import whisper_decoding
from research.inference.generate import generate
from research.inference.whisper_decoding import Options, WhisperDecoder
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.whisper_cases import build
from tests.parity.whisper_vocabulary import tokenizer, writes


def decodes(case):
  runs = case.info.get('runs') or [{}]
  return 'results' in runs[0]


def decoder_of(case):
  model, variables = build(case)
  return WhisperDecoder(model, variables, tokenizer(case.config['n_vocab']))


class Recorded:
  """`generate` with the noise of a case: one NumPy generator, rows x vocabulary at every step."""

  def __init__(self, seed):
    self.random = np.random.RandomState(seed)

  def __call__(self, model, variables, prompts, settings, *, key, **args):
    if not settings.sample:
      return generate(model, variables, prompts, settings, key=key, **args)
    rows = len(prompts) * settings.candidates
    before = self.random.get_state()
    shape = settings.max_tokens, rows, model.vocab_size
    noise = np.empty(shape, np.float32)
    for i in range(len(noise)):
      noise[i] = -np.log(-np.log(self.random.random_sample(shape[1:])))
    out = generate(model, variables, prompts, settings, noise=noise, **args)
    # Only the steps that were taken have drawn.
    self.random.set_state(before)
    for _ in range(out.steps):
      self.random.random_sample(shape[1:])
    return out


def near(got, want, what):
  assert abs(got - want) <= max(1e-4 * abs(want), 1e-5), f'{what}: {got} and {want}'


def check(result, out, row, want, vocabulary):
  """A result against a recorded one."""
  assert result.language == want['language']
  if 'tokens' not in want:
    return
  if 'candidates' in want:
    filled = out.filled[row]
    found = [out.text(row, int(i)) for i in np.flatnonzero(filled)]
    assert found == [c['tokens'] for c in want['candidates']]
    for got, each in zip(out.sums[row][filled], want['candidates']):
      near(got, each['sum_logprob'], 'sum of a candidate')
    assert out.chosen()[row] == want['selected']
  assert list(result.tokens) == want['tokens']
  for name in ('sum_logprob', 'avg_logprob', 'no_speech_prob'):
    near(getattr(result, name), want[name], name)
  if writes(vocabulary):
    assert result.text == want['text']
    near(result.compression_ratio, want['compression_ratio'], 'compression_ratio')


@each_case('whisper', where=decodes)
@pytest.mark.slow
def test_runs(case: Case, monkeypatch):
  decoder = decoder_of(case)
  mel = case.inputs['mel'].swapaxes(1, 2)
  heard = decoder.listen_to_mel(mel)
  stride = case.config['n_audio_ctx'] // case.outputs['audio_features'].shape[1]
  assert_close(heard.tokens[:, ::stride], case.outputs['audio_features'], what='audio tokens')
  failed = []
  for run in case.info['runs']:
    if run.get('unstable_under_3e-6_weight_noise'):
      continue
    options = Options(**run['options'])
    try:
      for i, want in enumerate(run['results']):
        monkeypatch.setattr(whisper_decoding, 'generate', Recorded(run['noise_seed']))
        found, out = decoder.decode_all(heard.rows([i]), options)
        check(found[0], out, 0, want, decoder.tokenizer)
      if run['noise_seed'] is None:
        # All clips in one batch: what each is alone.
        found, out = decoder.decode_all(heard, options)
        for i, want in enumerate(run['results']):
          check(found[i], out, i, want, decoder.tokenizer)
    except AssertionError as error:
      failed.append(f'{run["name"]}: {str(error)[:300]}')
  assert not failed, '\n'.join(failed)


@each_case('whisper', where=lambda case: 'language_probs' in case.outputs)
@pytest.mark.slow
def test_language(case: Case):
  decoder = decoder_of(case)
  heard = decoder.listen_to_mel(case.inputs['mel'].swapaxes(1, 2))
  found = decoder.detect_language(heard)
  # Recorded in the order of a set of Python: the values are compared by size.
  want = np.sort(case.outputs['language_probs'], axis=1)
  got = np.sort(np.asarray([list(each.values()) for each in found]), axis=1)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  best = [max(each, key=each.get) for each in found]
  ids = [decoder.tokenizer.to_language_token(code) for code in best]
  np.testing.assert_array_equal(ids, case.outputs['language_tokens'])


@each_case('whisper', where=decodes)
@pytest.mark.slow
def test_first_logits(case: Case):
  decoder, want = decoder_of(case), case.outputs
  model, variables = decoder.model, decoder.variables
  heard = decoder.listen_to_mel(case.inputs['mel'].swapaxes(1, 2))
  sequence = decoder.with_language('en').sot_sequence
  b, length = len(heard.tokens), want['sot_logits_special'].shape[1]
  tokens = np.tile(np.asarray(sequence, np.int32), (b, 1))[:, :length]
  state = model.start(b, length, heard.memories)
  logits, _ = model.apply(variables, tokens, state, method='step')
  special = case.config['special_tokens']
  part = logits[:, :, special['eot'] : special['timestamp_begin'] + 1]
  assert_close(part, want['sot_logits_special'], what='logits of special tokens')
  assert_close(jax.nn.logsumexp(logits, axis=-1), want['sot_logsumexp'], what='logsumexp')


def test_options_that_contradict_each_other():
  from research.errors import InputError

  for args, match in (
    (dict(beam_size=5, best_of=5), 'best_of=5'),
    (dict(best_of=5), 'temperature=0'),
    (dict(temperature=0.5, beam_size=5), 'beam_size=5'),
    (dict(patience=2.0), 'patience=2.0'),
    (dict(length_penalty=2.0), 'length_penalty=2.0'),
    (dict(task='summarise'), 'summarise'),
  ):
    with pytest.raises(InputError, match=match):
      Options(**args).check()
  assert dataclasses.replace(Options(), prompt=[1, 2]).prompt == (1, 2)
