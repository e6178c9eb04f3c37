"""Manifests of Kubernetes and the image: valid, and what they say about exit codes and disks."""

import json
import re
from pathlib import Path

import pytest
import yaml

RECIPES = Path(__file__).resolve().parents[2] / 'launch' / 'recipes'
ROOT = RECIPES.parents[1]
MANIFESTS = sorted((RECIPES / 'gke').glob('*.yaml'))


def load(manifest):
  (found,) = yaml.safe_load_all(manifest.read_text())
  return found


@pytest.mark.parametrize('manifest', MANIFESTS, ids=lambda m: m.name)
def test_jobset(manifest):
  jobset = load(manifest)
  spec = jobset['spec']
  assert jobset['kind'] == 'JobSet' and jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  network = spec['network']
  assert network['enableDNSHostnames'] is network['publishNotReadyAddresses'] is True
  # Bad input ends it, anything else starts all pods again.
  assert spec['failurePolicy']['maxRestarts'] == 100
  (rule,) = spec['failurePolicy']['rules']
  assert rule['action'] == 'FailJobSet' and rule['onJobFailureReasons'] == ['PodFailurePolicy']
  assert re.fullmatch(r'[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])
  (group,) = spec['replicatedJobs']
  job = group['template']['spec']
  assert job['backoffLimit'] == 0 and job['completionMode'] == 'Indexed'
  assert job['completions'] == job['parallelism'] == 4
  (only,) = job['podFailurePolicy']['rules']
  pod = job['template']['spec']
  (container,) = pod['containers']
  assert only == {
    'action': 'FailJob',
    'onExitCodes': {'containerName': container['name'], 'operator': 'In', 'values': [2]},
  }
  assert pod['restartPolicy'] == 'Never' and pod['terminationGracePeriodSeconds'] >= 120
  # What is written outlives the pod; every mount has its volume.
  mounts = {m['name']: m['mountPath'] for m in container['volumeMounts']}
  assert set(mounts) == {v['name'] for v in pod['volumes']}
  given = dict(c.split('=', 1) for c in container['command'] if '=' in c)
  for flag in ('--workdir', '--compilation_cache'):
    assert given[flag].startswith(mounts['runs'] + '/')
  assert given['--requeue_code'] == '75' and (ROOT / given['--config']).exists()
  if 'google.com/tpu' in container['resources']['limits']:
    assert '--distributed' in container['command']
    columns, rows = pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x')
    chips = container['resources']['limits']['google.com/tpu'] * job['completions']
    assert int(columns) * int(rows) == chips
  else:
    port = container['ports'][0]['containerPort']
    first = f'{jobset["metadata"]["name"]}-{group["name"]}-0-0'
    assert given['--coordinator'] == f'{first}.{network["subdomain"]}:{port}'
    assert int(given['--num_processes']) == job['completions']
    assert given['--process_id'] == '$(JOB_COMPLETION_INDEX)'


@pytest.mark.parametrize('manifest', MANIFESTS, ids=lambda m: m.name)
def test_job_and_pod_are_valid(manifest):
  """JobSet's own schema is not part of Kubernetes; the job in it and its pod are."""
  validator = pytest.importorskip(
    'kubernetes_validate', reason='kubernetes-validate is not installed'
  )
  job = load(manifest)['spec']['replicatedJobs'][0]['template']['spec']
  version = validator.latest_version()
  metadata = {'name': 'oido'}
  validator.validate(
    {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': metadata, 'spec': job},
    version, strict=True,
  )  # fmt: skip
  pod = {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': metadata, 'spec': job['template']['spec']}
  validator.validate(pod, version, strict=True)
  with pytest.raises(Exception, match='restartPolicie'):
    pod['spec']['restartPolicies'] = pod['spec'].pop('restartPolicy')
    validator.validate(pod, version, strict=True)


# ---- The image.


def test_dockerfile():
  text = (RECIPES / 'Dockerfile').read_text()
  lines = [s for s in text.replace('\\\n', ' ').splitlines() if s and not s.startswith('#')]
  rows = [line.split(None, 1) for line in lines]
  python = next(value for name, value in rows if name == 'ARG')
  (base,) = (value for name, value in rows if name == 'FROM')
  # A Python minor and a distribution that setup.cfg names; never `latest`.
  assert re.fullmatch(r'PYTHON=3\.\d+', python) and base == 'python:${PYTHON}-slim-bookworm'
  assert f'Python :: {python[len("PYTHON=") :]}' in (ROOT / 'setup.cfg').read_text()
  assert 'latest' not in ' '.join(lines)
  # The last user is not root, and the commands before it leave no cache.
  users = [value for name, value in rows if name == 'USER']
  assert users == ['1000'] and rows[-1][0] == 'CMD' and isinstance(json.loads(rows[-1][1]), list)
  for name, value in rows:
    assert name != 'ADD' and 'sudo' not in value
    if name == 'RUN' and 'pip install' in value:
      assert '--no-cache-dir' in value
    if name == 'RUN' and 'apt-get' in value:
      assert '--no-install-recommends' in value and 'rm -rf /var/lib/apt/lists' in value
  assert 'ARG EXTRAS' in text.split('FROM', 1)[1]
  # Libraries before the code, so that their layer is kept.
  order = [line.split()[0:2] for line in lines]
  assert order.index(['RUN', 'pip']) < order.index(['COPY', 'research'])


def test_dockerignore_lets_in_what_is_copied():
  allowed = {
    line[1:] for line in (ROOT / '.dockerignore').read_text().splitlines() if line.startswith('!')
  }
  copied = set()
  for line in (RECIPES / 'Dockerfile').read_text().splitlines():
    if line.startswith('COPY '):
      copied |= set(line.split()[1:-1])
  assert copied == allowed and all((ROOT / name).exists() for name in copied)
