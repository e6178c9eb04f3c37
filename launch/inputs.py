"""Opens --input: a folder, an audio file, a list of files, or a data set in any form."""

import os
import pathlib

OTHER_LISTS = ('.scp', '.lst', '.list', '.json', '.gz', '.parquet', '.tar', '.ltr', '.wrd', '.km')
FORMS = 'lists are a .txt with a path a line, or a .csv, .tsv or .jsonl with a column path.'


def open_input(spec, *, split=None, root=None):
  """The source of clips that `spec` names.

  Raises:
    InputError: the input does not exist, or is a list without paths or of another tool.
  """
  from research.audio import clips, lists, manifests, sources
  from research.audio.spelling import Spelling
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
  if os.path.splitext(name)[1].lower() in OTHER_LISTS:
    raise InputError(f'{path} is a list of another tool; {FORMS}')
  name = Spelling(folder)(name)
  return clips.Source(clips.Table(name, [name], {}, clips.Files(folder, [name])))
