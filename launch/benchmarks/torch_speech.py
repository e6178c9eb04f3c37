"""wav2vec 2.0, HuBERT and WavLM of transformers, the peers of the speech benchmark. Needs torch;
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
  # The signatures lack attn_implementation; WavLM has only its own attention.
  make: Any = getattr(transformers, f'{CLASSES[model]}Config')
  own: dict[str, Any] = {} if model == 'wavlm' else {'attn_implementation': 'sdpa'}
  if model == 'wav2vec2':
    own |= dict(codevector_dim=size.final_dim, proj_codevector_dim=size.final_dim)
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
  """() -> loss or a checksum of one part of the benchmark.

  Args:
    model: 'wav2vec2', 'hubert' or 'wavlm'.
    part: 'forward', 'backward' or 'pretraining'.
    size: sizes of the model.
    audio: waveforms f32 [b, t].
    units: number of units of HuBERT's and WavLM's targets.
    half: compute under autocast to bf16.
  """
  torch.manual_seed(0)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  config = _config(model, size)
  waveforms = torch.from_numpy(audio).to(device)
  autocast = torch.autocast(device, torch.bfloat16, enabled=half)
  if part == 'pretraining':
    if model == 'wav2vec2':
      return _pretraining(config, waveforms, autocast)
    return _unit_pretraining(model, config, waveforms, autocast, size.final_dim, units)
  encoder = _encoder(model, config).to(device)
  # Training mode would sample masks; without dropout, evaluation mode has the same gradients.
  encode = torch.compile(encoder.eval()) if device == 'cuda' else encoder.eval()

  def forward() -> float:
    with torch.no_grad(), autocast:
      return float(encode(waveforms).last_hidden_state.float().square().mean())

  def backward() -> float:
    with autocast:
      value = encode(waveforms).last_hidden_state.float().square().mean()
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


def _unit_pretraining(model, config, waveforms, autocast, width, units) -> Callable[[], float]:
  """Masked unit prediction with cosine logits, as in fairseq; transformers has no such head."""
  encoder = _encoder(model, config).to(waveforms.device).train()
  project = torch.nn.Linear(config.hidden_size, width, device=waveforms.device)
  vectors = torch.nn.Parameter(torch.rand(units, width, device=waveforms.device))
  parameters = [*encoder.parameters(), *project.parameters(), vectors]
  optimizer = _adamw(parameters)
  frames = int(encoder._get_feat_extract_output_lengths(waveforms.shape[1]))
  forward = torch.compile(encoder) if waveforms.device.type == 'cuda' else encoder
  targets = torch.randint(units, (len(waveforms), frames), device=waveforms.device)

  def step() -> float:
    shape = len(waveforms), frames
    masked = modeling_wav2vec2._compute_mask_indices(shape, 0.8, 10, min_masks=2)
    mask = torch.from_numpy(masked).to(waveforms.device)
    with autocast:
      states = forward(waveforms, mask_time_indices=mask).last_hidden_state
    hidden = project(states[mask].float())
    cosine = torch.cosine_similarity(hidden[:, None], vectors[None], dim=-1)
    value = torch.nn.functional.cross_entropy(cosine / 0.1, targets[mask])
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(value.detach())

  return step


def _pretraining(config, waveforms, autocast) -> Callable[[], float]:
  model = transformers.Wav2Vec2ForPreTraining(config).to(waveforms.device).train()
  optimizer = _adamw(model.parameters())
  frames = int(model._get_feat_extract_output_lengths(waveforms.shape[1]))
  forward = torch.compile(model) if waveforms.device.type == 'cuda' else model

  def step() -> float:
    # New masks and negatives in every step, sampled on the host as in transformers.
    shape = len(waveforms), frames
    mask = modeling_wav2vec2._compute_mask_indices(shape, 0.65, 10, min_masks=2)
    negatives = modeling_wav2vec2._sample_negative_indices(shape, 100, mask)
    with autocast:
      out = forward(
        waveforms,
        mask_time_indices=torch.from_numpy(mask).to(waveforms.device),
        sampled_negative_indices=torch.from_numpy(negatives).to(waveforms.device),
      )
    value = out.loss / int(mask.sum())
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(value.detach())

  return step
