"""Jobs that die."""

from research.jobs.parts import Parts


def killed(monkeypatch, after):
  """A job dies like a killed process when part number `after` is to be written."""
  write, written = Parts.write, []

  def dying(self, results):
    if len(written) >= after:
      raise KeyboardInterrupt
    written.append(results)
    write(self, results)

  monkeypatch.setattr(Parts, 'write', dying)
