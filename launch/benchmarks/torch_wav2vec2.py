"""transformers' wav2vec 2.0, the peer of the speech benchmark. Needs torch; import it late."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.wav2vec2 import modeling_wav2vec2

from research.models.speech import Size


def _config(size: Size) -> Any:
  make: Any = transformers.Wav2Vec2Config  # its signature lacks attn_implementation
  return make(
    hidden_size=size.width,
    num_hidden_layers=size.depth,
    num_attention_heads=size.heads,
    intermediate_size=size.hidden,
    feat_extract_norm=size.norm,
    conv_bias=size.conv_bias,
    do_stable_layer_norm=size.pre_norm,
    codevector_dim=size.final_width,
    proj_codevector_dim=size.final_width,
    num_negatives=100,
    mask_time_prob=0.65,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    feat_quantizer_dropout=0.0,
    layerdrop=0.0,
    attn_implementation='sdpa',
  )


def make_run(part: str, size: Size, audio: np.ndarray) -> Callable[[], float]:
  """() -> a number: a forward pass, one with its backward pass, or a pre-training step."""
  torch.manual_seed(0)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  config = _config(size)
  heard = torch.from_numpy(audio).to(device)
  autocast = torch.autocast(device, torch.bfloat16, enabled=device == 'cuda')
  if part == 'pretraining':
    return _pretraining(config, heard, autocast)
  model: Any = transformers.Wav2Vec2Model(config)
  model = model.to(device)
  # In training mode masks would be drawn; evaluation mode has the same gradients without dropout.
  encode = torch.compile(model.eval()) if device == 'cuda' else model.eval()

  def forward() -> float:
    with torch.no_grad(), autocast:
      return float(encode(heard).last_hidden_state.float().square().mean())

  def backward() -> float:
    with autocast:
      value = encode(heard).last_hidden_state.float().square().mean()
    value.backward()
    model.zero_grad(set_to_none=True)
    return float(value.detach())

  return forward if part == 'forward' else backward


def _pretraining(config, heard, autocast) -> Callable[[], float]:
  model = transformers.Wav2Vec2ForPreTraining(config).to(heard.device).train()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
  )
  frames = int(model._get_feat_extract_output_lengths(heard.shape[1]))
  forward = torch.compile(model) if heard.device.type == 'cuda' else model

  def step() -> float:
    # Masks and negatives are new in every step, on the host, as transformers draws them.
    shape = len(heard), frames
    mask = modeling_wav2vec2._compute_mask_indices(shape, 0.65, 10, min_masks=2)
    negatives = modeling_wav2vec2._sample_negative_indices(shape, 100, mask)
    with autocast:
      out = forward(
        heard,
        mask_time_indices=torch.from_numpy(mask).to(heard.device),
        sampled_negative_indices=torch.from_numpy(negatives).to(heard.device),
      )
    value = out.loss / int(mask.sum())
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(value.detach())

  return step
