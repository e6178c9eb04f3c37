"""wav2vec 2.0, HuBERT and WavLM against transformers: recorded twins of the golden cases, and its
own models of any kind, through the folders that it saves."""

import json
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from research.objectives.contrastive import wav2vec2_contrastive
from research.weights import conversion, convert, load, revert, tables
from tests.models.toy import encoder_of, kind_of, make
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.speech_cases import SYSTEMS, batch_of
from tests.weights.toy import check_identical

SMALL = dict(
  hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
  conv_dim=(24,) * 7, num_conv_pos_embedding_groups=4, codevector_dim=32, proj_codevector_dim=16,
  num_codevectors_per_group=20,
)  # fmt: skip
LAYERED = dict(do_stable_layer_norm=True, conv_bias=True, feat_extract_norm='layer')
BASE = dict(codevector_dim=256, proj_codevector_dim=256)
LARGE = dict(
  hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
  codevector_dim=768, proj_codevector_dim=768, **LAYERED,
)  # fmt: skip
FAMILIES = {'Wav2Vec2': 'wav2vec2', 'Hubert': 'hubert', 'WavLM': 'wavlm'}
KINDS = (
  'Wav2Vec2Model', 'Wav2Vec2ForPreTraining', 'Wav2Vec2ForCTC', 'HubertModel', 'HubertForCTC',
  'WavLMModel', 'WavLMForCTC',
)  # fmt: skip


def family_of(kind):
  """(how transformers' classes of a kind begin, our name of the family)."""
  return next((start, name) for start, name in FAMILIES.items() if kind.startswith(start))


# -- Recorded ----------------------------------------------------------------------------------


@each_case(*SYSTEMS, where=lambda case: case.twin is not None)
def test_twins(case: Case):
  twin = case.twin
  assert twin is not None
  files = {'config.json': twin.info['config.json']}
  release = f'{case.system}_hf'
  # Its padding goes by the length of the convolutions' output, whatever the official code does.
  padding = 'published' if case.system == 'wav2vec2' else 'transformers'
  args = dict(padding=padding, frontend={'normalise': False})
  model, variables = conversion.convert_files(release, twin.weights, files, args)
  assert kind_of(model) == f'{case.system}+'
  check_identical(revert(release, model, variables), twin.weights)

  # The same weights as under fairseq's names, without the heads.
  encoder = encoder_of(model)
  heads = dict(heads=encoder.heads, pre_norm=encoder.pre_norm)
  if encoder.buckets:
    heads['max_distance'] = encoder.max_distance
  _, fairseq = convert(case.system, case.weights, **heads)
  ours = tables.flatten(variables['params'])
  theirs = tables.flatten(fairseq['params'])
  own = ('project_', 'quantizer/', 'unit_vectors')
  assert set(theirs) - set(ours) <= {k for k in theirs if k.startswith(own)}
  assert all(np.array_equal(x, theirs[k]) for k, x in ours.items())

  # Older files have other names for weight norm.
  old = {
    k.replace('parametrizations.weight.original0', 'weight_g').replace(
      'parametrizations.weight.original1', 'weight_v'
    ): x
    for k, x in twin.weights.items()
  }
  assert set(old) != set(twin.weights)
  _, same = convert(release, old, **heads)
  assert all(np.array_equal(x, ours[k]) for k, x in tables.flatten(same['params']).items())

  batch, want = batch_of(case), twin.outputs

  def run(variables, audio, mask):
    _, real, normed = encoder.apply(variables, audio, mask, method='_frames')
    out = encoder.apply(variables, normed, real, None, False, method='_encode')
    return {'normed': normed, 'real': real, **out}

  got = jax.jit(run)(variables, batch['audio'], batch['audio_mask'])
  real = np.asarray(got['real'])
  if 'feature_lengths' in want:
    np.testing.assert_array_equal(real.sum(axis=1), want['feature_lengths'])
  pairs = {f'hidden_state_{i}': x for i, x in enumerate(got['layers'])}
  pairs['last_hidden_state'] = got['tokens']
  if 'extract_features' in want:
    pairs['extract_features'] = got['normed']
  assert {k for k in want if k.startswith('hidden_state_')} <= set(pairs)
  for key, x in pairs.items():
    assert_close(np.asarray(x)[real], want[key][real], what=key)


# -- Live --------------------------------------------------------------------------------------


def peer(folder, kind, do_normalise=None, vocabulary=None, **args):
  """A model of transformers with random weights, saved with what belongs to it."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  config = getattr(transformers, f'{family_of(kind)[0]}Config')(**args)
  model = getattr(transformers, kind)(config).eval()
  with torch.no_grad():
    for name, x in model.named_parameters():
      # Biases and norms start at 0 and 1, which would hide one that is forgotten.
      if x.ndim == 1:
        x += 0.1 * torch.randn(x.shape)
      elif name.endswith('original0'):
        x *= 1 + 0.1 * torch.rand(x.shape)
  model.save_pretrained(folder)
  if do_normalise is not None:
    transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalise).save_pretrained(folder)
  if vocabulary is not None:
    (folder / 'vocab.json').write_text(json.dumps({s: i for i, s in enumerate(vocabulary)}))
  return model


def compare(folder, model, samples=9000):
  """max|diff| / max|reference| of everything that the model gives, through the folder."""
  import torch

  arrays = {k: v.numpy() for k, v in model.state_dict().items()}
  _, family = family_of(type(model).__name__)
  ours = load(folder, release=f'{family}_hf')
  check_identical(revert(f'{family}_hf', ours.model, ours.variables), arrays)
  rng = np.random.default_rng(0)
  audio = rng.normal(size=(2, samples)).astype(np.float32)
  mask = np.ones(audio.shape, bool)
  heard = torch.from_numpy(np.array(ours.model.frontend(audio, mask)))
  encoder = getattr(model, family, model)
  pairs = {}
  with torch.no_grad():
    want = encoder(heard, output_hidden_states=True)
  # And it opens the folder that we write.
  back, files, left = conversion.revert_files(f'{family}_hf', ours.model, ours.variables)
  assert not left
  there = folder / 'back'
  there.mkdir()
  save_file(back, there / 'model.safetensors', metadata={'format': 'pt'})
  for name, content in files.items():
    (there / name).write_text(json.dumps(content))
  again = type(model).from_pretrained(there).eval()
  with torch.no_grad():
    assert torch.equal(getattr(again, family, again)(heard)[0], want.last_hidden_state)
  batch = {'audio': audio, 'audio_mask': mask}
  out = jax.jit(lambda v, a, m: ours.model.apply(v, a, m, method='embed'))
  tokens, _ = out(ours.variables, audio, mask)
  pairs |= {f'state {i}': x for i, x in enumerate(zip(tokens[:-1], want.hidden_states[:-1]))}
  pairs['last'] = tokens[-1], want.last_hidden_state
  if hasattr(model, 'lm_head'):
    with torch.no_grad():
      pairs['logits'] = (
        jax.jit(ours.model.apply)(ours.variables, batch)['logits'],
        model(heard).logits,
      )
  if hasattr(model, 'project_hid'):
    pairs |= pretraining(ours, model, batch, heard, rng)
  worst = {}
  for key, (x, y) in pairs.items():
    x, y = np.asarray(x), y.numpy()
    assert_close(x, y, what=key)
    worst[key] = float(np.abs(x - y).max() / np.abs(y).max())
  return ours, worst


def pretraining(ours, model, batch, heard, rng):
  """Context, targets and contrastive loss of the same masked frames and distractors."""
  import torch

  b, n = len(heard), ours.model.frontend.frames(heard.shape[1])
  mask = np.zeros((b, n), bool)
  places = np.stack([np.sort(rng.choice(n, 9, replace=False)) for _ in range(b)])
  np.put_along_axis(mask, places, True, axis=1)
  draws = rng.integers(0, 8, (b, 9, ours.model.negatives)).astype(np.int32)
  # Ours has places for the most frames that can be masked, at most all.
  padded = np.pad(draws, ((0, 0), (0, n - 9), (0, 0)))
  batch = {**batch, 'span_mask': mask, 'negative_draws': padded}

  # Theirs are rows of all frames of all clips, a place for every frame.
  others = draws + (draws >= np.arange(9)[None, :, None])
  rows = np.take_along_axis(places[:, None, :].repeat(9, 1), others, axis=2)
  theirs = np.zeros((b, n, ours.model.negatives), np.int64)
  np.put_along_axis(theirs, places[:, :, None], rows + n * np.arange(b)[:, None, None], axis=1)
  with torch.no_grad():
    want = model(
      heard,
      mask_time_indices=torch.from_numpy(mask),
      sampled_negative_indices=torch.from_numpy(theirs),
    )
  out = jax.jit(ours.model.apply)(ours.variables, batch)
  np.testing.assert_array_equal(out['used'].sum(axis=1), 9)
  _, metrics = wav2vec2_contrastive(out, batch, logit_temp=0.1, diversity=0.1, penalty=0.0)
  np.testing.assert_allclose(metrics['contrastive'] * 18, want.contrastive_loss, rtol=1e-5)
  at = torch.from_numpy(places)[:, :, None]
  return {
    'context': (out['context'][:, :9], torch.take_along_dim(want.projected_states, at, 1)),
    'targets': (
      out['targets'][:, :9],
      torch.take_along_dim(want.projected_quantized_states, at, 1),
    ),
  }


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('layered', [False, True])
def test_folders(tmp_path, kind, layered):
  symbols = ('a', '|', '[UNK]', '[PAD]', 'b')
  ctc = dict(vocab_size=5, pad_token_id=3) if kind.endswith('ForCTC') else {}
  model = peer(
    tmp_path,
    kind,
    do_normalise=not layered,  # Not as it is published: the file counts.
    vocabulary=symbols if ctc else None,
    **{**SMALL, **ctc, **(LAYERED if layered else {})},
  )
  ours, _ = compare(tmp_path, model)
  ending = '+ctc' if ctc else '' if kind.endswith('PreTraining') else '+'
  assert kind_of(ours.model) == f'{family_of(kind)[1]}{ending}'
  encoder = encoder_of(ours.model)
  assert (encoder.norm, encoder.pre_norm) == (('layer', True) if layered else ('group', False))
  assert ours.frontend.normalise == (not layered)
  if ctc:
    assert (ours.model.vocabulary, ours.model.blank) == (symbols, 3)


TRAINING = dict(
  hidden_dropout=0.11, attention_dropout=0.12, activation_dropout=0.13, feat_proj_dropout=0.14,
  layerdrop=0.15, mask_time_prob=0.45, mask_time_length=7, mask_time_min_masks=3,
  mask_feature_prob=0.2, mask_feature_length=5, mask_feature_min_masks=0, apply_spec_augment=True,
)  # fmt: skip
OURS = dict(
  dropout=0.11, attention_dropout=0.12, activation_dropout=0.13, input_dropout=0.14,
  layerdrop=0.15, mask_prob=0.45, mask_length=7, min_masks=3, mask_channel_prob=0.2,
  mask_channel_length=5,
)  # fmt: skip


@pytest.mark.parametrize('name', ['wav2vec2', 'wav2vec2+ctc', 'hubert+ctc', 'wavlm+ctc'])
def test_training_there_goes_on_as_here(name):
  """No rate, mask or count that a model has is left to the defaults of transformers."""
  transformers = pytest.importorskip('transformers')
  start, family = next(pair for pair in FAMILIES.items() if name.startswith(pair[1]))
  kind = getattr(transformers, f'{start}Config')
  ctc = name.endswith('+ctc')
  own = dict(head_dropout=0.21) if ctc else dict(negatives=9)
  model = make(name, size='tiny', **OURS, **own)
  want = {**TRAINING, 'ctc_zero_infinity': True}
  want |= dict(final_dropout=0.21) if ctc else dict(num_negatives=9, feat_quantizer_dropout=0.14)
  content = conversion.get(f'{family}_hf').compose(model)['config.json']
  known = set(kind().to_dict())
  if 'mask_feature_min_masks' not in known:
    del want['mask_feature_min_masks']
  config = kind.from_dict(json.loads(json.dumps(content)))
  assert {k: getattr(config, k) for k in want} == want
  # What it has beside is not of training, or is the same here.
  left = {k for k in known if any(w in k for w in ('drop', 'mask', '_prob', 'negatives', 'zero'))}
  assert left <= set(content) | {'feat_quantizer_dropout', 'num_negatives'}


def test_normalised_as_its_feature_extractor_does():
  transformers = pytest.importorskip('transformers')
  pytest.importorskip('torch')
  model, _ = convert('wav2vec2_hf', _random(LAYERED), heads=4)
  rng = np.random.default_rng(0)
  clips = [
    scale * rng.normal(size=n).astype(np.float32) for scale, n in ((1e-3, 9000), (0.3, 7000))
  ]
  audio, mask = np.zeros((2, 9000), np.float32), np.zeros((2, 9000), bool)
  for i, clip in enumerate(clips):
    audio[i, : len(clip)], mask[i, : len(clip)] = clip, True
  extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
  want = extractor(clips, sampling_rate=16_000, padding=True, return_tensors='np')
  np.testing.assert_array_equal(want['attention_mask'] > 0, mask)
  assert_close(model.frontend(audio, mask), want['input_values'], relative=1e-5)


def _random(args):
  transformers = pytest.importorskip('transformers')
  config = transformers.Wav2Vec2Config(**SMALL, **args)
  return {k: v.numpy() for k, v in transformers.Wav2Vec2Model(config).state_dict().items()}


def test_without_masks_there_is_no_mask_token(tmp_path):
  model = peer(tmp_path, 'Wav2Vec2ForCTC', **SMALL, mask_time_prob=0.0)
  assert 'wav2vec2.masked_spec_embed' not in model.state_dict()
  ours, _ = compare(tmp_path, model)
  encoder = encoder_of(ours.model)
  assert (encoder.mask_prob, encoder.mask_embedding) == (0.0, False)
  assert 'mask_token' not in ours.variables['params']


PUBLISHED = {
  'Wav2Vec2ForPreTraining': (BASE, LARGE),
  'Wav2Vec2ForCTC': (BASE, LARGE),
  'HubertForCTC': (BASE, {**LARGE, 'conv_bias': False}),
  'WavLMForCTC': (BASE, {**LARGE, 'conv_bias': False}),
}
# fairseq's own count of these models, quantiser and heads included; of HuBERT's and WavLM's
# encoders (unilm).
COUNTS = {
  'Wav2Vec2ForPreTraining': (95_044_608, 317_390_592),
  'HubertForCTC': (94_371_712, 315_435_136),
  'WavLMForCTC': (94_381_936, 315_453_120),
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', PUBLISHED)
@pytest.mark.parametrize('large', [False, True], ids=['base', 'large'])
def test_published_sizes(tmp_path, large, kind, record_property):
  model = peer(tmp_path, kind, do_normalise=large, **PUBLISHED[kind][large])
  start = time.perf_counter()
  ours, worst = compare(tmp_path, model, samples=24_000)
  big = 'large_lv60' if kind.startswith('Wav2Vec2') else 'large'
  assert encoder_of(ours.model).size == (big if large else 'base')
  if kind in COUNTS:
    arrays = tables.flatten(ours.variables['params'])
    count = sum(x.size for k, x in arrays.items() if not k.startswith('head/'))
    assert count == COUNTS[kind][large]
  key = max(worst, key=lambda k: worst[k])
  record_property('worst', f'{worst[key]:.2g} ({key})')
  print(f'\n{kind}: worst {worst[key]:.2g} ({key}), {time.perf_counter() - start:.0f} s')
