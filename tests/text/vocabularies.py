"""Small vocabularies in the files of checkpoints."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from research.text.byte_pairs import alphabet

# 'hello' and ' hello', by pairs.
MERGES = ('h e', 'l l', 'he ll', 'hell o', 'Ġ hello')


def write_ranks(path: Path, ranks: Mapping[bytes, int]) -> Path:
  lines = (f'{base64.b64encode(token).decode()} {rank}\n' for token, rank in ranks.items())
  path.write_text(''.join(lines))
  return path


def write_gpt2(folder: Path) -> Path:
  return _pairs(folder, [*_tokens(), '<|endoftext|>'])


def write_roberta(folder: Path) -> Path:
  return _pairs(folder, ['<s>', '<pad>', '</s>', '<unk>', *_tokens(), '<mask>'])


def write_bert(folder: Path) -> Path:
  folder.mkdir(parents=True, exist_ok=True)
  tokens = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '!', 'hello', '##s', ',', '[MASK]')
  (folder / 'vocab.txt').write_text('\n'.join((*tokens, '')))
  return folder


def _tokens() -> list[str]:
  return [*alphabet().values()][:253] + [*(merge.replace(' ', '') for merge in MERGES)]


def _pairs(folder: Path, tokens: list[str]) -> Path:
  folder.mkdir(parents=True, exist_ok=True)
  ids = {token: i for i, token in enumerate(tokens)}
  (folder / 'vocab.json').write_text(json.dumps(ids, ensure_ascii=False))
  (folder / 'merges.txt').write_text('\n'.join(('#version: 0.2', *MERGES, '')))
  return folder
