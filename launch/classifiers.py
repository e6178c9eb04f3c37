"""What commands that classify have in common: flags, and the classifier that they ask for."""

import pathlib

from absl import flags


def define():
  """Defines the flags of models, inputs, classes and windows."""
  flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
  flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
  flags.DEFINE_string(
    'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
  )
  flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
  flags.DEFINE_string('data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).')
  flags.DEFINE_string(
    'labels', None, 'Names of the classes, one a line (those of the weights if not given).'
  )
  flags.DEFINE_string(
    'tokenizer',
    None,
    "Tokenizer of a CLAP: a folder or a file that came with its weights, or 'bytes'.",
  )
  flags.DEFINE_string('template', None, 'Text of a class, with {} for its name (CLAP).')
  flags.DEFINE_string(
    'suffix', None, 'Put behind every text (Microsoft CLAP 2023 needs one; that of a run is known).'
  )
  flags.DEFINE_enum(
    'activation', 'sigmoid', ['sigmoid', 'softmax'],
    'Of a classifier: several classes may be there, or one is.',
  )  # fmt: skip
  flags.DEFINE_float('window', None, 'Seconds of a piece of a longer clip.')
  flags.DEFINE_bool('overwrite', False, 'Replace what is there.')
  flags.DEFINE_float('max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.')


def classifier():
  """(the classifier that the flags ask for, what else its result depends on)."""
  from research import weights
  from research.capabilities import ComparesTexts
  from research.errors import InputError
  from research.inference import classify
  from research.weights import text_towers

  values, names = flags.FLAGS, None
  if values.labels is not None:
    try:
      lines = pathlib.Path(values.labels).expanduser().read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise InputError(f'--labels={values.labels} cannot be read: {error}.') from None
    names = [line.strip() for line in lines if line.strip()]
  loaded = weights.load(str(values.model), release=values.release)
  args = {} if values.window is None else {'window': values.window}
  by_texts = isinstance(loaded.model, ComparesTexts) and names is not None
  if values.tokenizer is None and not by_texts:
    for flag in ('template', 'suffix'):
      if values[flag].value:
        raise InputError(f'--{flag} is for a CLAP, as --tokenizer and --labels are.')
    made = classify.Classifier.of_model(loaded, names, values.activation, **args)
    return made, {'model': loaded.fingerprint, 'activation': values.activation}
  if names is None:
    raise InputError('--tokenizer is for classes described by texts: give their names, --labels.')
  template = classify.TEMPLATE if values.template is None else values.template
  tokenizer, suffix = text_towers.spelling(str(values.model), values.tokenizer, values.suffix)
  made = classify.Classifier.zero_shot(loaded, tokenizer, names, template, suffix, **args)
  texts = {'template': template, 'suffix': suffix, 'tokenizer': tokenizer.source}
  return made, {'model': loaded.fingerprint, **texts}
