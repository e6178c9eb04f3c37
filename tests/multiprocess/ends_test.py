"""How processes of one run end: together, soon, and with a sentence that names who and why."""

import pytest

from tests.multiprocess import group

BOUND = 45.0  # seconds from the fault to the end of the last process


@pytest.mark.slow
@pytest.mark.parametrize(('count', 'who'), [(2, (1,)), (2, ()), (4, (2,))])
def test_sigterm_saves_and_stops_all(count, who, tmp_path):
  workdir = tmp_path / 'run'
  started = group.train(workdir, count=count)
  group.wait_for_step(started, workdir, 25)
  started.signal(group.TERM, *who)
  ends = started.wait()
  assert [end.code for end in ends] == [75] * count, ends
  assert max(end.seconds for end in ends) < BOUND
  saved = group.steps_saved(workdir)[-1]
  assert f'Stopped by a signal: step {saved} is saved' in ends[0].out
  assert 25 <= saved < 130

  if count == 2:
    return
  # It goes on with another number of processes, to the losses of an unbroken run.
  assert group.train(workdir, count=1).wait()[0].code == 0
  whole = tmp_path / 'whole'
  assert group.train(whole, count=1).wait()[0].code == 0
  a, b = group.losses(workdir), group.losses(whole)
  # The line after the stop is a mean over fewer steps.
  broken = min(step for step in b if step > saved)
  a = {step: loss for step, loss in a.items() if step in b and step != broken}
  assert len(a) >= len(b) - 1 and 130 in a
  assert all(abs(loss - b[step]) < 1e-4 * abs(b[step]) for step, loss in a.items()), (a, b)


@pytest.mark.slow
def test_ctrl_c_in_one_saves_and_stops_all(tmp_path):
  workdir = tmp_path / 'run'
  started = group.train(workdir)
  group.wait_for_step(started, workdir, 25)
  started.signal(group.INT, 0)
  ends = started.wait()
  assert [end.code for end in ends] == [75, 75], ends
  assert f'step {group.steps_saved(workdir)[-1]} is saved' in ends[0].out


@pytest.mark.slow
@pytest.mark.parametrize(('count', 'who'), [(2, 0), (2, 1), (4, 3)])
def test_sigkill_ends_all_with_the_name_of_the_process(count, who, tmp_path):
  workdir = tmp_path / 'run'
  started = group.train(workdir, count=count)
  group.wait_for_step(started, workdir, 25)
  started.signal(group.KILL, who)
  for i, end in enumerate(started.wait()):
    assert end.seconds < BOUND
    if i == who:
      continue
    assert end.code == 4, end
    assert len(end.errors) == 1
    assert f'Process {who} of {count}' in end.errors[0] and 'was killed' in end.errors[0]
    assert 'Traceback' not in end.err
  if count == 2:
    return
  # Nothing is lost but the steps since the last checkpoint.
  again = group.train(workdir, count=1).wait()
  assert again[0].code == 0 and 'resumes from step 20' in again[0].out


@pytest.mark.slow
@pytest.mark.parametrize(
  ('wrong', 'words'),
  [
    (['data.source=/nonexistent'], '/nonexistent'),
    # At a step: the other one is in a collective then, where it would wait for minutes.
    ([f'watch.loss.{each}' for each in ('max=0.0', 'stop=True', 'after=20')], 'collapse warning'),
  ],
)
def test_an_input_error_in_one_ends_all(wrong, words, tmp_path):
  ends = group.train(tmp_path / 'run', last=[f'--config.{each}' for each in wrong]).wait()
  assert [end.code for end in ends] == [2, 2], ends
  assert 'Process 1 of 2' in ends[0].errors[0]
  assert all(words in end.errors[0] for end in ends)
  assert all(len(end.errors) == 1 and 'Traceback' not in end.err for end in ends)
  assert abs(ends[0].seconds - ends[1].seconds) < BOUND


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_is_left_by_all(tmp_path):
  workdir = tmp_path / 'run'
  args = ('--config.total_steps=40', '--config.mesh.fsdp=2', '--config.mesh.data=1')
  assert all(end.code == 0 for end in group.train(workdir, *args).wait())
  damaged = [
    file
    for file in (workdir / 'checkpoints' / '40' / 'state').rglob('*')
    if file.is_file() and 'process_1' in str(file) and '/d/' in str(file)
  ]
  assert damaged
  for file in damaged:
    file.write_bytes(b'')
  ends = group.train(workdir, *args).wait(200)
  assert all(end.code == 0 for end in ends), ends
  assert 'resumes from step 20' in ends[0].out
  assert (workdir / 'unreadable' / '40').is_dir()


@pytest.mark.slow
def test_hosts_without_a_shared_folder_are_refused(tmp_path):
  last = (f'--workdir={tmp_path / "elsewhere"}',)
  ends = group.train(tmp_path / 'run', last=last).wait()
  assert [end.code for end in ends] == [2, 2], ends
  assert all('all hosts share' in end.errors[0] for end in ends)


def test_an_address_is_no_folder(tmp_path):
  done = group.train(tmp_path / 'run', '--workdir=az://bucket/run', count=1).wait()[0]
  assert done.code == 2 and 'begins with gs:// or s3://' in done.errors[0]
