"""Texts of list files: wav.scp, and a Kaldi folder for diarization."""

from collections.abc import Iterable, Mapping, Sequence

# One turn: speaker, start and end in seconds.
Turn = tuple[str, float, float]


def scp(rows: Iterable[tuple[str, str]]) -> str:
  """wav.scp: id and path, sorted by id. Relative paths start at the folder of the list."""
  return ''.join(f'{name} {path}\n' for name, path in sorted(rows))


def diarization(
  recordings: Mapping[str, tuple[str, float, Sequence[Turn]]],
) -> dict[str, str]:
  """The files of a folder as SUPERB's diarization reads it.

  Args:
    recordings: id -> path of the audio, seconds, turns; times are written in full, for a frame
      can hang on their last digit.
  """
  found: dict[str, list[str]] = {
    name: [] for name in ('wav.scp', 'segments', 'utt2spk', 'spk2utt', 'reco2dur', 'rttm')
  }
  speakers: dict[str, list[str]] = {}
  for name in sorted(recordings):
    path, seconds, turns = recordings[name]
    found['wav.scp'].append(f'{name} {path}')
    found['reco2dur'].append(f'{name} {seconds!r}')
    for speaker, start, end in sorted(turns, key=lambda t: (t[1], t[2], t[0])):
      turn = f'{name}_{speaker}_{round(start * 1000):06d}_{round(end * 1000):06d}'
      found['segments'].append(f'{turn} {name} {start!r} {end!r}')
      found['utt2spk'].append(f'{turn} {speaker}')
      found['rttm'].append(
        f'SPEAKER {name} 1 {start!r} {round(end - start, 6)!r} <NA> <NA> {speaker} <NA> <NA>'
      )
      speakers.setdefault(speaker, []).append(turn)
  found['spk2utt'] = [f'{s} {" ".join(turns)}' for s, turns in sorted(speakers.items())]
  return {name: ''.join(f'{line}\n' for line in rows) for name, rows in found.items()}
