"""Which frames are clustered or labelled: mfcc, or a layer of a model."""


def open_frames(name, codebook, *, release, layer, dtype, layer_flag):
  """The frames of `name`, and where they come from.

  Args:
    name: mfcc or a model: a workdir, a checkpoint or a file.
    codebook: what they are labelled with, which may say of which layer and dtype it is; None to
      fit one.
    release: whose original weights the model is; None for our own.
    layer: what the flag says; None for what the codebook says.
    dtype: in which the model computes; None for what the codebook says, and else float32.
    layer_flag: what the flag of the layer is called.

  Raises:
    InputError: no such model or layer, or nothing says which layer.
  """
  import dataclasses

  from research import weights
  from research.errors import InputError
  from research.units import frames

  about = codebook.about if codebook else {}
  if name == 'mfcc':
    if layer is not None or release or dtype is not None:
      raise InputError(f'--{layer_flag}, --release and --dtype are of models; mfcc has none.')
    return frames.mfcc(), 'computed from the audio'
  loaded = weights.load(name, release=release)
  # Whatever they were trained in, the weights are float32.
  model = loaded.model.clone(dtype=dtype or about.get('dtype') or 'float32')
  loaded = dataclasses.replace(loaded, model=model)
  embedder = loaded.embedder
  layer = about.get('layer') if layer is None else layer
  if layer is None:
    if codebook:
      raise InputError(
        f'The codebook does not say of which layer it is: give --{layer_flag}=NUMBER.'
      )
    layer = 'last'
  return frames.of_model(embedder, layer), loaded.origin
