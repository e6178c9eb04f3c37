import pytest

from tests.security.traps import Trap


@pytest.fixture
def trap(tmp_path):
  """Armed; the test fails if anything sprang it."""
  found = Trap(tmp_path)
  found.check_armed()
  yield found
  found.check_untouched()


@pytest.fixture
def alarm():
  """A read that never ends must not hang the tests."""
  import signal

  def ring(number, frame):
    raise TimeoutError('the read does not end')

  old = signal.signal(signal.SIGALRM, ring)
  signal.alarm(20)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, old)
