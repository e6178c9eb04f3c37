"""Converts original weights to oido's format, or back with --reverse.

python -m launch.convert --release=audio_mae --source=pretrained.pth --out=weights/audio_mae
python -m launch.convert --release=audio_mae --source=weights/audio_mae --out=original.safetensors
--reverse

Writes DIR/model.safetensors with the model's arguments, front-end and origin in its metadata. With
--reverse it writes a safetensors file with the original keys, or for transformers a folder that it
can load, with the tokenizer of a Whisper or a CLAP where --source has one. `--args` sets model
arguments that cannot be inferred from the arrays, as name=value with a JSON value: --args=heads=4
--args='frontend={"statistics":"esc50"}'.

python -m launch.convert --release=s3prl_head --source=best.ckpt --encoder=PATH --out=DIR

puts a head that s3prl has trained (its Downstream and Featurizer) on the upstream that it was
trained on, as one model; --args then are of the head.
"""

import json
from typing import Any

from absl import flags

from launch import command
from research.errors import InputError
from research.jobs import mirror, paths

RELEASE = flags.DEFINE_string(
  'release',
  None,
  'Whose weights they are (see research.weights.RELEASES); detected if not given.',
)
SOURCE = flags.DEFINE_string('source', None, 'File to convert; with --reverse, oido weights.')
OUT = flags.DEFINE_string(
  'out', None, 'Output folder (with --reverse: folder, .safetensors file or fairseq .pt file).'
)
ENCODER = flags.DEFINE_string(
  'encoder', None, 'Weights under a head of s3prl (--release=s3prl_head).'
)
REVERSE = flags.DEFINE_bool('reverse', False, "Convert oido's format to the original layout.")
ARGS = flags.DEFINE_multi_string('args', [], 'A model argument, name=value (repeatable).')


def parse_args(items: list[str]) -> dict[str, Any]:
  """['heads=4', 'decoder=global'] -> {'heads': 4, 'decoder': 'global'}; values that are not JSON
  stay strings."""
  args = {}
  for item in items:
    name, equals, value = item.partition('=')
    if not equals or not name.isidentifier():
      raise InputError(f'--args={item!r} is invalid: expected name=value, as in --args=heads=4.')
    try:
      args[name] = json.loads(value)
    except ValueError:
      if value[:1] in ('{', '['):
        raise InputError(
          f'--args={item!r}: the value is not valid JSON, as in {{"mean": -5.5}}.'
        ) from None
      args[name] = value
  return args


def convert() -> Any:
  """Converts --source from the original layout; returns the file written."""
  from research import weights
  from research.weights import s3prl_heads

  args = parse_args(ARGS.value)
  if (RELEASE.value == s3prl_heads.RELEASE) != (ENCODER.value is not None):
    raise InputError(
      f'--release={s3prl_heads.RELEASE} and --encoder=PATH belong together: a head of s3prl, and '
      'the weights that it was trained on.'
    )
  if ENCODER.value is not None:
    pretrained = s3prl_heads.load_head(str(SOURCE.value), str(ENCODER.value), **args)
  else:
    pretrained = weights.load(str(SOURCE.value), release=RELEASE.value, **args)
  return weights.save(pretrained, str(OUT.value))


def reverse() -> Any:
  """Converts --source to the original layout; returns the file written."""
  if not RELEASE.value:
    raise InputError('--reverse needs --release: in whose layout to write.')
  if ENCODER.value is not None:
    raise InputError('--reverse takes no --encoder: it writes whole models.')
  from research import weights
  from research.weights import conversion, tokenizer_files, write

  pretrained = weights.load(str(SOURCE.value), **parse_args(ARGS.value))
  model, variables = pretrained.model, pretrained.variables
  out = paths.path(str(OUT.value), 'out')
  arrays, files, left = conversion.revert_files(str(RELEASE.value), model, variables, out.suffix)
  alone = bool(out.suffix)
  with mirror.folder(out.parent if alone else out) as folder:
    local = folder / out.name if alone else folder
    file = write.write_release(local, str(RELEASE.value), arrays, files)
    if not alone:
      none = tokenizer_files.write(str(RELEASE.value), model, pretrained.tokenizer, local)
      if none:
        print(f'left out: {none}')
  file = (out.parent if alone else out) / file.name
  if left:
    print(f'left out: {left}; {RELEASE.value} has no key for it')
  return file


def main(argv):
  del argv
  file = reverse() if REVERSE.value else convert()
  remote = paths.is_remote(file)
  size = (paths.info(file) or {})['size'] if remote else file.stat().st_size
  print(f'wrote {file} ({size / 1e6:.1f} MB)')


if __name__ == '__main__':
  command.required('source', 'out')
  command.run(main)
