"""Peak FLOP/s of devices, and model FLOPs utilisation."""

import jax

# Devices of JAX on a TPU chip where each of its two cores is one. Those of v4 and v5p work as one
# device; v5e and v6e have one core (cloud.google.com/tpu/docs/v2, …/v3, …/tpu7x).
CORES = 2
# Dense 16-bit floating-point peak in FLOP/s per device; the vendors' data sheets give it per chip.
# Keys are matched as substrings of `device.device_kind`, longest first.
PEAK_FLOPS: dict[str, float] = {
  'TPU v2': 45e12 / CORES,
  'TPU v3': 123e12 / CORES,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'TPU7x': 2307e12 / CORES,
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
  """The device's 16-bit peak in FLOP/s; None for a CPU or an unknown chip."""
  return peak_of((device or jax.devices()[0]).device_kind)


def peak_of(kind: str) -> float | None:
  """`peak_flops` of a device of that `device_kind`."""
  kind = kind.lower()
  for name in sorted(PEAK_FLOPS, key=len, reverse=True):
    if name.lower() in kind:
      return PEAK_FLOPS[name]
  return None


def compiler_options(platform: str) -> dict[str, str]:
  """Compiler options of `jax.jit` for a training step on devices of a platform ('cpu', 'tpu', …).

  On CPUs, optimisation barriers between layers are kept until code generation, see
  `layers.settled`. This saves a tenth of the time of wav2vec 2.0's backward pass.
  """
  return {'xla_disable_hlo_passes': 'cse_barrier_expander'} if platform == 'cpu' else {}


def mfu(flops: float | None, seconds: float, device: jax.Device | None = None) -> float | None:
  """Model FLOPs utilisation: achieved fraction of the peak, for `flops` in `seconds`, or None."""
  peak = peak_flops(device)
  return None if flops is None or peak is None or seconds <= 0 else flops / seconds / peak


def runs_once() -> dict[str, int]:
  """Options of the compiler for a program that runs once, as that which draws parameters: on CPUs
  LLVM took three times longer over EnCodec's draws than its light optimisation does, and these ran
  no slower, of 95 million parameters neither."""
  return {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else {}
