"""Small data sets in the forms of other tools, byte for byte as the tools write them.

Each function makes three clips, 'a', 'b' and 'c', below a folder, and says what is to be read:
{'path': what is opened, 'ids': …, 'columns': {name: values}}. Clip k is noise of seed k; those of
Kaldi, lhotse and NeMo are segments of two recordings.
"""

import gzip
import io
import json
import tarfile

import numpy as np
import soundfile

RATE = 16000
LENGTHS = (0.5, 0.75, 0.4)
TEXTS = ('HELLO WORLD', 'He said "so', 'ja, nein')
SPEAKERS = ('s1', 's2', 's1')
LABELS = ('dog', 'cat', 'dog')
SPLITS = ('train', 'train', 'valid')


def clip(k):
  """The samples of clip k."""
  rng = np.random.default_rng(k)
  noise = np.round(3000 * rng.standard_normal(round(LENGTHS[k] * RATE)))
  return (noise / 32768).astype(np.float32)


def encoded(k, format='FLAC'):
  buffer = io.BytesIO()
  soundfile.write(buffer, clip(k), RATE, format=format, subtype='PCM_16')
  return buffer.getvalue()


def write(path, *ks, before=0.0):
  """Writes clips one behind the other, after `before` seconds of zeros."""
  path.parent.mkdir(parents=True, exist_ok=True)
  parts = [np.zeros(round(before * RATE), np.float32), *map(clip, ks)]
  soundfile.write(path, np.concatenate(parts), RATE)


def lines(path, *texts):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(f'{t}\n' for t in texts), encoding='utf-8')


def fairseq(root):
  for k, name in enumerate('abc'):
    write(root / 'audio' / 'x' / f'{name}.flac', k)
  for split, names in (('train', 'ab'), ('valid', 'c')):
    ks = ['abc'.index(n) for n in names]
    entries = (f'x/{n}.flac\t{len(clip(k))}' for n, k in zip(names, ks))
    lines(root / f'{split}.tsv', str(root / 'audio'), *entries)
    letters = (' '.join(TEXTS[k].replace(' ', '|')) + ' |' for k in ks)
    lines(root / f'{split}.ltr', *letters)
    lines(root / f'{split}.phn', *(f'P{k} Q' for k in ks))
    units = (1 + (len(clip(k)) - 400) // 320 for k in ks)
    lines(
      root / f'{split}.km',
      *(' '.join(str((k + j) % 7) for j in range(n)) for k, n in zip(ks, units)),
    )
  lines(root / 'train.wrd', *TEXTS[:2])
  lines(root / 'dict.ltr.txt', '| 94802', 'E 51860', 'T 38431')
  lines(root / 'dict.km.txt', *(f'{n} 1' for n in range(10)))
  return {
    'path': root,
    'ids': ['train/x/a.flac', 'train/x/b.flac', 'valid/x/c.flac'],
    'columns': {'split': SPLITS, 'transcript': TEXTS, 'phones': ('P0 Q', 'P1 Q', 'P2 Q')},
  }


def kaldi(root):
  """Segments: recording r1 holds a and b, r2 holds c after a quarter of a second."""
  write(root / 'wav' / 'r1.wav', 0, 1)
  write(root / 'wav' / 'r2.wav', 2, before=0.25)
  lines(root / 'wav.scp', f'r1 {root}/wav/r1.wav', 'r2 wav/r2.wav')
  lines(root / 'segments', 'a r1 0.0 0.5', 'b r1 0.50 1.25', 'c r2 0.25 -1')
  lines(root / 'text', *(f'{u} {t}' for u, t in zip('abc', TEXTS)))
  lines(root / 'utt2spk', *(f'{u} {s}' for u, s in zip('abc', SPEAKERS)))
  lines(root / 'spk2gender', 's1 f', 's2 m')
  columns = {'transcript': TEXTS, 'speaker': SPEAKERS, 'sex': ('f', 'm', 'f')}
  return {'path': root, 'ids': [*'abc'], 'columns': columns | {'recording': ('r1', 'r1', 'r2')}}


def kaldi_files(root):
  """Utterances that are files, in two directories, with utt2dur; lists that are not sorted."""
  for split, names in (('train', 'ba'), ('valid', 'c')):
    for name in names:
      write(root / split / f'{name}.wav', 'abc'.index(name))
    lines(root / split / 'wav.scp', *(f'{n}\t{root}/{split}/{n}.wav ' for n in names))
    lines(root / split / 'text', *(f'{n} {TEXTS["abc".index(n)]}' for n in sorted(names)))
    lines(root / split / 'utt2spk', *(f'{n} {SPEAKERS["abc".index(n)]}' for n in sorted(names)))
    lines(root / split / 'utt2dur', *(f'{n} {LENGTHS["abc".index(n)]}' for n in names))
  swap = lambda values: (values[1], values[0], values[2])  # noqa: E731
  return {
    'path': root,
    'order': (1, 0, 2),
    'ids': ['train/b', 'train/a', 'valid/c'],
    'columns': {'split': SPLITS, 'transcript': swap(TEXTS), 'speaker': swap(SPEAKERS)},
  }


def lhotse_cut(id, recording, path, start, k, total, **recording_fields):
  """A line of `CutSet.to_file`."""
  length = LENGTHS[k]
  supervision = {
    'id': f'{id}-s', 'recording_id': recording, 'start': 0.0, 'duration': length, 'channel': 0,
    'text': TEXTS[k], 'language': 'English', 'speaker': SPEAKERS[k], 'gender': 'F',
  }  # fmt: skip
  return {
    'id': id, 'start': start, 'duration': length, 'channel': 0, 'supervisions': [supervision],
    'recording': {
      'id': recording, 'sources': [{'type': 'file', 'channels': [0], 'source': str(path)}],
      'sampling_rate': RATE, 'num_samples': round(total * RATE), 'duration': total,
      'channel_ids': [0], **recording_fields,
    },
    'type': 'MonoCut',
  }  # fmt: skip


def lhotse(root):
  write(root / 'r1.flac', 0, 1)
  write(root / 'wav' / 'c.wav', 2)
  cuts = [
    lhotse_cut('a', 'r1', root / 'r1.flac', 0.0, 0, 1.25),
    lhotse_cut('b', 'r1', root / 'r1.flac', 0.5, 1, 1.25),
    lhotse_cut('c', 'r2', 'wav/c.wav', 0.0, 2, 0.4),
  ]
  with gzip.open(root / 'cuts_all.jsonl.gz', 'wt') as file:
    file.writelines(json.dumps(cut) + '\n' for cut in cuts)
  columns = {'transcript': TEXTS, 'speaker': SPEAKERS, 'sex': ('F',) * 3}
  return {'path': root / 'cuts_all.jsonl.gz', 'ids': [*'abc'], 'columns': columns}


def nemo(root):
  write(root / 'r1.wav', 0, 1)
  write(root / 'c.wav', 2)
  rows = [
    dict(audio_filepath='r1.wav', offset=0.0, duration=0.5, text=TEXTS[0], speaker='s1'),
    dict(audio_filepath=f'{root}/r1.wav', offset=0.5, duration=0.75, text=TEXTS[1], speaker='s2'),
    dict(audio_filepath='c.wav', duration=0.4, text=TEXTS[2], speaker='s1'),
  ]
  rows = [row | {'command': label} for row, label in zip(rows, LABELS)]
  lines(root / 'train_manifest.json', *map(json.dumps, rows))
  return {
    'path': root / 'train_manifest.json',
    'ids': ['r1.wav@0-0.5', f'{root}/r1.wav@0.5-1.25', 'c.wav'],
    'columns': {'transcript': TEXTS, 'speaker': SPEAKERS, 'label': LABELS},
  }


def add(tar, name, data):
  member = tarfile.TarInfo(name)
  member.size, member.mtime, member.mode = len(data), 1.5, 0o444
  tar.addfile(member, io.BytesIO(data))


def webdataset(root):
  """As webdataset.ShardWriter writes: members of a key together."""
  root.mkdir(parents=True, exist_ok=True)
  for shard, keys in (('train-000000', 'a'), ('train-000001', 'b'), ('valid-000000', 'c')):
    with tarfile.open(root / f'{shard}.tar', 'w|', format=tarfile.USTAR_FORMAT) as tar:
      for key in keys:
        k = 'abc'.index(key)
        about = {'speaker': SPEAKERS[k], 'tags': ['x', 'y'], 'n': k}
        add(tar, f'{key}.cls', LABELS[k].encode())
        add(tar, f'{key}.flac', encoded(k))
        add(tar, f'{key}.json', json.dumps(about).encode())
        add(tar, f'{key}.txt', TEXTS[k].encode())
  columns = {'transcript': TEXTS, 'speaker': SPEAKERS, 'label': LABELS, 'split': SPLITS}
  return {
    'path': root,
    'ids': ['train-000000/a', 'train-000001/b', 'valid-000000/c'],
    'columns': columns | {'tags': [['x', 'y']] * 3, 'n': ('0', '1', '2')},
  }


FEATURES = {
  'audio': {'sampling_rate': RATE, '_type': 'Audio'},
  'label': {'names': ['cat', 'dog'], '_type': 'ClassLabel'},
  'sentence': {'dtype': 'string', '_type': 'Value'},
  'speaker_id': {'dtype': 'string', '_type': 'Value'},
  'tags': {'feature': {'names': ['x', 'y'], '_type': 'ClassLabel'}, '_type': 'Sequence'},
}


def hf_table(ks, path=lambda k: f'{"abc"[k]}.flac', data=encoded):
  """A table as `datasets` has it in memory."""
  import pyarrow as pa

  audio = pa.struct({'bytes': pa.binary(), 'path': pa.string()})
  columns = {
    'audio': pa.array([{'bytes': data(k), 'path': path(k)} for k in ks], audio),
    'label': pa.array([('cat', 'dog').index(LABELS[k]) for k in ks], pa.int64()),
    'sentence': [TEXTS[k] for k in ks],
    'speaker_id': [SPEAKERS[k] for k in ks],
    'tags': pa.array([[0, 1][: k + 1] for k in ks], pa.list_(pa.int64())),
  }
  about = json.dumps({'info': {'features': FEATURES}})
  return pa.table(columns).replace_schema_metadata({'huggingface': about})


_HF = {
  'transcript': TEXTS, 'speaker': SPEAKERS, 'label': LABELS,
  'tags': [['x'], ['x', 'y'], ['x', 'y']], 'split': ('train', 'train', 'validation'),
}  # fmt: skip


def parquet(root):
  """As on the hub: data/SPLIT-NNNNN-of-NNNNN.parquet."""
  import pyarrow.parquet as pq

  (root / 'data').mkdir(parents=True)
  for split, ks in (('train', (0, 1)), ('validation', (2,))):
    file = root / 'data' / f'{split}-00000-of-00001.parquet'
    pq.write_table(hf_table(ks), file, row_group_size=1)
  ids = ['train/a.flac', 'train/b.flac', 'validation/c.flac']
  return {'path': root, 'ids': ids, 'columns': _HF}


def saved_to_disk(root):
  """`DatasetDict.save_to_disk`; the paths are those of the machine that made it."""
  import pyarrow as pa

  for split, parts in (('train', ((0,), (1,))), ('validation', ((2,),))):
    folder = root / split
    folder.mkdir(parents=True)
    names = [f'data-{i:05d}-of-{len(parts):05d}.arrow' for i in range(len(parts))]
    for name, ks in zip(names, parts):
      table = hf_table(ks, path=lambda k: None)
      with (
        pa.OSFile(str(folder / name), 'wb') as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
      ):
        out.write_table(table)
    state = {
      '_data_files': [{'filename': n} for n in names], '_fingerprint': '0f',
      '_format_columns': None, '_format_kwargs': {}, '_format_type': None,
      '_output_all_columns': False, '_split': split,
    }  # fmt: skip
    (folder / 'state.json').write_text(json.dumps(state, indent=2))
    (folder / 'dataset_info.json').write_text(json.dumps({'features': FEATURES}, indent=2))
  (root / 'dataset_dict.json').write_text(json.dumps({'splits': ['train', 'validation']}))
  ids = ['train/00000000', 'train/00000001', 'validation/00000000']
  return {'path': root, 'ids': ids, 'columns': _HF}


def audiofolder(root):
  """Metadata in folders of splits; csv as pandas writes it."""
  for split, ks in (('train', (0, 1)), ('test', (2,))):
    for k in ks:
      write(root / split / 'wav' / f'{"abc"[k]}.wav', k)
    quoted = (TEXTS[k].replace('"', '""') for k in ks)
    rows = (f'wav/{"abc"[k]}.wav,"{t}",{LABELS[k]}' for k, t in zip(ks, quoted))
    lines(root / split / 'metadata.csv', 'file_name,transcription,label', *rows)
  return {
    'path': root,
    'order': (2, 0, 1),
    'ids': ['test/wav/c.wav', 'train/wav/a.wav', 'train/wav/b.wav'],
    'columns': {
      'split': ('test', 'train', 'train'), 'transcript': (TEXTS[2], *TEXTS[:2]),
      'label': (LABELS[2], *LABELS[:2]),
    },
  }  # fmt: skip


def class_folders(root):
  """Folders of classes in folders of splits, without metadata."""
  for split, k in (('test', 2), ('train', 0), ('train', 1)):
    write(root / split / LABELS[k] / f'{"abc"[k]}.wav', k)
  return {
    'path': root,
    'order': (2, 1, 0),
    'ids': ['test/dog/c.wav', 'train/cat/b.wav', 'train/dog/a.wav'],
    'columns': {'split': ('test', 'train', 'train'), 'label': ('dog', 'cat', 'dog')},
  }


COMMON_VOICE = (
  'client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\t'
  'accents\tvariant\tlocale\tsegment'
)


def common_voice(root):
  """Version 17 and later. The clips are FLAC under their published names."""
  folder = root / 'en'
  for k in range(3):
    (folder / 'clips').mkdir(parents=True, exist_ok=True)
    (folder / 'clips' / f'common_voice_en_{k}.mp3').write_bytes(encoded(k))
  row = (
    '{s}\tcommon_voice_en_{k}.mp3\t{k}f\t{t}\t\t2\t0\ttwenties\tmale_masculine\tUS English\t\ten\t'
  )
  for split, ks in (('train', (0, 1)), ('dev', (2,)), ('validated', ())):
    rows = (row.format(s=SPEAKERS[k], k=k, t=TEXTS[k]) for k in ks)
    lines(folder / f'{split}.tsv', COMMON_VOICE, *rows)
  lines(
    folder / 'clip_durations.tsv', 'clip\tduration[ms]',
    *(f'common_voice_en_{k}.mp3\t{round(1000 * LENGTHS[k])}' for k in range(3)),
  )  # fmt: skip
  lines(folder / 'reported.tsv', 'sentence_id\tsentence\tlocale\treason', '0f\tx\ten\tgrammar')
  return {
    'path': folder,
    'order': (2, 0, 1),
    'ids': [
      'dev/clips/common_voice_en_2.mp3', 'train/clips/common_voice_en_0.mp3',
      'train/clips/common_voice_en_1.mp3',
    ],
    'columns': {
      'split': ('dev', 'train', 'train'), 'transcript': (TEXTS[2], *TEXTS[:2]),
      'speaker': (SPEAKERS[2], *SPEAKERS[:2]), 'language': ('en',) * 3,
      'sex': ('male_masculine',) * 3, 'up_votes': ('2',) * 3,
    },
  }  # fmt: skip


def list_of_segments(root):
  write(root / 'r1.wav', 0, 1)
  write(root / 'c.wav', 2)
  lines(
    root / 'list.csv', 'path,start,end,id,label', 'r1.wav,0,0.5,one,dog',
    'r1.wav,0.5,1.25,two,cat', f'{root}/c.wav,,,three,dog',
  )  # fmt: skip
  return {'path': root / 'list.csv', 'ids': ['one', 'two', 'three'], 'columns': {'label': LABELS}}


def messages(root):
  for k, name in enumerate('abc'):
    write(root / 'audio' / f'{name}.flac', k)
  for split, ks in (('train', (0, 1)), ('valid', (2,))):
    rows = []
    for k in ks:
      parts = [{'audio_path': f'audio/{"abc"[k]}.flac'}, {'text': 'What is said?'}]
      talk = [{'role': 'user', 'content': parts}, {'role': 'assistant', 'content': TEXTS[k]}]
      own = {'speaker': SPEAKERS[k], 'label': LABELS[k], 'seconds': LENGTHS[k]}
      rows.append(json.dumps({'id': 'abc'[k], 'messages': talk, **own}))
    lines(root / f'{split}.jsonl', *rows)
  columns = {'speaker': SPEAKERS, 'label': LABELS, 'split': SPLITS, 'task': SPLITS}
  columns |= {'answer': ('text',) * 3, 'clips': [[f'audio/{n}.flac'] for n in 'abc']}
  return {'path': root, 'ids': ['a', 'b', 'c'], 'columns': columns}


TREES = {
  f.__name__: f
  for f in (
    fairseq, kaldi, kaldi_files, lhotse, nemo, webdataset, parquet, saved_to_disk, audiofolder,
    class_folders, common_voice, list_of_segments, messages,
  )
}  # fmt: skip
