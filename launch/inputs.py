"""Opens --input: a folder, an audio file, a list of files, or a data set in any form."""

import os
import pathlib


def open_input(spec, *, split=None, root=None):
  """The source of clips that `spec` names.

  Raises:
    InputError: the input does not exist, or a list without paths.
  """
  from research.audio import clips, lists, manifests, sources
  from research.errors import InputError

  path = os.path.expanduser(spec)
  if not os.path.isfile(path) or manifests.recognise(path):
    return sources.open_source(spec, split=split, root=root)
  if lists.is_list(pathlib.Path(path)):
    return sources.open_source({'name': 'list', 'args': {'path': path}}, split=split)
  if split:
    raise InputError(
      f'--split={split} needs a folder or a data set with splits, not the file {path}.'
    )
  folder, name = os.path.split(path)
  return clips.Source(clips.Table(name, [name], {}, clips.Files(folder, [name])))
