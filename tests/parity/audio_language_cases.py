"""Audio language models of golden cases: converted by their release, prompts as our batches."""

import numpy as np

from research.inference.generate import Settings, generate
from research.weights import conversion, revert
from tests.contract import jit
from tests.parity.golden import assert_close
from tests.parity.language_model_cases import step_greedily


def converted(release, arrays, config, **args):
  """(model, variables) of arrays and a config.json; the way back is identical."""
  model, variables = conversion.convert_files(release, arrays, {'config.json': config}, args)
  back = revert(release, model, variables)
  assert back.keys() == arrays.keys()
  assert all(np.array_equal(back[key], x) for key, x in arrays.items())
  return model, variables


def batch_of(case, clips, features, lengths):
  """Our batch of a case.

  Args:
    case: with 'input_ids', 'attention_mask' and 'labels'.
    clips: for each row its clips, each a list of places of windows in `features`.
    features: [windows, mel, frames].
    lengths: real frames of the windows.
  """
  frames, bins = features.shape[2], features.shape[1]
  most = max(1, *(len(row) for row in clips))
  windows = max(len(clip) for row in clips for clip in row)
  spectrogram = np.zeros((len(clips), most, windows * frames, bins), np.float32)
  mask = np.zeros(spectrogram.shape[:3], bool)
  for i, row in enumerate(clips):
    for j, clip in enumerate(row):
      for k, window in enumerate(clip):
        part = slice(k * frames, (k + 1) * frames)
        spectrogram[i, j, part] = features[window].T
        mask[i, j, part] = np.arange(frames) < lengths[window]
  real = case.inputs['attention_mask'].astype(bool)
  tokens = np.where(real, case.inputs['input_ids'], -1).astype(np.int32)
  labels = case.inputs['labels']
  assert np.array_equal(labels[labels >= 0], case.inputs['input_ids'][labels >= 0])
  return {
    'spectrogram': spectrogram,
    'frame_mask': mask,
    'tokens': tokens,
    'answer_mask': labels >= 0,
  }


def places(clips):
  """Where windows of a case are among those of `batch_of`, in their order."""
  most = max(1, *(len(row) for row in clips))
  windows = max(len(clip) for row in clips for clip in row)
  return [
    (i * most + j) * windows + k
    for i, row in enumerate(clips)
    for j, clip in enumerate(row)
    for k in range(len(clip))
  ]


def check_windows(case, got, want, counts, what, *, each=1, stride=1):
  """An intermediate [windows, n, d] against one of which every `stride`-th frame and `each`-th
  window is there; frames from `counts` on are left out."""
  got = np.asarray(got)[::each, ::stride]
  real = (np.arange(got.shape[1]) * stride)[None] < np.asarray(counts)[::each, None]
  assert real.any()
  assert_close(got[real], case.outputs[want][real], what=f'{what} ({want})')


def check_greedy(case, model, variables, batch, prompts=None):
  """Greedy tokens with the cache, step logits; and the same by `generate` for real prompts."""
  new, stop = (case.config['generation'][k] for k in ('max_new_tokens', 'eos_token_id'))
  want, logits = case.outputs['greedy_tokens'], case.outputs['greedy_step_logits']
  tokens = batch['tokens']
  (b, u), real = tokens.shape, tokens >= 0

  memories = jit(lambda v: model.apply(v, batch, method='remember'))(variables)
  step = jit(lambda v, i, s, m: model.apply(v, i, s, m, method='step'))
  state = model.start(b, u + new, memories)
  found, state = step(variables, np.maximum(tokens, 0), state, real)

  def one(ids, state):
    out, state = step(variables, ids, state, np.ones(ids.shape, bool))
    return np.asarray(out)[:, 0], state

  got, seen = step_greedily(one, state, np.asarray(found)[:, -1], new)
  ends = [(row.tolist().index(stop) + 1 if stop in row else new) for row in want]
  for i, end in enumerate(ends):
    np.testing.assert_array_equal(got[i, :end], want[i, :end])
    assert_close(seen[i, :end], logits[i, :end], what=f'greedy logits of row {i}')
  rows = [row[row >= 0].tolist() for row in tokens]
  settings = Settings(max_tokens=new, stop=(stop,))
  written = generate(model, variables, rows, settings, memories=memories).best()
  assert written == [row[: end - (stop in row)].tolist() for row, end in zip(want, ends)]
  return memories, rows
