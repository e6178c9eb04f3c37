"""BYOL-A v1 in PyTorch, the peer of the benchmark, with augmentations clip by clip on the CPU as in
the official training. Needs torch; import it late.

Sizes and distributions: byol_a/augmentations.py, byol_a/models.py of nttcslab/byol-a. The
spectrogram is computed for the whole batch with torch.stft, which favours the peer: upstream
computes it clip by clip.
"""

import copy
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

FRAMES, BINS, BANK, RATIO = 96, 64, 2048, 0.4
EPS = torch.finfo(torch.float32).eps


class Encoder(nn.Module):
  """AudioNTT2020: [b, 1, f, s] -> [b, d]."""

  def __init__(self, width: int):
    super().__init__()
    blocks: list[nn.Module] = []
    for channels in (1, 64, 64):
      blocks += [
        nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2, 2),
      ]  # fmt: skip
    self.features = nn.Sequential(*blocks)
    self.fc = nn.Sequential(
      nn.Linear(64 * BINS // 8, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, width),
      nn.ReLU(),
    )  # fmt: skip

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = self.features(x).permute(0, 3, 2, 1)
    y = self.fc(y.reshape(*y.shape[:2], -1))
    return y.amax(dim=1) + y.mean(dim=1)


class Frontend:
  """Log-mel spectrogram with the given filters [f, FFT bins]."""

  def __init__(self, filters: np.ndarray, device: str):
    self.filters = torch.from_numpy(filters).to(device)
    self.window = torch.hann_window(1024, device=device)

  def __call__(self, audio: torch.Tensor) -> torch.Tensor:
    spectrum = torch.stft(audio, 1024, 160, window=self.window, return_complex=True)
    return torch.log(self.filters @ spectrum.abs().square() + EPS)


class Views:
  """Running normalisation, mixup with past clips and random resized crop, one clip at a time."""

  def __init__(self) -> None:
    self.mean, self.square, self.count = 0.0, 1.0, 0
    self.bank: list[torch.Tensor] = []

  def __call__(self, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    self.count += 1
    self.mean += (float(clip.mean()) - self.mean) / self.count
    self.square += (float((clip - self.mean).square().mean()) - self.square) / self.count
    clip = (clip - self.mean) / max(self.square**0.5, EPS)
    return self._crop(self._mix(clip)), self._crop(self._mix(clip))

  def _mix(self, x: torch.Tensor) -> torch.Tensor:
    mixed = x
    if self.bank:
      weight = RATIO * np.random.random()
      past = self.bank[np.random.randint(len(self.bank))]
      mixed = torch.log((1.0 - weight) * x.exp() + weight * past.exp() + EPS)
    self.bank = (self.bank + [x])[-BANK:]
    return mixed

  def _crop(self, x: torch.Tensor) -> torch.Tensor:
    wide = int(FRAMES * 1.5)
    canvas = torch.zeros(1, 1, BINS, wide)
    left = (wide - FRAMES) // 2
    canvas[0, 0, :, left : left + FRAMES] = x
    h = int(np.clip(int(np.random.uniform(0.6, 1.5) * BINS), 1, BINS))
    w = int(np.clip(int(np.random.uniform(0.6, 1.5) * FRAMES), 1, wide))
    i, j = random.randint(0, BINS - h), random.randint(0, wide - w)
    cut = canvas[:, :, i : i + h, j : j + w]
    return functional.interpolate(cut, (BINS, FRAMES), mode='bicubic', align_corners=True)[0]


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
  return nn.Sequential(
    nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)
  )


def make_step(
  audio: np.ndarray, filters: np.ndarray, width: int, projection: int, hidden: int
) -> Callable[[], float]:
  """() -> loss: a training step on audio [b, t], from the samples to the EMA update."""
  torch.manual_seed(0)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  online = nn.Sequential(Encoder(width), _head(width, hidden, projection)).to(device)
  predictor = _head(projection, hidden, projection).to(device)
  target = copy.deepcopy(online).requires_grad_(False)
  optimizer = torch.optim.Adam([*online.parameters(), *predictor.parameters()], lr=3e-4)
  frontend, views = Frontend(filters, 'cpu'), Views()
  waveforms = torch.from_numpy(audio)

  def step() -> float:
    pairs = [views(clip) for clip in frontend(waveforms)[:, :, :FRAMES]]
    both = torch.stack([torch.stack(side) for side in zip(*pairs)])
    both = (both - both.mean()) / both.std().clamp_min(EPS)
    first, second = both.to(device)
    with torch.no_grad():
      targets = target(first), target(second)
    predicted = predictor(online(first)), predictor(online(second))
    losses = [
      (2 - 2 * functional.cosine_similarity(q, z)).mean() for q, z in zip(predicted, targets[::-1])
    ]
    loss = losses[0] + losses[1]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
      for average, new in zip(target.parameters(), online.parameters()):
        average.lerp_(new, 0.01)
    return float(loss.detach())

  return step


def make_embed(audio: np.ndarray, filters: np.ndarray, width: int) -> Callable[[], float]:
  """() -> checksum of the embeddings of audio [b, t] in evaluation mode, front-end included."""
  torch.manual_seed(0)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  encoder, frontend = Encoder(width).to(device).eval(), Frontend(filters, device)
  waveforms = torch.from_numpy(audio).to(device)

  def embed() -> float:
    with torch.no_grad():
      return float(encoder(((frontend(waveforms) + 5.0) / 5.0)[:, None]).sum())

  return embed
