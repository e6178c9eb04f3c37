"""What commands that generate audio share: lists of name=value, further weights, what was made."""

import json
import pathlib


def pairs(flag):
  """{name: value} of a flag."""
  from research.errors import InputError

  found = {}
  for item in flag.value:
    name, equals, value = item.partition('=')
    if not equals:
      raise InputError(f'--{flag.name}={item}: expected name=value.')
    found[name.strip()] = value.strip()
  return found


def labels(flag):
  """{name: value} of --labels; @FILE stands for what is in it."""
  from research.errors import InputError

  found = pairs(flag)
  for name, value in found.items():
    if value.startswith('@'):
      try:
        found[name] = pathlib.Path(value[1:]).expanduser().read_text(encoding='utf-8')
      except (OSError, UnicodeDecodeError) as error:
        raise InputError(
          f'--{flag.name}={name}={value}: the file cannot be read: {error}.'
        ) from None
  return found


def options(flag, own):
  """{name: value} of --options and of flags of their own; numbers and lists as JSON has them.

  Args:
    flag: that of --options.
    own: {option: its flag}.
  """
  found = {}
  for name, value in pairs(flag).items():
    try:
      # A list has no commas here, which part options: hop_fraction=[0.5;0.125].
      found[name] = json.loads(value.replace(';', ','))
    except ValueError:
      found[name] = value
  return found | {name: each.value for name, each in own.items() if each.value is not None}


def opened(flag, known):
  """{name: weights} of --parts.

  Args:
    flag: that of --parts.
    known: arguments with which each is opened.
  """
  from research import weights
  from research.errors import unknown

  found = {}
  for name, path in pairs(flag).items():
    name, _, release = name.partition(':')
    if name not in known:
      raise unknown('part of the generator', name, known or ['none'])
    found[name] = weights.load(path, release=release or None, **known[name])
  return found


def make(loaded, settings, own, parts):
  """(generator, what results depend on) of a model.

  Args:
    loaded: the model.
    settings: flag of --options.
    own: {option: its flag}.
    parts: flag of --parts.
  """
  from research.inference import generators

  given = options(settings, own)
  found = opened(parts, generators.parts(loaded.model))
  about = {'model': loaded.fingerprint, **given}
  about |= {name: part.fingerprint for name, part in found.items()}
  return generators.make(loaded.model, loaded.variables, **given, **found), about


def check_voice(flag, generation):
  """Raises InputError where a voice was given to a model that takes no vector of one."""
  from research.errors import InputError

  if flag.value is not None and 'voice' not in generation.vectors:
    known = ', '.join(generation.labels) or 'nothing'
    raise InputError(
      f'--{flag.name} was given, and the model knows speakers by {known}: give --labels.'
    )


def recordings(flag):
  """Paths of the recordings that a flag names."""
  from launch.inputs import open_input
  from research.errors import InputError

  source = open_input(flag.value)
  examples = [source[i] for i in range(len(source))]
  if any(each.path is None or each.start or each.seconds for each in examples):
    raise InputError(f'--{flag.name}={flag.value} has parts of files: give whole files.')
  return [str(each.path) for each in examples]


def unaligned(made):
  """Lines about the results whose alignment is not good."""
  from launch import outputs

  good = [row for row in made if 'file' in row]
  bad = [row for row in good if not row.get('aligned', True)]
  if not bad:
    return []
  first = f'  {len(bad)} of {len(good)} are not well aligned:'
  return [first, *(f'  {row["id"]}: {", ".join(row["problems"])}' for row in bad[: outputs.NAMED])]


def ended(out, made, loaded, noun, more=()):
  """Writes the page of what was made, and says so.

  Args:
    out: the folder.
    made: its rows.
    loaded: the model.
    noun: of the results, in the plural.
    more: further lines.
  """
  from launch import command, outputs
  from research.inference import audio_files
  from research.report import generated

  where: object = pathlib.Path(out) / audio_files.CODES
  if not any(row.get('file') == audio_files.CODES for row in made):
    where = generated.write(pathlib.Path(out), made, f'{loaded.name} ({loaded.origin})')
  lines = list(outputs.left_out(made))
  lines[0] = f'{out}: {lines[0].replace(" clips", f" {noun}")}; {where}'
  command.say('\n'.join([*lines, *more]))
