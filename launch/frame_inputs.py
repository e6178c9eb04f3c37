"""Opens the frames to cluster or label: MFCC, or a layer of a model."""


def open_frames(name, codebook, *, release, layer, dtype, layer_flag):
  """(frames, origin of the features).

  Args:
    name: 'mfcc' or a model: a workdir, a checkpoint or a file.
    codebook: codebook that labels the frames, None to fit one. Its metadata give the default layer
      and dtype.
    release: release of the original weights; None for oido weights.
    layer: value of the layer flag; None for the layer of the codebook.
    dtype: compute dtype of the model; None for that of the codebook, or float32.
    layer_flag: name of the layer flag, for messages.

  Raises:
    InputError: no such model or layer, or the layer is not specified.
  """
  import dataclasses

  from research import weights
  from research.errors import InputError
  from research.models.finetuned import replaced
  from research.units import frames

  about = codebook.about if codebook else {}
  if name == 'mfcc':
    if layer is not None or release or dtype is not None:
      raise InputError(
        f'--{layer_flag}, --release and --dtype apply to models only; remove them for mfcc.'
      )
    return frames.mfcc(), 'computed from the audio'
  loaded = weights.load(name, release=release)
  # Weights are float32, whatever dtype the model was trained with.
  model = replaced(loaded.model, dtype=dtype or about.get('dtype') or 'float32')
  loaded = dataclasses.replace(loaded, model=model)
  embedder = loaded.embedder
  layer = about.get('layer') if layer is None else layer
  if layer is None:
    if codebook:
      raise InputError(f'The codebook does not specify its layer: give --{layer_flag}=NUMBER.')
    layer = 'last'
  return frames.of_model(embedder, layer), loaded.origin
