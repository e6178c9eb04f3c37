"""Qwen2-Audio, Audio Flamingo 3 and Music Flamingo against recorded outputs of transformers."""

import jax
import numpy as np

from research.inference.generate import Settings, generate
from research.models.audio_prompts import Heard
from research.nn.kernels import gelu
from research.objectives.autoregressive import answer_tokens
from research.weights import revert
from tests.contract import jit
from tests.parity.audio_language_cases import (
  batch_of,
  check_greedy,
  check_windows,
  converted,
  places,
)
from tests.parity.golden import assert_close, each_case

RELEASES = {'af3': 'audio_flamingo3', 'music': 'music_flamingo'}
TYPES = {'af3': 'audioflamingo3', 'music': 'musicflamingo'}


def forward(model, variables, batch):
  """(all outputs, loss, gradients) of one program."""

  def loss(params):
    out = model.apply({**variables, 'params': params}, batch, collect=True)
    return answer_tokens(out, batch)[0], out

  (value, out), gradients = jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])
  return out, value, gradients


def check_gradients(case, release, model, variables, gradients):
  found = revert(release, model, {**variables, 'params': gradients})
  for name in case.config['grads']:
    assert_close(found[name], case.outputs[f'grad/{name}'], what=name)


def check_text(case, out, batch, first_layer=True):
  real = batch['tokens'] >= 0
  assert_close(
    np.asarray(out['embedded'])[real], case.outputs['merged_embeds'][real], what='merged'
  )
  if first_layer:
    layer = np.asarray(out['layers'])[0][real]
    assert_close(layer, case.outputs['lm_layer0'][real], what='first layer')
  assert_close(np.asarray(out['logits'])[real], case.outputs['logits'][real], what='logits')


@each_case('qwen2_audio', where=lambda case: 'mel_lengths' in case.config)
def test_qwen2_audio(case):
  config = {**case.config, 'model_type': 'qwen2_audio'}
  model, variables = converted('qwen2_audio', case.weights, config)
  lengths = np.asarray(case.inputs['feature_attention_mask']).sum(axis=1)
  ids, token = case.inputs['input_ids'], config['audio_token_index']
  clips = split_clips(ids == token, case.outputs['audio_token_counts'])
  batch = batch_of(case, clips, case.inputs['input_features'], lengths)
  out, loss, gradients = forward(model, variables, batch)
  order, conv = places(clips), case.outputs['audio_conv_lengths']
  counts = np.asarray(out['audio_counts']).reshape(-1)[order]
  np.testing.assert_array_equal(counts, case.outputs['audio_token_counts'])
  check_tower(case, out, order, conv, counts, case.config['store'])
  check_text(case, out, batch)
  assert_close(loss, case.outputs['loss'][0], what='loss')
  check_gradients(case, 'qwen2_audio', model, variables, gradients)
  if 'greedy_tokens' in case.outputs:
    memories, rows = check_greedy(case, model, variables, batch)
    check_beams(case, model, variables, memories, rows)


def check_tower(case, out, order, conv, counts, store, each=1):
  take = lambda x: np.asarray(x)[order]  # noqa: E731
  frames, windows = store.get('time_stride', 2), slice(None, None, each)
  first = take(out['conv1'])[windows, :: store.get('conv1_stride', 3)]
  assert_close(first.swapaxes(1, 2), gelu_of(case.outputs['tower.conv1']), what='conv1')
  assert_close(
    take(out['stem'])[windows, ::frames], case.outputs['tower.stem_plus_positions'], what='stem'
  )
  layers = np.asarray(out['audio_layers'])[:, order]
  named = {f'layer{i}': i for i in range(len(layers))} | {'last_layer': -1}
  for name, i in named.items():
    if f'tower.{name}' in case.outputs:
      check_windows(case, layers[i], f'tower.{name}', conv, name, each=each, stride=frames)
  for name, ours in (
    ('tower.pooled_normed', 'audio_states'),
    ('rotated', 'placed'),
    ('projected', 'projected'),
  ):
    if name in case.outputs:
      check_windows(case, take(out[ours]), name, counts, name, each=each)


def gelu_of(x):
  return np.asarray(gelu(jax.numpy.asarray(x)))


def split_clips(is_place, counts):
  """Clips of every row, of one window each: their placeholders follow one another in the batch."""
  left, rows, number = list(counts), [], 0
  for row in is_place:
    found, own = int(row.sum()), []
    while found > 0 or (number < len(left) and left[number] == 0):
      found -= left[number]
      own.append([number])
      number += 1
    rows.append(own)
  assert number == len(left)
  return rows


def as_recorded(heard, k):
  """What the beams of transformers hear: it repeats clips k times one by one, so that of a prompt
  with several clips the first one fills the places of the others too."""
  vectors, counts = np.array(heard.vectors), np.asarray(heard.counts)
  slots = vectors.shape[1] // counts.shape[1]
  for row, own in zip(vectors, counts, strict=True):
    clips = [row[j * slots : j * slots + n].copy() for j, n in enumerate(own)]
    stream = np.concatenate([clip for clip in clips for _ in range(k)])
    for j, n in enumerate(own):
      row[j * slots : j * slots + n], stream = stream[:n], stream[n:]
  return Heard(vectors, counts)


def check_beams(case, model, variables, memories, rows):
  generation = case.config['generation']
  k, stop = generation['num_beams'], generation['eos_token_id']
  assert not generation['early_stopping']
  settings = Settings(
    max_tokens=generation['max_new_tokens'],
    stop=(stop,),
    beams=k,
    style='transformers',
    length_penalty=generation['length_penalty'],
  )
  heard = as_recorded(memories, k)
  found = generate(model, variables, rows, settings, memories=heard)
  want = case.outputs['beam_tokens'].reshape(len(rows), k, -1)
  scores = case.outputs['beam_scores'].reshape(len(rows), k)
  for i in range(len(rows)):
    order = np.argsort(-found.scores()[i])
    for j, place in enumerate(order[:k]):
      tokens = want[i, j].tolist()
      end = tokens.index(stop) if stop in tokens else len(tokens)
      assert found.text(i, int(place)) == tokens[:end], (i, j)
    assert_close(found.scores()[i][order[:k]], scores[i], what=f'scores of row {i}')


@each_case('audio_flamingo3', where=lambda case: case.config.get('kind') in RELEASES)
def test_audio_flamingo3(case):
  kind = case.config['kind']
  config = {**case.config, 'model_type': TYPES[kind]}
  model, variables = converted(RELEASES[kind], case.weights, config)
  lengths = np.asarray(case.inputs['input_features_mask']).sum(axis=1)
  number, clips = iter(range(len(lengths))), []
  for windows in case.config['windows']:
    clips.append([[next(number) for _ in windows]])
  batch = batch_of(case, clips, case.inputs['input_features'], lengths)
  out, loss, gradients = forward(model, variables, batch)
  order, store = places(clips), case.config['store']
  counts = np.asarray(out['audio_counts']).reshape(-1)[order]
  np.testing.assert_array_equal(counts, case.outputs['window_token_counts'])
  check_tower(case, out, order, (lengths + 1) // 2, counts, {}, store['window_stride'])
  if 'rotary.cos' in case.outputs:
    longest = max(len(windows) for windows in case.config['windows'])
    table = [np.tile(x, (len(clips), 1, 1)) for x in model.time_table(longest)]
    for name, got in zip(('cos', 'sin'), table, strict=True):
      got = got[order][:: store['window_stride']]
      assert_close(got, case.outputs[f'rotary.{name}'], what=name)
  check_text(case, out, batch, first_layer=False)
  assert_close(loss, case.outputs['loss'][0], what='loss')
  check_gradients(case, RELEASES[kind], model, variables, gradients)
  check_greedy(case, model, variables, batch)


@each_case('qwen_audio', where=lambda case: 'input_audios' in case.inputs)
def test_qwen_audio(case):
  config = {**case.config['model'], 'model_type': 'qwen'}
  special = case.config['special_tokens']
  model, variables = converted(
    'qwen_audio', case.weights, config, audio_token=special['audio_pad'], mel_padding='batch'
  )
  lengths, ids = np.asarray(case.config['mel_lengths']), case.inputs['input_ids']
  conv, tokens = case.inputs['audio_lengths'].T
  clips = split_clips(np.isin(ids, model.places), tokens + 2)
  batch = batch_of(case, clips, case.inputs['input_audios'], lengths)
  out, loss, gradients = forward(model, variables, batch)
  order = places(clips)
  take = lambda x: np.asarray(x)[order]  # noqa: E731
  counts = np.asarray(out['audio_counts']).reshape(-1)[order]
  np.testing.assert_array_equal(counts, tokens + 2)
  first = take(out['conv1'])[:, ::3].swapaxes(1, 2)
  check_windows(case, take(out['stem']), 'audio.stem_plus_positions', conv, 'stem')
  assert_close(first, gelu_of(case.outputs['audio.conv1']), what='conv1')
  layers = np.asarray(out['audio_layers'])[:, order]
  for name, got in (('block0', layers[0]), ('last_block', layers[-1])):
    check_windows(case, got, f'audio.{name}', conv, name)
  for name, ours in (('ln_post', 'audio_states'), ('proj', 'projected')):
    check_windows(case, take(out[ours]), f'audio.{name}', tokens, name)
  real = batch['tokens'] >= 0
  for name, got in (
    ('merged_embeds', out['embedded']),
    ('lm_block0', out['layers'][0]),
    ('ln_f', out['states']),
    ('logits', out['logits']),
  ):
    assert_close(np.asarray(got)[real], case.outputs[name][real], what=name)
  assert_close(loss, case.outputs['loss'][0], what='loss')
  check_gradients(case, 'qwen_audio', model, variables, gradients)
  check_greedy(case, model, variables, batch)
