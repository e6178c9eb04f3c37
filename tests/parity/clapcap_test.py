"""clapcap against GPT-2 of transformers behind a mapper that is written here in torch, as ClipCap's
paper and Microsoft's configuration describe it; its audio side on the golden cases of CLAP."""

import pathlib

import jax
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.inference.generate import Settings, generate
from research.weights import convert, detect, revert, tables
from tests.parity import clap_test
from tests.parity.golden import Case, assert_close, each_case

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.peer

SMALL = dict(dim=20, width=24, clip=3, prefix=5, depth=2, heads=3, mapper=2, mapper_heads=4)
PUBLISHED = dict(
  dim=1024, width=768, clip=40, prefix=40, depth=12, heads=12, mapper=8, mapper_heads=8
)
SWIN = dict(embed_dim=8, depths=[1, 1], num_heads=[2, 2])


class Block(torch.nn.Module):
  """A layer of the mapper: queries apart from fused keys and values, no biases there."""

  def __init__(self, width, heads):
    super().__init__()
    self.heads = heads
    self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
    self.attn = torch.nn.Module()
    self.attn.to_queries = torch.nn.Linear(width, width, bias=False)
    self.attn.to_keys_values = torch.nn.Linear(width, 2 * width, bias=False)
    self.attn.project = torch.nn.Linear(width, width)
    self.mlp = torch.nn.Module()
    self.mlp.fc1 = torch.nn.Linear(width, 2 * width)
    self.mlp.fc2 = torch.nn.Linear(2 * width, width)

  def forward(self, x):
    y = self.norm1(x)
    split = lambda z: z.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
    keys, values = self.attn.to_keys_values(y).chunk(2, dim=-1)
    heard = torch.nn.functional.scaled_dot_product_attention(
      split(self.attn.to_queries(y)), split(keys), split(values)
    )
    x = x + self.attn.project(heard.transpose(1, 2).flatten(2))
    return x + self.mlp.fc2(torch.relu(self.mlp.fc1(self.norm2(x))))


class Reference(torch.nn.Module):
  """The captioner behind the audio embedding, with upstream's names."""

  def __init__(self, dim, width, clip, prefix, depth, heads, mapper, mapper_heads, **gpt):
    super().__init__()
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=width, n_layer=depth, n_head=heads, **gpt)
    self.gpt = transformers.GPT2LMHeadModel(config)
    self.clip = clip
    self.clap_project = torch.nn.Module()
    self.clap_project.linear = torch.nn.Linear(dim, clip * width)
    self.clap_project.prefix_const = torch.nn.Parameter(torch.randn(prefix, width))
    self.clap_project.transformer = torch.nn.Module()
    self.clap_project.transformer.layers = torch.nn.ModuleList(
      Block(width, mapper_heads) for _ in range(mapper)
    )
    # Decisions are far apart, and every bias and scale shows.
    for x in self.parameters():
      x.data.add_(0.05 * torch.randn_like(x))
    self.eval()

  def prefix(self, projected):
    unit = projected / projected.norm(dim=-1, keepdim=True)
    given = self.clap_project.linear(unit).unflatten(-1, (self.clip, -1))
    learned = self.clap_project.prefix_const.expand(len(given), -1, -1)
    x = torch.cat([given, learned], dim=1)
    for layer in self.clap_project.transformer.layers:
      x = layer(x)
    return x[:, self.clip :]

  def logits(self, prefix, ids):
    """Of every token behind the prefix and those before."""
    words = self.gpt.transformer.wte(ids)
    out = self.gpt(inputs_embeds=torch.cat([prefix, words], dim=1)).logits
    return out[:, prefix.shape[1] - 1 :]

  def search(self, prefix, k, count, stop):
    """Captions of one prefix, best first: [(tokens, mean)], all read anew at every step."""
    live = [([], 0.0)]
    for _ in range(count):
      found = []
      for tokens, score in live:
        if tokens[-1:] == [stop]:
          found.append((tokens, score))
          continue
        ids = torch.tensor([tokens], dtype=torch.long)
        best = self.logits(prefix, ids)[0, -1].log_softmax(-1).topk(k)
        found += [([*tokens, int(t)], score + float(x)) for x, t in zip(best.values, best.indices)]
      live = sorted(found, key=lambda each: each[1] / len(each[0]), reverse=True)[:k]
      if all(tokens[-1] == stop for tokens, _ in live):
        break
    return [(tokens, score / len(tokens)) for tokens, score in live]


def swin_arrays(dim, embed_dim, depths, num_heads, seed=0):
  """Random arrays of the audio side, by upstream's names."""
  clap = models.get('clap')(
    size='microsoft_2023', audio_width=embed_dim, depths=depths, audio_heads=num_heads, dim=dim,
    text_width=8, text_depth=1, text_heads=1, text_hidden=8, vocabulary=5, positions=4,
  )  # fmt: skip
  rng, flat = np.random.default_rng(seed), {}
  for name, spec in tables.expected(clap).items():
    flat[name] = np.abs(rng.standard_normal(spec.shape)).astype(spec.dtype) * 0.1
  arrays = revert('msclap', clap, tables.nest(flat, clap))
  return audio_side(arrays)


def audio_side(arrays):
  """Names of CLAP's audio side as those of the captioner."""
  return {
    f'clap.{name.removeprefix("audio_encoder.")}': x
    for name, x in arrays.items()
    if name.startswith('audio_encoder.')
  }


def arrays_of(reference, audio):
  own = {k: v.numpy() for k, v in reference.state_dict().items() if not k.endswith('.attn.bias')}
  return own | audio


def made(sizes, audio=None, **gpt):
  reference = Reference(**sizes, **gpt)
  arrays = arrays_of(reference, swin_arrays(sizes['dim'], **SWIN) if audio is None else audio)
  args = dict(text_heads=sizes['heads'], mapper_heads=sizes['mapper_heads'])
  model, variables = convert('clapcap', arrays, **args)
  return reference, arrays, model, variables


@pytest.fixture(scope='module')
def small():
  return made(SMALL, vocab_size=50, n_positions=40)


def projected_of(model, variables, b, frames=40):
  mels = np.random.default_rng(1).uniform(-60, 0, (b, frames, 64)).astype(np.float32)
  batch = {'spectrogram': mels}
  return batch, np.asarray(jax.jit(model.apply)(variables, batch)['audio_projected'])


def check_logits(reference, model, variables, vocabulary, u, b=3):
  batch, projected = projected_of(model, variables, b)
  ids = np.random.default_rng(2).integers(0, vocabulary, (b, u)).astype(np.int32)
  mask = np.arange(u)[None] < np.array([u, u - 2, 1])[:b, None]
  batch |= {'text': np.where(mask, ids, vocabulary + 7), 'text_mask': mask}
  out = jax.jit(model.apply)(variables, batch)
  with torch.no_grad():
    prefix = reference.prefix(torch.tensor(projected))
    want = reference.logits(prefix, torch.tensor(ids[:, :-1], dtype=torch.long)).numpy()
  assert_close(out['prefix'], prefix.numpy(), what='prefix')
  assert_close(np.asarray(out['logits'])[mask], want[mask], what='logits')


def test_logits(small):
  reference, _, model, variables = small
  check_logits(reference, model, variables, 50, 9)


@pytest.mark.slow
def test_logits_at_the_published_size():
  """GPT-2 of 124 M parameters, a mapper of 8 layers and 40 vectors, the tower of 2023."""
  audio = swin_arrays(1024, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[4, 8, 16, 32])
  reference, arrays, model, variables = made(PUBLISHED, audio)
  assert model.mapper_heads == 8 and model.prefix_length == 40 and model.num_layers == 8
  check_logits(reference, model, variables, 50257, 12, b=2)
  back = revert('clapcap', model, variables)
  assert set(back) == set(arrays) - {'gpt.lm_head.weight'}


@pytest.mark.parametrize('k', [5, pytest.param(2, marks=pytest.mark.slow)])
def test_search(small, k):
  """Beam search behind the prefix, step by step, is that over all tokens anew."""
  reference, _, model, variables = small
  batch, projected = projected_of(model, variables, 2)
  prefix = jax.jit(lambda v: model.apply(v, batch, method='embed_clips'))(variables)['prefix']
  memories = jax.jit(
    lambda v: model.apply(v, prefix, method=lambda m, p: m.text_tower.remember(p))
  )(variables)
  with torch.no_grad():
    theirs = reference.prefix(torch.tensor(projected))
    stop = reference.search(theirs[:1], k, 6, -1)[0][0][3]  # a token that comes
    want = [reference.search(theirs[i : i + 1], k, 12, stop) for i in range(2)]
  settings = Settings(12, (stop,), beams=k, style='clipcap')
  # Which token the prompt has does not matter.
  out = generate(model, variables, [[stop], [3]], settings, memories=memories)
  for i, captions in enumerate(want):
    best = [t for t in captions[0][0] if t != stop]
    assert out.best()[i] == best
    np.testing.assert_allclose(
      np.sort(out.scores()[i])[::-1], [mean for _, mean in captions], rtol=1e-4
    )


def test_round_trip_is_bitwise(small):
  _, arrays, model, variables = small
  assert detect.release(pathlib.Path('clapcap.pth'), arrays, {}) == 'clapcap'
  back = revert('clapcap', model, variables)
  assert set(back) == set(arrays) - {'gpt.lm_head.weight'}
  for name, x in back.items():
    assert x.tobytes() == arrays[name].tobytes(), name
  args = dict(text_heads=3, mapper_heads=4)
  # What the published file holds besides.
  extra = {
    'clap.base.htsat.spectrogram_extractor.stft.conv_real.weight': np.zeros((3, 1, 4)),
    'clap.base.htsat.logmel_extractor.melW': np.zeros((3, 2)),
    'gpt.transformer.h.0.attn.bias': np.zeros((1, 1, 4, 4)),
    'clap.base.htsat.head.weight': np.zeros((2, 2)),
  }
  parallel = {f'module.{name}': x for name, x in (arrays | extra).items()}
  assert convert('clapcap', parallel, **args)[0] == model
  other = arrays | {'gpt.lm_head.weight': arrays['gpt.lm_head.weight'] + 1}
  with pytest.raises(InputError, match='weights of its own'):
    convert('clapcap', other, **args)
  with pytest.raises(InputError, match='mapper_heads=5'):
    convert('clapcap', arrays, text_heads=3, mapper_heads=5)


@each_case(
  'clap', where=lambda case: clap_test.microsoft(case) and 'depths' in case.config['audio']
)
def test_audio_side(case: Case):
  """The recorded projections of Microsoft's CLAP of 2023 are those behind the prefix."""
  sizes = SMALL | dict(dim=case.config['d_proj'])
  _, _, model, variables = made(sizes, audio_side(case.weights), vocab_size=50, n_positions=40)
  batch = {k: v for k, v in clap_test.batch_of(case).items() if k.startswith('audio')}
  mels, _ = model.frontend.raw(batch['audio'], batch['audio_mask'])
  got = jax.jit(model.apply)(variables, {'spectrogram': mels})
  assert_close(got['audio_projected'], case.outputs['audio_projected'], what='audio_projected')
