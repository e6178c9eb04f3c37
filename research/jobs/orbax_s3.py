"""Checkpoints at s3:// with orbax, which knows gs:// alone; tensorstore reads and writes both.

orbax asks a few functions whether an address is one of an object store and how tensorstore opens
it. They are given the answer for s3://, the same as for gs:// but for the driver: files are written
in place, and a checkpoint is finished by its last file (no renaming, which stores do not have).
"""

import functools
import os
from typing import Any

from research.errors import InputError

PREFIX = 's3://'


@functools.cache
def teach() -> None:
  """Makes orbax take s3:// addresses.

  Raises:
    InputError: this version of orbax has other functions.
  """
  from orbax.checkpoint._src.path import gcs_utils
  from orbax.checkpoint._src.serialization import tensorstore_utils

  known = (
    hasattr(tensorstore_utils, '_use_gcs_driver')
    and hasattr(tensorstore_utils, '_normalize_path')
    and hasattr(gcs_utils, 'get_kvstore_for_gcs')
    and hasattr(gcs_utils, '_GCS_PATH_PREFIX')
  )
  if not known:
    import orbax.checkpoint as ocp

    raise InputError(
      f'Checkpoints at s3:// need orbax-checkpoint 0.12; {ocp.__version__} is installed. Install '
      'that, or use gs:// or a path of a disk.'
    )
  # Any: they are functions of one module that others look up there.
  gs: Any = gcs_utils
  store: Any = tensorstore_utils
  uses, normalized, opened = store._use_gcs_driver, store._normalize_path, gs.get_kvstore_for_gcs

  gs._GCS_PATH_PREFIX = (*gs._GCS_PATH_PREFIX, PREFIX)
  store._use_gcs_driver = lambda directory: directory.startswith(PREFIX) or uses(directory)
  store._normalize_path = lambda path: (
    path.rstrip('/') if path.startswith(PREFIX) else normalized(path)
  )
  gs.get_kvstore_for_gcs = lambda path: _spec(path) if path.startswith(PREFIX) else opened(path)


def _spec(path: str) -> dict[str, Any]:
  """How tensorstore opens an address, with the settings that AWS's own clients read."""
  bucket, _, key = path.removeprefix(PREFIX).partition('/')
  spec: dict[str, Any] = {'driver': 's3', 'bucket': bucket, 'path': key}
  endpoint = os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get('AWS_ENDPOINT_URL')
  region = os.environ.get('AWS_REGION') or os.environ.get('AWS_DEFAULT_REGION')
  if endpoint:
    spec |= {'endpoint': endpoint, 'aws_region': region or 'us-east-1'}
  elif region:
    spec['aws_region'] = region
  if os.environ.get('AWS_ACCESS_KEY_ID'):
    spec['aws_credentials'] = {'type': 'environment'}
  return spec
