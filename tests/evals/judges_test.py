"""Judges on outputs that are known."""

import numpy as np
import pytest

from research.audio.clips import Files, Source, Table
from research.errors import InputError
from research.evals import judges
from research.text.characters import CHARACTERS, encode
from research.train import superb_targets


def source(**columns):
  count = len(next(iter(columns.values())))
  ids = [str(i) for i in range(count)]
  return Source(Table('toy', ids, columns, Files('.', ids)))


def kept(judge, out, batch, count):
  found = {k: np.asarray(x) for k, x in judge.keep(out, batch).items()}
  return {i: judge.reduce({k: np.asarray(x[i]) for k, x in found.items()}) for i in range(count)}


def test_classes_and_slots():
  clips = source(label=['a', 'b', 'c'], place=['x', 'y', 'x'])
  logits = np.eye(3)[[0, 1, 1]]
  judge = judges.get(dict(name='classes', args=dict(column='label')))
  assert judge.score(kept(judge, {'logits': logits}, {}, 3), clips) == {'accuracy': 2 / 3}
  judge = judges.get(dict(name='slots', args=dict(columns=['label', 'place'], sizes=[3, 2])))
  logits = np.concatenate([np.eye(3)[[0, 1, 2]], np.eye(2)[[0, 0, 0]]], axis=1)
  got = judge.score(kept(judge, {'logits': logits}, {}, 3), clips)
  assert got == {'accuracy': 2 / 3, 'accuracy_label': 1.0, 'accuracy_place': 2 / 3}


def path_of(ids, frames, classes, blank=0):
  """Logits of a path that spells ids, with blanks between."""
  path = [x for i in ids for x in (i, blank)]
  path += [blank] * (frames - len(path))
  return np.eye(classes)[path]


def test_words_and_letters():
  clips = source(transcript=['BE A CAT', 'DO'])
  said = [encode('BE A CUT').tolist(), encode('DO').tolist()]
  logits = np.stack([path_of(ids, 30, len(CHARACTERS)) for ids in said])
  out = {'logits': logits, 'frame_mask': np.ones((2, 30), bool)}
  args = dict(column='transcript', vocabulary=CHARACTERS)
  judge = judges.get(dict(name='words', args=args))
  assert judge.score(kept(judge, out, {}, 2), clips) == {'wer': 1 / 4, 'cer': 1 / 10}
  judge = judges.get(dict(name='letters', args=args))
  assert judge.score(kept(judge, out, {}, 2), clips)['per'] == pytest.approx(1 / 12)


ARPA = """\\data\\
ngram 1={count}
ngram 2=1

\\1-grams:
-9\t<unk>
-1\t<s>\t0
-1\t</s>
{rows}

\\2-grams:
-1\tBE A

\\end\\
"""


def test_words_searched_with_an_ngram(tmp_path):
  pytest.importorskip('flashlight.lib.text.decoder')
  # CUT is no word of the n-gram: the search finds the nearest one, greedy texts stay as they are.
  words = {'BE': -1.0, 'A': -1.0, 'CAT': -1.0, 'CUP': -3.0, 'DO': -1.0}
  rows = '\n'.join(f'{p}\t{word}\t0' for word, p in words.items())
  (tmp_path / 'lm.arpa').write_text(ARPA.format(count=len(words) + 3, rows=rows))
  (tmp_path / 'words.txt').write_text('\n'.join(words) + '\n')
  clips = source(transcript=['BE A CAT', 'DO'])
  said = [encode('BE A CUT').tolist(), encode('DO').tolist()]
  logits = np.stack([4 * path_of(ids, 40, len(CHARACTERS)) for ids in said])
  # Frames behind a clip count for nothing.
  mask = np.arange(40) < np.array([[30], [20]])
  logits[~mask] = np.nan
  args = dict(column='transcript', vocabulary=CHARACTERS, lm=str(tmp_path / 'lm.arpa'))
  for lexicon in (None, str(tmp_path / 'words.txt')):
    judge = judges.get(dict(name='words', args=dict(args, lexicon=lexicon)))
    got = judge.score(kept(judge, {'logits': logits, 'frame_mask': mask}, {}, 2), clips)
    assert got == {'wer': 1 / 4, 'cer': 1 / 10, 'wer_lm': 0.0, 'cer_lm': 0.0}
  # The validation clips are not searched.
  spec = dict(name='words', args=dict(args, lexicon=None))
  assert judges.get(superb_targets.held_out(spec)).lm is None


def test_phones():
  clips = source(phones=['AA0 B', 'CH'])
  vocabulary = ('<pad>', '<eos>', '<unk>', 'AA0', 'B', 'CH')
  logits = np.stack([path_of(x, 8, 6) for x in ([3, 4, 1], [4, 1])])
  out = {'logits': logits, 'frame_mask': np.ones((2, 8), bool)}
  judge = judges.get(dict(name='symbols', args=dict(column='phones', vocabulary=vocabulary)))
  assert judge.score(kept(judge, out, {}, 2), clips) == {'per': 1 / 3}


def test_who_speaks_when():
  clips = source(turns=[['a 0.0 1.0', 'b 0.5 2.0']])
  label = np.zeros((1, 120, 2), int)
  label[0, :50, 0] = label[0, 25:100, 1] = 1
  mask = np.arange(120)[None] < 100
  batch = {'label': np.where(mask[..., None], label, -1), 'label_mask': mask}
  judge = judges.get(dict(name='activity'))
  swapped = np.where(label[..., ::-1] > 0, 9.0, -9.0)
  got = judge.score(kept(judge, {'logits': swapped}, batch, 1), clips)
  assert got['frame_accuracy'] == 1.0 and got['der'] == pytest.approx(0, abs=1e-9)
  nothing = judge.score(kept(judge, {'logits': swapped * 0 - 9.0}, batch, 1), clips)
  assert nothing['der'] == pytest.approx(1.0)
  assert nothing['frame_accuracy'] == pytest.approx(1 - 125 / 200)


def test_pairs_of_speakers():
  clips = source(speaker=['a', 'a', 'b', 'b', 'c'])
  vectors = np.eye(3)[[0, 0, 1, 1, 2]].astype(np.float32)
  judge = judges.get(dict(name='trials', args=dict(count=200)))
  got = judge.score(kept(judge, {'embedding': vectors}, {}, 5), clips)
  assert got['eer'] == pytest.approx(0.0, abs=1e-6) and got['min_dcf'] == 0.0
  listed = judges.Trials(trials=[(1, '0', '1'), (0, '0', '2'), (1, '3', '9')])
  assert listed.score(kept(listed, {'embedding': vectors}, {}, 5), clips)['min_dcf'] == 0.0
  with pytest.raises(InputError, match='None of the trials'):
    judges.Trials(trials=[(1, 'x', 'y')]).score(kept(listed, {'embedding': vectors}, {}, 5), clips)
  with pytest.raises(InputError, match='two speakers'):
    judge.score({0: {'embedding': vectors[0]}}, clips)


def test_ideal_masks_give_the_source():
  rng = np.random.default_rng(0)
  from research.features.stft import stft

  clean = rng.standard_normal((1, 2, 8000)).astype(np.float32)
  clean[0, 0, 4000:] = 0.0  # never at once, so that masks of 0 and 1 are ideal
  clean[0, 1, :4000] = 0.0
  audio = clean.sum(axis=1)
  spectra = np.asarray(stft(audio, n_fft=512, hop=320))
  frames = spectra.shape[1]
  first = (np.arange(frames) * 320 < 4000).astype(np.float32)
  masks = np.stack([1 - first, first])[None, :, :, None] * np.ones((1, 2, frames, 257), np.float32)
  out = {'masks': masks, 'mixture': np.stack([spectra.real, spectra.imag], axis=-1)}
  batch = {'audio': audio, 'sources': clean, 'audio_mask': np.ones(audio.shape, bool)}
  judge = judges.get(dict(name='masked', args=dict(hop=320, heard=False)))
  got = judge.score(kept(judge, out, batch, 1), source(label=['a']))
  assert got['si_sdr'] > 15 and got['si_sdri'] > 15 and 'pesq' not in got


def test_translations(tmp_path):
  pytest.importorskip('sentencepiece')
  from research.text import sentencepieces

  texts = ['Im Garten Musik öffnen.', 'Links am Baum Licht schließen.']
  model = sentencepieces.train(texts, tmp_path / 'spm.model')
  judge = judges.get(dict(name='translated', args=dict(model=str(model), beams=2)))
  assert isinstance(judge, judges.Hides) and isinstance(judge, judges.Decodes)
  ids = [sentencepieces.SentencePieces(model).encode(t)[:-1] for t in texts]
  rows = np.full((2, max(map(len, ids))), -1)
  for row, each in zip(rows, ids):
    row[: len(each)] = each
  said = {i: judge.reduce({'tokens': row}) for i, row in enumerate(rows)}
  clips = source(translation=texts)
  assert judge.score(said, clips)['bleu'] == pytest.approx(100.0)
  said[1] = {'tokens': np.array([], int)}
  assert 0 < judge.score(said, clips)['bleu'] < 60


def test_converted_voices(tmp_path):
  import soundfile

  try:
    import pyworld  # noqa: F401
  except ImportError:
    pytest.skip('pyworld is not installed')
  from research.audio import decode, sources
  from research.audio.log_mel import LogMel

  how, words = LogMel(), sources.open_source('builtin').where(dict(label=['seven', 'stop']))
  both = [decode.decode(words[i], sample_rate=24_000) for i in (0, len(words) - 1)]
  for name, audio in zip('ab', both):
    soundfile.write(tmp_path / f'{name}.wav', audio, 24_000, subtype='FLOAT')
  ids = ['a.wav', 'b.wav']
  columns = {'reference': [str(tmp_path / 'b.wav'), '']}
  clips = Source(Table('toy', ids, columns, Files(str(tmp_path), ids)))
  mel = np.stack([how.spectrogram(both[0])] * 2)
  out = {'mel': mel, 'mel_frames': np.ones(mel.shape[:2], bool)}
  own = judges.get(dict(name='converted'))
  same = own.score({0: own.reduce({k: x[0] for k, x in out.items()})}, clips)
  assert 0 < same['mcd'] < 9 and same['duration'] < 0.1
  judge = judges.get(dict(name='converted', args=dict(reference='reference', speaker='TEM1')))
  found = kept(judge, out, {}, 2)
  assert judge.score({0: found[0]}, clips)['mcd'] > same['mcd']
  with pytest.raises(InputError, match=r"'b\.wav' of 'toy' has no 'reference'"):
    judge.score(found, clips)


def test_what_pesq_refuses_is_counted():
  pytest.importorskip('pesq')
  pytest.importorskip('pystoi')
  judge = judges.Masked()
  kept = {0: {'pesq': np.array(2.0), 'stoi': np.array(0.5)}, 1: {'stoi': np.array(0.3)}}
  got = judge.score(kept, source(label=['a', 'b']))
  assert got == {'pesq': 2.0, 'stoi': 0.4, 'pesq_clips': 0.5}
  assert np.isnan(judge.score({1: kept[1]}, source(label=['a', 'b']))['pesq'])


def test_unknown_judges_and_arguments():
  with pytest.raises(InputError, match='clases'):
    judges.get(dict(name='clases'))
  with pytest.raises(InputError, match='colum'):
    judges.get(dict(name='classes', args=dict(colum='x')))
  with pytest.raises(InputError, match='judge slots'):
    judges.get(dict(name='slots'))
