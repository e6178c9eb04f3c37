"""Weights of the network: hf://ORG/NAME[@REVISION] and https://…#sha256=…, fetched where a person
names them, and kept.

Of a repository only what `load` reads is fetched, into the cache of `huggingface_hub`, whose
settings hold (HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT). What was
fetched is compared with the hash that was promised.
"""

import contextlib
import hashlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from research.errors import InputError, printable
from research.jobs.cache import cache_folder

HUB, WEB = 'hf://', ('https://', 'http://')
# Tokenizers, besides vocab.json, which CTC models have too: see `text.subwords`.
TOKENIZERS = (
  'tokenizer.json', 'merges.txt', 'vocab.txt', 'gpt2.tiktoken', 'multilingual.tiktoken',
  'qwen.tiktoken',
)  # fmt: skip
# What lies beside arrays and is read too.
BESIDE = (
  'config.json', 'preprocessor_config.json', 'generation_config.json', 'vocab.json',
  'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', *TOKENIZERS,
)  # fmt: skip
# Files of weights, the best first; each may be in parts that an index names.
WEIGHTS = ('model.safetensors', 'pytorch_model.bin')
SUFFIXES = ('.safetensors', '.pt', '.pth', '.ckpt')
SECONDS = 30.0  # without a byte
_BLOCK = 2**20


def is_download(path: str | os.PathLike) -> bool:
  """Whether the weights are to be fetched."""
  return str(path).startswith((HUB, *WEB))


def fetch(path: str) -> Path:
  """The file or folder of this machine that an address leads to.

  Raises:
    InputError: there is nothing, it cannot be fetched, or it is not what was promised.
  """
  return _hub(path) if path.startswith(HUB) else _web(path)


# -- Hugging Face ------------------------------------------------------------------------------


def _hub(path: str) -> Path:
  parts = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?:@([\w.%-]+))?(?:/([^@]+))?', path)
  if not parts or (parts[3] and not {'', '.', '..'}.isdisjoint(parts[3].split('/'))):
    raise InputError(
      f'{path!r} is no address of weights: expected hf://ORG/NAME, or with @REVISION, /FILE or '
      'both behind it.'
    )
  name, file = parts[1], parts[3]
  revision = parts[2] and urllib.parse.unquote(parts[2])
  import huggingface_hub as hub
  from huggingface_hub import constants

  with _sentences(path):
    if constants.HF_HUB_OFFLINE:
      folder = Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
      return _chosen(path, folder, file)
    info = hub.HfApi().model_info(name, revision=revision, files_metadata=True, timeout=SECONDS)
    about = {each.rfilename: each for each in info.siblings or ()}
    if file and file not in about:
      raise InputError(f'{path!r}: the repository has no file {file!r}.')
    read = lambda index: _json(hub, name, str(info.sha), index)  # noqa: E731
    wanted = [*_beside(about, file), file] if file else _wanted(path, list(about), read)
    for number, each in enumerate(wanted):
      known = hub.try_to_load_from_cache(name, each, revision=info.sha)
      # Asked by its name once, the cache remembers which commit a revision is.
      got = Path(hub.hf_hub_download(name, each, revision=info.sha if number else revision))
      folder = got.parents[each.count('/')]
      if folder.name != info.sha:
        raise InputError(f'{path!r} has just changed: try again.')
      if not isinstance(known, str):
        _check(path, got, about[each])
  return _chosen(path, folder, file)


def _beside(names: Collection[str], file: str = '') -> list[str]:
  """What is read beside a file, in its folder."""
  folder = file.rpartition('/')[0]
  return [n for n in (f'{folder}/{b}' if folder else b for b in BESIDE) if n in names]


def _json(hub: Any, name: str, revision: str, file: str) -> Any:
  return json.loads(Path(hub.hf_hub_download(name, file, revision=revision)).read_text())


def _wanted(path: str, names: Sequence[str], read: Any) -> list[str]:
  """The files of a repository that are needed: one kind of weights, and what lies beside them."""
  beside = _beside(names)
  for weights in WEIGHTS:
    if weights in names:
      return [*beside, weights]
    index = f'{weights}.index.json'
    if index in names:
      return [*beside, index, *sorted(_parts(path, index, read(index), names))]
  alone = [n for n in names if n.endswith(SUFFIXES) and '/' not in n]
  if len(alone) == 1:
    return [*beside, *alone]
  if alone:
    raise InputError(
      f'{path!r} has several files of weights: name one, {path}/{alone[0]} or … {alone[-1]}.'
    )
  raise InputError(f'{path!r} has no weights that can be read ({", ".join(names[:5])} …).')


def _parts(path: str, index: str, content: Any, names: Sequence[str]) -> set[str]:
  places = content.get('weight_map') if isinstance(content, dict) else None
  if not isinstance(places, dict) or not set(map(str, places.values())) <= set(names):
    raise InputError(f'{path!r}: {index} names files that the repository does not have.')
  return set(places.values())


def _chosen(path: str, folder: Path, file: str | None) -> Path:
  """The file or folder that `load` opens."""
  if file:
    if not (folder / file).is_file():
      raise InputError(f'{path!r} has not been fetched, and HF_HUB_OFFLINE is set.')
    return folder / file
  names = [p.name for p in folder.iterdir()]
  if any(w in names or f'{w}.index.json' in names for w in WEIGHTS):
    return folder
  alone = [n for n in names if n.endswith(SUFFIXES)]
  if len(alone) != 1:
    raise InputError(f'{path!r} has no weights in the cache, and HF_HUB_OFFLINE is set.')
  return folder / alone[0]


def _check(path: str, got: Path, about: Any) -> None:
  """Compares a file that has just been fetched with what the repository says of it.

  Raises:
    InputError: another size or hash; the file is removed.
  """
  lfs = about.lfs
  size, wanted = (lfs.size, lfs.sha256) if lfs else (about.size, None)
  found = got.stat().st_size
  if size is not None and size != found:
    why = f'{found} bytes came of {size}'
  elif wanted is not None and _sha256(got) != wanted:
    why = f'its SHA-256 is not {wanted}'
  else:
    return
  blob = got.resolve()
  got.unlink()
  blob.unlink(missing_ok=True)
  raise InputError(f'{path!r}: {got.name} did not come as promised ({why}): try again.')


@contextlib.contextmanager
def _sentences(path: str) -> Iterator[None]:
  """Errors of the network and of `huggingface_hub` as one sentence."""
  from huggingface_hub import errors

  try:
    yield
  except InputError:
    raise
  except errors.GatedRepoError as error:
    raise InputError(
      f'{path!r} is gated: accept its terms on its page, and give a token (HF_TOKEN, or '
      '`hf auth login`).'
    ) from error
  except errors.RevisionNotFoundError as error:
    raise InputError(f'{path!r}: there is no such revision.') from error
  except errors.RepositoryNotFoundError as error:
    raise InputError(
      f'{path!r}: there is no such repository, or it is private and needs a token (HF_TOKEN).'
    ) from error
  except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
    cause = error.__cause__ or error.__context__
    if cause is not None and _of_network(cause):
      raise _unreachable(path, cause) from error
    raise InputError(f'{path!r} is not in the cache, and HF_HUB_OFFLINE is set.') from error
  except Exception as error:
    if not _of_network(error):
      raise
    raise _unreachable(path, error) from error


def _of_network(error: BaseException) -> bool:
  # The package for HTTP that huggingface_hub uses differs by its version.
  kinds = {kind.__name__ for kind in type(error).__mro__}
  return isinstance(error, (OSError, ValueError)) or bool(kinds & {'HTTPError', 'TransportError'})


def _unreachable(path: str, error: BaseException) -> InputError:
  why = printable(' '.join(str(error).split())[:200] or type(error).__name__)
  return InputError(f'{path!r} cannot be fetched ({why}). Check the network, and try again.')


# -- Other addresses ---------------------------------------------------------------------------


def _web(path: str) -> Path:
  address, _, fragment = path.partition('#')
  wanted = fragment.removeprefix('sha256=').lower()
  if not fragment.startswith('sha256=') or not re.fullmatch(r'[0-9a-f]{64}', wanted):
    raise InputError(
      f'{path!r}: weights of the web are read with their hash alone: {address}#sha256=<64 digits>.'
    )
  name = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
  if not name.endswith((*SUFFIXES, '.bin')):
    raise InputError(f'{path!r} names no file of weights ({", ".join(SUFFIXES)}, .bin).')
  file = cache_folder() / 'downloads' / wanted / name
  if file.is_file():
    return file
  file.parent.mkdir(parents=True, exist_ok=True)
  partial = file.with_name(f'{name}.{os.getpid()}.partial')
  try:
    found = _download(address, partial)
    if found != wanted:
      raise InputError(f'{path!r}: what came has the SHA-256 {found}; it was not kept.')
    os.replace(partial, file)
  except InputError:
    raise
  except (OSError, ValueError) as error:
    raise _unreachable(path, error) from error
  finally:
    partial.unlink(missing_ok=True)
  return file


def _download(address: str, file: Path) -> str:
  """Writes what the address holds into a file; its SHA-256."""
  digest, size = hashlib.sha256(), 0
  with urllib.request.urlopen(address, timeout=SECONDS) as answer, open(file, 'wb') as out:
    promised = answer.headers.get('Content-Length')
    while block := answer.read(_BLOCK):
      out.write(block)
      digest.update(block)
      size += len(block)
  if promised is not None and size != int(promised):
    raise ConnectionError(f'{size} bytes came of {promised}')
  logging.info('%s: %d bytes', address, size)
  return digest.hexdigest()


def _sha256(file: Path) -> str:
  with open(file, 'rb') as opened:
    return hashlib.file_digest(opened, 'sha256').hexdigest()
