"""What tests of SUPERB's data share."""

from research.audio.sources import open_source


def opened(name, root, split=None, **args):
  return open_source({'name': name, 'args': {'root': str(root), **args}}, split=split)


def by_id(source, column):
  return dict(zip((source.id(i) for i in range(len(source))), source.column(column)))


def text(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(f'{line}\n' for line in lines))


def warned(caplog, message):
  return any(message in record.getMessage() for record in caplog.records)
