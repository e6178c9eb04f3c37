"""transformers' wav2vec 2.0, HuBERT and WavLM, the peers of the speech benchmark. Needs torch;
import it late."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.wav2vec2 import modeling_wav2vec2

from research.models.speech import Size

CLASSES = {'wav2vec2': 'Wav2Vec2', 'hubert': 'Hubert', 'wavlm': 'WavLM'}


def _config(model: str, size: Size) -> Any:
  # The signatures lack attn_implementation; WavLM has attention of its own only.
  make: Any = getattr(transformers, f'{CLASSES[model]}Config')
  own: dict[str, Any] = {} if model == 'wavlm' else {'attn_implementation': 'sdpa'}
  if model == 'wav2vec2':
    own |= dict(codevector_dim=size.final_width, proj_codevector_dim=size.final_width)
    own |= dict(num_negatives=100, feat_quantizer_dropout=0.0)
  return make(
    hidden_size=size.width,
    num_hidden_layers=size.depth,
    num_attention_heads=size.heads,
    intermediate_size=size.hidden,
    feat_extract_norm=size.norm,
    conv_bias=size.conv_bias,
    do_stable_layer_norm=size.pre_norm,
    mask_time_prob=0.65 if model == 'wav2vec2' else 0.8,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
    **own,
  )


def make_run(
  model: str, part: str, size: Size, audio: np.ndarray, units: int, half: bool
) -> Callable[[], float]:
  """() -> a number: a forward pass, one with its backward pass, or a pre-training step; `half`:
  under autocast to bf16."""
  torch.manual_seed(0)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  config = _config(model, size)
  heard = torch.from_numpy(audio).to(device)
  autocast = torch.autocast(device, torch.bfloat16, enabled=half)
  if part == 'pretraining':
    if model == 'wav2vec2':
      return _pretraining(config, heard, autocast)
    return _unit_pretraining(model, config, heard, autocast, size.final_width, units)
  encoder = _encoder(model, config).to(device)
  # In training mode masks would be drawn; evaluation mode has the same gradients without dropout.
  encode = torch.compile(encoder.eval()) if device == 'cuda' else encoder.eval()

  def forward() -> float:
    with torch.no_grad(), autocast:
      return float(encode(heard).last_hidden_state.float().square().mean())

  def backward() -> float:
    with autocast:
      value = encode(heard).last_hidden_state.float().square().mean()
    value.backward()
    encoder.zero_grad(set_to_none=True)
    return float(value.detach())

  return forward if part == 'forward' else backward


def _encoder(model: str, config: Any) -> Any:
  return getattr(transformers, f'{CLASSES[model]}Model')(config)


def _adamw(parameters: Any) -> Any:
  return torch.optim.AdamW(
    parameters, lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
  )


def _unit_pretraining(model, config, heard, autocast, width, units) -> Callable[[], float]:
  """Masked prediction of units with cosine logits, as fairseq has it; transformers has no such
  head."""
  encoder = _encoder(model, config).to(heard.device).train()
  project = torch.nn.Linear(config.hidden_size, width, device=heard.device)
  vectors = torch.nn.Parameter(torch.rand(units, width, device=heard.device))
  parameters = [*encoder.parameters(), *project.parameters(), vectors]
  optimizer = _adamw(parameters)
  frames = int(encoder._get_feat_extract_output_lengths(heard.shape[1]))
  forward = torch.compile(encoder) if heard.device.type == 'cuda' else encoder
  targets = torch.randint(units, (len(heard), frames), device=heard.device)

  def step() -> float:
    shape = len(heard), frames
    masked = modeling_wav2vec2._compute_mask_indices(shape, 0.8, 10, min_masks=2)
    mask = torch.from_numpy(masked).to(heard.device)
    with autocast:
      states = forward(heard, mask_time_indices=mask).last_hidden_state
    hidden = project(states[mask].float())
    cosine = torch.cosine_similarity(hidden[:, None], vectors[None], dim=-1)
    value = torch.nn.functional.cross_entropy(cosine / 0.1, targets[mask])
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(value.detach())

  return step


def _pretraining(config, heard, autocast) -> Callable[[], float]:
  model = transformers.Wav2Vec2ForPreTraining(config).to(heard.device).train()
  optimizer = _adamw(model.parameters())
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
