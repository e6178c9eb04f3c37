"""A PyTorch masked autoencoder with AudioMAE's sizes, the peer of the training benchmark.

Written from the paper in the style of timm: convolutional patch embedding, fused qkv,
scaled_dot_product_attention, shifted windows by roll and permute. Needs torch; import it late.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from research.models.audio_mae import SIZES
from research.models.window_decoder import relative_features, shift_bias
from research.nn.positions import spectrogram_positions


class Attention(nn.Module):
  """timm's attention with scaled_dot_product_attention."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(width, 3 * width)
    self.proj = nn.Linear(width, width)

  def forward(self, x):
    b, n, d = x.shape
    q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
  """Linear, exact GELU, Linear."""

  def __init__(self, width: int):
    super().__init__()
    self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, x):
    return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
  """Pre-norm block."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
    self.attn, self.mlp = Attention(width, heads), Mlp(width)

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
  """Cosine attention in windows with a continuous position bias."""

  def __init__(self, width: int, heads: int, window: tuple[int, int]):
    super().__init__()
    self.heads = heads
    self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.meta = nn.Sequential(
      nn.Linear(2, 384), nn.ReLU(), nn.Dropout(0.1), nn.Linear(384, heads), nn.Dropout(0.1)
    )
    self.tau = nn.Parameter(torch.ones(heads))
    features = torch.from_numpy(relative_features(window))
    self.register_buffer('features', features.reshape(-1, 2), persistent=False)

  def forward(self, x, mask):
    b, n, d = x.shape
    q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    norms = q.norm(dim=-1, keepdim=True) * k.norm(dim=-1, keepdim=True).transpose(-2, -1)
    logits = q @ k.transpose(-2, -1) / norms.clamp(min=1e-6)
    logits = logits / self.tau.clamp(min=0.01)[:, None, None]
    logits = logits + self.meta(self.features).T.reshape(self.heads, n, n)
    if mask is not None:
      windows = mask.shape[0]
      logits = logits.reshape(b // windows, windows, self.heads, n, n) + mask[:, None]
      logits = logits.reshape(b, self.heads, n, n)
    return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))


class WindowBlock(nn.Module):
  """Residual-post-norm block over windows of a grid, shifted or not."""

  def __init__(self, width: int, heads: int, grid, window, shift: int):
    super().__init__()
    self.grid, self.window, self.shift = grid, window, shift
    self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
    self.attn, self.mlp = WindowAttention(width, heads, window), Mlp(width)
    mask = None
    if shift:
      rows = torch.from_numpy(shift_bias(grid[0], window, shift))
      mask = rows.repeat_interleave(grid[1] // window[1], 0)
    self.register_buffer('mask', mask, persistent=False)

  def forward(self, x):
    (rows, columns), (wr, wc) = self.grid, self.window
    b, _, d = x.shape
    y = x.reshape(b, rows, columns, d)
    if self.shift:
      y = torch.roll(y, -self.shift, 1)
    y = y.reshape(b, rows // wr, wr, columns // wc, wc, d).permute(0, 1, 3, 2, 4, 5)
    y = self.attn(y.reshape(-1, wr * wc, d), self.mask)
    y = y.reshape(b, rows // wr, columns // wc, wr, wc, d).permute(0, 1, 3, 2, 4, 5)
    y = y.reshape(b, rows, columns, d)
    if self.shift:
      y = torch.roll(y, self.shift, 1)
    x = x + self.norm1(y.reshape(b, -1, d))
    return x + self.norm2(self.mlp(x))


class TorchMAE(nn.Module):
  """Loss of a batch of spectrograms [b, 1, 1024, 128]."""

  positions: torch.Tensor
  decoder_positions: torch.Tensor

  def __init__(self, size: str, decoder: str, grid: tuple[int, int], keep: int):
    super().__init__()
    s = SIZES[size]
    self.keep, self.grid, self.patch, self.windows = keep, grid, s.patch, decoder == 'swin'
    self.patch_embed = nn.Conv2d(1, s.width, s.patch, s.patch)
    self.cls_token = nn.Parameter(torch.randn(1, 1, s.width) * 0.02)
    self.blocks = nn.ModuleList(Block(s.width, s.heads) for _ in range(s.depth))
    self.norm = nn.LayerNorm(s.width, eps=1e-6)
    width, heads = s.decoder_width, s.decoder_heads
    self.decoder_embed = nn.Linear(s.width, width)
    self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
    if self.windows:
      shapes = [(width, heads, grid, (4, 4), 2 * (i % 2)) for i in range(s.window_depth)]
      self.decoder_blocks = nn.ModuleList(WindowBlock(*shape) for shape in shapes)
    else:
      self.decoder_blocks = nn.ModuleList(Block(width, heads) for _ in range(s.global_depth))
    self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
    self.decoder_pred = nn.Linear(width, s.patch**2)
    for name, w in {'positions': s.width, 'decoder_positions': width}.items():
      table = torch.from_numpy(spectrogram_positions(grid, w, 'published', False)[None])
      self.register_buffer(name, table, persistent=False)

  def forward(self, x, noise):
    b, (rows, columns), p = x.shape[0], self.grid, self.patch
    tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + self.positions[:, 1:]
    restore = noise.argsort(1).argsort(1)
    keep = noise.argsort(1)[:, : self.keep]
    tokens = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
    z = torch.cat([self.cls_token.expand(b, -1, -1), tokens], 1)
    for block in self.blocks:
      z = block(z)
    z = self.decoder_embed(self.norm(z))
    missing = self.mask_token.expand(b, rows * columns - self.keep, -1)
    full = torch.cat([z[:, 1:], missing], 1)
    full = full.gather(1, restore[:, :, None].expand(-1, -1, z.shape[2]))
    full = full + self.decoder_positions[:, 1:]
    z = full if self.windows else torch.cat([z[:, :1], full], 1)
    for block in self.decoder_blocks:
      z = block(z)
    pred = self.decoder_pred(self.decoder_norm(z))[:, -rows * columns :]
    target = x.reshape(b, rows, p, columns, p).permute(0, 1, 3, 2, 4).reshape(b, -1, p * p)
    mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
    target = (target - mean) / (var + 1e-6).sqrt()
    mask = (restore >= self.keep).to(pred.dtype)
    return (((pred.float() - target) ** 2).mean(-1) * mask).sum() / mask.sum()


def make_step(size: str, decoder: str, spectrogram: np.ndarray, noise: np.ndarray, grid, keep: int):
  """() -> loss: one AdamW step; on a GPU with bf16 autocast and torch.compile."""
  torch.manual_seed(0)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = TorchMAE(size, decoder, grid, keep).to(device).train()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4, fused=True
  )
  x = torch.from_numpy(np.array(spectrogram))[:, None].to(device)
  u = torch.from_numpy(np.array(noise)).to(device)
  forward = torch.compile(model) if device == 'cuda' else model

  def step() -> float:
    with torch.autocast(device, torch.bfloat16, enabled=device == 'cuda'):
      loss = forward(x, u)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())

  return step
