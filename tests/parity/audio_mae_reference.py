"""AudioMAE's pre-training forward once more, in plain torch, from the description of the original.

It makes cases in the format of the golden files for sizes and modes that the recorded ones lack.
Written apart from the model under test: loops over windows, no shared code, original key names and
layouts.
"""

import numpy as np
import torch
import torch.nn.functional as F


def positions(rows: int, columns: int, d: int) -> torch.Tensor:
  """[1, 1 + rows * columns, d]: sines and cosines of the column, then of the row."""
  omega = 10000.0 ** (-torch.arange(d // 4, dtype=torch.float64) / (d / 4))
  table = torch.zeros(1 + rows * columns, d, dtype=torch.float64)
  for n in range(rows * columns):
    r, c = n // columns, n % columns
    angles = [c * omega, r * omega]
    table[n + 1] = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)])
  return table[None].float()


def weights(config: dict, grid: tuple[int, int], seed: int = 0) -> dict[str, torch.Tensor]:
  """Random weights, biases and norms, and the position tables of the original constructor."""
  torch.manual_seed(seed)
  d, e, windows = config['embed_dim'], config['decoder_embed_dim'], config['decoder_mode'] == 1
  n, w = grid[0] * grid[1], {}

  def linear(name, out, inputs):
    w[f'{name}.weight'] = torch.randn(out, inputs) / inputs**0.5
    w[f'{name}.bias'] = 0.1 * torch.randn(out)

  def norm(name, size):
    w[f'{name}.weight'] = 1 + 0.1 * torch.randn(size)
    w[f'{name}.bias'] = 0.1 * torch.randn(size)

  def block(name, size):
    norm(f'{name}.norm1', size)
    norm(f'{name}.norm2', size)
    linear(f'{name}.attn.qkv', 3 * size, size)
    linear(f'{name}.attn.proj', size, size)
    linear(f'{name}.mlp.fc1', 4 * size, size)
    linear(f'{name}.mlp.fc2', size, 4 * size)

  w['cls_token'], w['mask_token'] = torch.randn(1, 1, d), torch.randn(1, 1, e)
  table = (grid[1], grid[0]) if not config['use_custom_patch'] else grid
  w['pos_embed'], w['decoder_pos_embed'] = positions(*table, d), positions(*table, e)
  w['patch_embed.proj.weight'] = torch.randn(d, 1, 16, 16) / 16
  w['patch_embed.proj.bias'] = 0.1 * torch.randn(d)
  for i in range(config['depth']):
    block(f'blocks.{i}', d)
  norm('norm', d)
  linear('decoder_embed', e, d)
  for i in range(16 if windows else config['decoder_depth']):
    block(f'decoder_blocks.{i}', e)
    if windows:
      # One temperature below its floor; many sharp ones would only amplify rounding.
      w[f'decoder_blocks.{i}.attn.tau'] = 0.5 + torch.rand(16)
      w[f'decoder_blocks.{i}.attn.tau'][1] = 0.005 if i == 0 else 0.5
      linear(f'decoder_blocks.{i}.attn.meta_mlp.fc1', 384, 2)
      linear(f'decoder_blocks.{i}.attn.meta_mlp.fc2', 16, 384)
  norm('decoder_norm', e)
  linear('decoder_pred', 256, e)
  assert w['pos_embed'].shape[1] == n + 1
  return w


class Reference:
  """The forward pass over a dict of weights, keeping what a recorded case keeps."""

  def __init__(self, config: dict, w: dict[str, torch.Tensor], grid: tuple[int, int]):
    self.config, self.w, self.grid, self.kept = config, w, grid, {}

  def linear(self, name, x):
    return F.linear(x, self.w[f'{name}.weight'], self.w[f'{name}.bias'])

  def norm(self, name, x):
    weight, bias = self.w[f'{name}.weight'], self.w[f'{name}.bias']
    return F.layer_norm(x, weight.shape, weight, bias, 1e-6)

  def mlp(self, name, x):
    return self.linear(f'{name}.fc2', F.gelu(self.linear(f'{name}.fc1', x)))

  def qkv(self, name, x, heads):
    b, n, _ = x.shape
    return self.linear(f'{name}.qkv', x).reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)

  def block(self, name, x, heads):
    q, k, v = self.qkv(f'{name}.attn', self.norm(f'{name}.norm1', x), heads)
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    x = x + self.linear(f'{name}.attn.proj', (p @ v).transpose(1, 2).flatten(2))
    return x + self.mlp(f'{name}.mlp', self.norm(f'{name}.norm2', x))

  def window_attention(self, name, x, size, behind):
    """x [b, size^2, d] of one window; `behind` [size^2]: each token's side of the seam."""
    q, k, v = self.qkv(name, x, 16)
    norms = q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]
    logits = q @ k.transpose(-1, -2) / norms.clamp(min=1e-6)
    logits = logits / self.w[f'{name}.tau'].clamp(min=0.01)[:, None, None]
    at = torch.stack([torch.arange(size * size) // size, torch.arange(size * size) % size], -1)
    offset = (at[:, None] - at[None]).float()
    offset = offset.sign() * (1 + offset.abs()).log()
    bias = self.linear(f'{name}.meta_mlp.fc2', self.linear(f'{name}.meta_mlp.fc1', offset).relu())
    logits = logits + bias.permute(2, 0, 1)
    logits = torch.where(behind[:, None] != behind[None], logits - 100.0, logits)
    return self.linear(f'{name}.proj', (logits.softmax(-1) @ v).transpose(1, 2).flatten(2))

  def window_block(self, name, x, size, shift):
    b, n, d = x.shape
    columns = self.grid[1]
    rows = n // columns
    y = x.reshape(b, rows, columns, d).roll(-shift, 1)
    label = torch.zeros(rows)
    if shift:
      label[rows - size :], label[rows - shift :] = 1, 2
    out = torch.zeros_like(y)
    for r in range(0, rows, size):
      for c in range(0, columns, size):
        part = y[:, r : r + size, c : c + size].reshape(b, size * size, d)
        behind = label[r : r + size].repeat_interleave(size)
        part = self.window_attention(f'{name}.attn', part, size, behind)
        out[:, r : r + size, c : c + size] = part.reshape(b, size, size, d)
    y = out.roll(shift, 1).reshape(b, n, d)
    x = x + self.norm(f'{name}.norm1', y)
    return x + self.norm(f'{name}.norm2', self.mlp(f'{name}.mlp', x))

  def choose(self, inputs):
    """(kept ids, ids_restore, mask), with the original's 999 and unstable sort in the 2-D mode."""
    rows, columns = self.grid
    if not self.config['mask_2d']:
      keep = int(rows * columns * (1 - self.config['mask_ratio']))
      shuffle = inputs['mask_noise'].argsort(1)
      restore = shuffle.argsort(1)
      return shuffle[:, :keep], restore, (restore >= keep).float()
    keep_t = int(rows * (1 - self.config['mask_t_prob']))
    keep_f = int(columns * (1 - self.config['mask_f_prob']))
    gone_t = inputs['mask_noise_t'].argsort(1).argsort(1) >= keep_t
    gone_f = inputs['mask_noise_f'].argsort(1).argsort(1) >= keep_f
    mask = (gone_t[:, :, None] | gone_f[:, None, :]).float().flatten(1)
    order = (torch.arange(rows * columns).float() + 999 * mask).argsort(1)
    return order[:, : keep_t * keep_f], order.argsort(1), mask

  def run(self, inputs):
    """Prediction, targets and mask; fills `kept`."""
    config, w, kept = self.config, self.w, self.kept
    stride, every = (10 if config['use_custom_patch'] else 16), config['token_stride']
    x = inputs['spectrogram']
    target = x.unfold(2, 16, stride).unfold(3, 16, stride).flatten(4).flatten(2, 3)[:, 0]
    x = F.conv2d(x, w['patch_embed.proj.weight'], w['patch_embed.proj.bias'], stride)
    patches = x.flatten(2).transpose(1, 2)
    kept['patch_tokens'] = patches[:, ::every]
    keep, restore, mask = self.choose(inputs)
    x = patches + w['pos_embed'][:, 1:]
    x = x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2]))
    x = torch.cat([w['cls_token'].expand(len(x), -1, -1), x], 1)
    kept['encoder_in'] = x
    for i in range(config['depth']):
      x = self.block(f'blocks.{i}', x, config['num_heads'])
      if i == 0:
        kept['encoder_block0'] = x
    x = kept['latent'] = self.norm('norm', x)
    x = self.linear('decoder_embed', x)
    missing = w['mask_token'].expand(len(x), restore.shape[1] - keep.shape[1], -1)
    full = torch.cat([x[:, 1:], missing], 1)
    full = full.gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
    x = torch.cat([x[:, :1], full], 1) + w['decoder_pos_embed']
    pred = self.decode(x)
    kept |= {'pred': pred[:, ::every], 'mask': mask, 'ids_restore': restore}
    return pred, target, mask

  def decode(self, x):
    config, every = self.config, self.config['token_stride']
    windows, n = config['decoder_mode'] == 1, x.shape[1] - 1
    if windows:
      x = x[:, 1:]
      if config['use_custom_patch']:  # the last row twice: 101 rows become 102
        x = torch.cat([x, x[:, -self.grid[1] :]], 1)
    self.kept['decoder_in'] = x[:, ::every]
    for i in range(16 if windows else config['decoder_depth']):
      name = f'decoder_blocks.{i}'
      if windows:
        shift = 2 if i % 2 and not config['no_shift'] else 0
        x = self.window_block(name, x, 6 if config['use_custom_patch'] else 4, shift)
      else:
        x = self.block(name, x, config['decoder_num_heads'])
      if i < 2:
        self.kept[f'decoder_block{i}'] = x[:, ::every]
    pred = self.linear('decoder_pred', self.norm('decoder_norm', x))
    return pred[:, :n] if windows else pred[:, 1:]


def losses(pred, target, mask) -> dict[str, torch.Tensor]:
  """Both losses of the original."""
  mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
  targets = {'norm_pix': (target - mean) / (var + 1e-6) ** 0.5, 'raw': target}
  return {
    name: (((pred - t) ** 2).mean(-1) * mask).sum() / mask.sum() for name, t in targets.items()
  }


def make_case(config: dict) -> dict[str, np.ndarray]:
  """Every array of a case: 'weights/…', 'inputs/…', 'outputs/…'."""
  stride = 10 if config['use_custom_patch'] else 16
  grid = tuple((size - 16) // stride + 1 for size in config['img_size'])
  w = weights(config, grid)
  generator = torch.Generator().manual_seed(1)
  uniform = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
  inputs = {'spectrogram': uniform(1, 1, *config['img_size']) * 2 - 1}
  if config['mask_2d']:
    inputs |= {'mask_noise_t': uniform(1, grid[0]), 'mask_noise_f': uniform(1, grid[1])}
  else:
    inputs['mask_noise'] = uniform(1, grid[0] * grid[1])
  names = config['grads']
  for name in names:
    w[name].requires_grad_()
  reference = Reference(config, w, grid)
  pred, target, mask = reference.run(inputs)
  outputs = dict(reference.kept)
  for kind, loss in losses(pred, target, mask).items():
    outputs[f'loss_{kind}'] = loss[None]
    gradients = torch.autograd.grad(loss, [w[n] for n in names], retain_graph=True)
    outputs |= {f'grad_{kind}/{n}': g for n, g in zip(names, gradients)}
  parts = {'weights': w, 'inputs': inputs, 'outputs': outputs}
  return {
    f'{part}/{k}': v.detach().contiguous().numpy()
    for part, arrays in parts.items()
    for k, v in arrays.items()
  }
