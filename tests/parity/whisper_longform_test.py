"""Recordings of any length and words of Whisper against openai/whisper, on recorded runs."""

import dataclasses

import numpy as np
import pytest

from research.inference import whisper_decoding
from research.inference.whisper_decoding import Options
from research.inference.whisper_mel import whole_log_mel
from research.inference.whisper_segments import Segment
from research.inference.whisper_transcribe import (
  Transcription,
  transcribe,
  transcribe_all,
)
from research.inference.whisper_words import (
  add_words,
  alignment_matrix,
  attention,
  find_words,
  median_filter,
  warp,
)
from tests.parity.golden import Case, assert_close, assert_near, each_case
from tests.parity.whisper_decode_test import Recorded, decoder_of, near
from tests.parity.whisper_vocabulary import writes

OF_OPTIONS = {f.name for f in dataclasses.fields(Options)} - {'temperature'}


def long(case):
  return 'waveform_int16' in case.info.get('inputs', ())


def aligned(case):
  return 'dtw_cost0' in case.info.get('inputs', ())


def transcription(options):
  own = Options(**{k: v for k, v in options.items() if k in OF_OPTIONS})
  rest = {k: v for k, v in options.items() if k not in OF_OPTIONS}
  return Transcription(options=own, **rest)


def recording(case):
  return np.tile(case.inputs['waveform_int16'], case.config['tile']).astype(np.float32) / 32768


def check_words(got, want):
  assert [w.word for w in got] == [w['word'] for w in want]
  for word, each in zip(got, want):
    assert abs(word.start - each['start']) < 1e-6 and abs(word.end - each['end']) < 1e-6, each
    assert abs(word.probability - each['probability']) <= 1e-4


def check_segments(got, want, text):
  assert [s.tokens for s in got] == [s['tokens'] for s in want]
  for i, (segment, each) in enumerate(zip(got, want)):
    assert (segment.id, segment.seek) == (each['id'], each['seek']), i
    assert segment.temperature == each['temperature']
    assert abs(segment.start - each['start']) < 1e-6 and abs(segment.end - each['end']) < 1e-6
    for name in ('avg_logprob', 'no_speech_prob'):
      near(getattr(segment, name), each[name], name)
    if text:
      assert segment.text == each['text']
      near(segment.compression_ratio, each['compression_ratio'], 'compression_ratio')
    if 'words' in each:
      check_words(segment.words or [], each['words'])


@each_case('whisper', where=long)
@pytest.mark.slow
def test_runs(case: Case, monkeypatch):
  decoder, audio = decoder_of(case), recording(case)
  if not writes(decoder.tokenizer):
    pytest.skip('set OIDO_WHISPER_ASSETS to the folder of multilingual.tiktoken')
  failed = []
  for run in case.info['runs']:
    if not run['stable_under_3e_6_weight_noise']:
      continue
    monkeypatch.setattr(whisper_decoding, 'generate', Recorded(run['noise_seed']))
    found = transcribe(decoder, audio, transcription(run['options']))
    try:
      check_segments(found.segments, run['segments'], True)
      assert found.text == run['text'] and found.language == run['language']
    except AssertionError as error:
      failed.append(f'{run["name"]}: {str(error)[:400]}')
  assert not failed, '\n'.join(failed)


@each_case('whisper', where=long)
@pytest.mark.slow
def test_many_at_once_are_what_each_is_alone(case: Case):
  decoder, audio = decoder_of(case), recording(case)
  if not writes(decoder.tokenizer):
    pytest.skip('set OIDO_WHISPER_ASSETS to the folder of multilingual.tiktoken')
  run = next(r for r in case.info['runs'] if r['options'].get('condition_on_previous_text'))
  how = transcription(run['options'])
  clips = [audio, audio[: len(audio) // 3], audio]
  found = transcribe_all(decoder, clips, how, batch_size=2)
  for i in (0, 2):
    check_segments(found[i].segments, run['segments'], True)
  alone = transcribe(decoder, clips[1], how)
  assert [s.tokens for s in found[1].segments] == [s.tokens for s in alone.segments]


@each_case('whisper', where=long)
def test_log_mel(case: Case):
  model = decoder_of(case).model
  mel, content = whole_log_mel(model.frontend, recording(case), model.window_frames)
  assert len(mel) == content + 3000
  want = case.outputs['logmel_every_25th_frame']
  assert_near(mel[::25].T[:, : want.shape[1]], want, max_abs=3e-4, what='log-mel')


@each_case('whisper', where=aligned)
def test_median_and_warp(case: Case):
  inputs, want = case.inputs, case.outputs
  for width in case.config['medfilt_widths']:
    assert_close(median_filter(inputs['median_in'], width), want[f'median_{width}'])
  np.testing.assert_array_equal(median_filter(inputs['median_short_in'], 7), want['median_short_7'])
  for name in (k for k in inputs if k.startswith('dtw_cost')):
    path = np.stack(warp(inputs[name]))
    np.testing.assert_array_equal(path, want[name.replace('cost', 'path')])


@each_case('whisper', where=aligned)
@pytest.mark.slow
def test_words(case: Case):
  decoder = decoder_of(case)
  tokenizer = decoder.with_language(case.config['language'])
  heard = decoder.listen_to_mel(case.inputs['mel'].swapaxes(1, 2))
  for i, run in enumerate(case.info['runs']):
    own = heard.tokens[run['clip'] : run['clip'] + 1]
    text = run['text_tokens']
    start = tokenizer.sot_sequence
    tokens = [*start, tokenizer.no_timestamps, *text, tokenizer.eot]
    products, _ = attention(decoder, own, tokens)
    assert_close(products, case.outputs[f'qk{i}'], what='products')
    matrix = alignment_matrix(products, run['num_frames'] // 2)[len(start) : -1]
    assert_close(matrix, case.outputs[f'matrix{i}'], what='matrix')
    if not writes(tokenizer):
      continue
    words = find_words(decoder, tokenizer, own, text, run['num_frames'])
    check_words(words, run['alignment'])
    assert [w.tokens for w in words] == [w['tokens'] for w in run['alignment']]
    segments = [
      Segment(i, s['seek'], s['start'], s['end'], '', s['tokens'], 0.0, 0.0, 0.0, 0.0)
      for i, s in enumerate(run['segments_in'])
    ]
    add_words(segments, decoder, tokenizer, own, run['num_frames'], run['last_speech_timestamp'])
    for segment, each in zip(segments, run['segments_out']):
      assert abs(segment.start - each['start']) < 1e-6 and abs(segment.end - each['end']) < 1e-6
      check_words(segment.words, each['words'])
