"""What the chips can do, and how much of it a step uses."""

import jax

# Dense peak in the 16-bit floating-point format, FLOP/s a chip, from the vendors' data sheets. The
# keys are searched in `device.device_kind`, the longer ones first.
PEAK_FLOPS: dict[str, float] = {
  'TPU v2': 45e12,
  'TPU v3': 123e12,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'TPU7x': 2307e12,
  'V100': 125e12,
  'T4': 65e12,
  'A10': 125e12,
  'A100': 312e12,
  'L4': 121e12,
  'L40S': 362e12,
  'RTX 3090': 71e12,
  'RTX 4090': 165e12,
  'H100 PCIe': 756e12,
  'H100 NVL': 835e12,
  'H100': 989e12,
  'H200': 989e12,
  'B200': 2250e12,
}


def peak_flops(device: jax.Device | None = None) -> float | None:
  """The chip's 16-bit peak in FLOP/s, or None when it is not in the table (a CPU, an unknown
  chip)."""
  kind = (device or jax.devices()[0]).device_kind.lower()
  for name in sorted(PEAK_FLOPS, key=len, reverse=True):
    if name.lower() in kind:
      return PEAK_FLOPS[name]
  return None


def compiler_options() -> dict[str, str]:
  """Options of `jax.jit` for a training step: on CPUs, barriers between layers stay until the
  program is generated, see `layers.settled` (a tenth of the time of wav2vec 2.0's backward pass).
  """
  if jax.default_backend() != 'cpu':
    return {}
  return {'xla_disable_hlo_passes': 'cse_barrier_expander'}


def step_flops(compiled: jax.stages.Compiled) -> float | None:
  """FLOPs that one chip does in one call, from XLA's cost analysis (None where it gives none)."""
  costs = compiled.cost_analysis()
  if isinstance(costs, list):
    costs = costs[0] if costs else None
  flops = float((costs or {}).get('flops', 0.0))
  return flops if flops > 0 else None


def mfu(flops: float | None, seconds: float, device: jax.Device | None = None) -> float | None:
  """Model FLOPs utilisation: the share of the peak that a step of `seconds` reached, or None."""
  peak = peak_flops(device)
  return None if flops is None or peak is None or seconds <= 0 else flops / seconds / peak
