"""Prompts of audio language models beside recorded ones: texts, counts and ids exactly."""

import base64
import os
import pathlib
import re

import numpy as np
import pytest

from research.text import byte_pairs, flamingo_tasks, prompts
from research.text.messages import read_messages
from research.text.prompts import (
  audio_flamingo,
  audio_flamingo3,
  music_flamingo,
  qwen2_audio,
  qwen_audio,
)
from tests.parity.golden import each_case

WORDS = pathlib.Path(__file__).parents[1] / 'text' / 'qwen_words.tiktoken'
RANKS = 151_643


def kind(name):
  return lambda case: name in case.info


def unroll(pieces):
  return ''.join(p if isinstance(p, str) else p[0] * p[1] for p in pieces)


@each_case('qwen2_audio', where=kind('durations'))
def test_qwen2_audio(case):
  form = qwen2_audio.FORM
  for row in case.info['durations']:
    assert form.tokens(row['samples']) == row['audio_tokens']
    assert -(-min(row['samples'], 480_000) // 160) == row['mel_frames']
  for row in case.info['chat_template']:
    found = qwen2_audio.render(read_messages(row['messages']), row['add_generation_prompt'])
    assert found.text == row['text']
    assert len(found.clips) == found.text.count('<|AUDIO|>')
  expansion = case.info['expansion']
  samples, placeholders = list(expansion['audio_samples']), []
  for text, want in zip(expansion['texts'], expansion['expanded'], strict=True):
    counts = [form.clip_tokens(samples.pop(0)) for _ in range(text.count('<|AUDIO|>'))]
    placeholders.append(sum(counts))
    assert prompts.expand(text, form, counts) == unroll(want)
  assert placeholders == expansion['placeholders_per_row']


@each_case('audio_flamingo3', where=kind('strip_prefix'))
def test_audio_flamingo3(case):
  for row in case.info['durations']:
    windows = audio_flamingo3.window_samples(row['samples'])
    assert len(windows) == row['windows'] == audio_flamingo3.FORM.windows(row['samples'])
    assert [-(-each // 160) for each in windows] == row['mel_frames_per_window']
    assert audio_flamingo3.FORM.tokens(row['samples']) == row['audio_tokens']
  for row in case.info['chat_template']:
    found = audio_flamingo3.render(read_messages(row['messages']), row['add_generation_prompt'])
    assert found.text == row['text']
  expansion = case.info['expansion']
  counts = [audio_flamingo3.FORM.tokens(n) for n in expansion['audio_samples']]
  assert counts == expansion['placeholders_per_row']
  music = '<|sound_bos|><sound><|sound_eos|>'
  for key, marked in (('expanded', '<sound>'), ('music_expanded', music)):
    for text, count, want in zip(expansion['texts'], counts, expansion[key], strict=True):
      given = text.replace('<sound>', marked)
      assert prompts.expand(given, audio_flamingo3.FORM, [count]) == unroll(want)
  windows = [w for n in expansion['audio_samples'] for w in audio_flamingo3.window_samples(n)]
  assert [-(-w // 160) for w in windows] == expansion['windows_in_order']
  for row in case.info['strip_prefix']:
    assert audio_flamingo3.clean_transcript(row['decoded']) == row['stripped']
  messages = read_messages(case.info['chat_template'][0]['messages'])
  written = music_flamingo.render(messages).text
  assert written == audio_flamingo3.render(messages).text.replace('<sound>', music)


@each_case('audio_flamingo', where=kind('formatted'))
def test_audio_flamingo_texts(case):
  tokens = case.info['tokens']
  own = {'bos': tokens['bos'], 'eos': tokens['eos']}
  for row in case.info['formatted']:
    item, stage = row['item'], 'train' if row['split'] == 'train' else 'val'
    drawn = np.random.RandomState(row['numpy_seed'])
    several = isinstance(item['name'], list)
    names, questions, outputs = (
      item[key] if several else [item[key]] for key in ('name', 'prompt', 'output')
    )
    made = [
      flamingo_tasks.instruct(
        item['task'], question.lower(), output.lower(), row['augmentation'],
        prefix_prob=row['prefix_prob'], seed=drawn, train=stage == 'train', name=name,
        options=i == len(names) - 1,
      )
      for i, (name, question, output) in enumerate(zip(names, questions, outputs, strict=True))
    ]  # fmt: skip
    if several:
      examples = [(n, m.prompt, m.output) for n, m in zip(names, made, strict=True)]
      found = audio_flamingo.interleaved(
        examples, prefix=made[0].prefix, kind=item['interleaved'], stage=stage, **own
      )
    else:
      found = audio_flamingo.single(
        made[0].prompt, made[0].output, prefix=made[0].prefix, stage=stage, clip=names[0], **own
      )
    assert found.text == row['text']
    assert found.clips == tuple(names)
    learned = ''.join(found.text[a:b] for a, b in found.answers)
    chunks = re.findall(r'<SEP>(.*?<\|endofchunk\|>)', row['text'], re.DOTALL)
    assert learned == ''.join(chunks) + own['eos']
  for row in case.info['inference']:
    item = row['item']
    if 'dialogue' in item:
      turns = [(turn['user'], turn.get('assistant')) for turn in item['dialogue']]
      found = audio_flamingo.dialog(turns, stage='inference', prefix=item['prefix'], **own)
    else:
      found = audio_flamingo.single(item['prompt'], prefix=item['prefix'], stage='inference', **own)
    assert found.text == row['text']
  clap = case.info['clap_config']
  for row in case.info['windows']:
    assert audio_flamingo.windows(
      row['samples'], case.info['sampling_rate'], clap['window_length'], clap['window_overlap'],
      clap['max_num_window'],
    ) == (row['num_windows'], row['full_length'])  # fmt: skip


@each_case('audio_flamingo', where=lambda case: 'special_tokens' in case.config)
def test_audio_flamingo_labels(case):
  special = case.config['special_tokens']
  ids, real = case.inputs['input_ids'], case.inputs['attention_mask'] > 0
  for row, mask, labels in zip(ids, real, case.inputs['labels'], strict=True):
    first = 2 if row[0] == special['bos'] else 1
    found = audio_flamingo.learned(
      row[mask], sep=special['sep'], chunk=special['endofchunk'], eos=special['eos'], skip=first
    )
    np.testing.assert_array_equal(found, labels[mask] != -100)


class Words:
  """The real ranks of $OIDO_QWEN_TIKTOKEN, or those of the words of the recorded prompts, which are
  numbered anew for the library and back for comparisons."""

  def __init__(self):
    path = os.environ.get('OIDO_QWEN_TIKTOKEN')
    lines = pathlib.Path(path or WORDS).read_text().splitlines()
    ranks = sorted((int(r), base64.b64decode(t)) for t, r in map(str.split, lines))
    pairs = byte_pairs.from_ranks({token: i for i, (_, token) in enumerate(ranks)})
    self.tokenizer = qwen_audio.of_ranks(pairs, 'words')
    self._ids = np.array([rank for rank, _ in ranks])

  def real(self, ids):
    """Ids of the whole vocabulary."""
    ids, known = np.asarray(ids), len(self._ids)
    return np.where(ids < known, self._ids[np.minimum(ids, known - 1)], ids - known + RANKS)

  def check(self, row, found):
    """The recorded ids, where the vocabulary has them all: then no merge of theirs is missing."""
    want = [i for i, count in row['ids_run_length'] for _ in range(count)]
    if {i for i in want if i < RANKS} <= set(self._ids.tolist()):
      np.testing.assert_array_equal(self.real(found.ids), want)
      assert len(found) == row.get('length', len(want))
      return 1
    return 0


@pytest.fixture(scope='module')
def words():
  return Words()


@each_case('qwen_audio', where=kind('special_ids'))
def test_qwen_audio(case, words):
  tokenizer = words.tokenizer
  assert words.real(tokenizer.size - 1) == case.info['vocabulary_size'] - 1
  for token, i in case.info['special_ids'].items():
    assert words.real(tokenizer.id(token)) == i
  form = qwen_audio.FORM
  for row in case.info['durations']:
    assert qwen_audio.conv_frames(row['samples']) == row['conv_length']
    assert form.tokens(row['samples']) == row['tokens'] == row['span'] - 2
  checked = 0
  for row in case.info['prompts']:
    counts = [form.tokens(n) for n in row['audio_samples']]
    assert [n + 2 for n in counts] == row['audio_span_tokens']
    prompt = qwen_audio.from_text(row['text'])
    assert len(prompt.clips) == len(counts)
    found = prompts.encode(prompt, tokenizer, form, counts)
    assert int((found.audio >= 0).sum()) == sum(counts)
    checked += words.check(row, found)
    name = row['task']
    if name in qwen_audio.TASKS:
      given = re.search(r'\|>([^<>|]+)<\|answer', row['text'])
      tags = re.findall(r'<\|(.*?)\|>', row['text'])
      own = {'lang': tags[1], 'to': tags[3] if len(tags) > 3 else '', 'style': tags[-1]}
      question = given[1] if given else ''
      made = qwen_audio.task(name, 'a.wav', question=question, **own)
      assert made.text == prompt.text
  chat = case.info['chat']
  user = [{'role': 'user', 'content': chat['first_turn']['items']}]
  history = chat['second_turn']['history']
  again = [
    *user,
    {'role': 'assistant', 'content': history[0][1]},
    {'role': 'user', 'content': chat['second_turn']['query']},
  ]
  samples = chat['audio_samples']
  for key, given in (('first_turn', user), ('second_turn', again), ('small_window', again)):
    window = chat[key].get('max_window_size', qwen_audio.WINDOW)
    messages = qwen_audio.within_window(
      read_messages(given), tokenizer, lambda clip: form.tokens(samples[clip.audio]), window
    )
    prompt = qwen_audio.render(messages)
    assert prompt.text == re.sub('<audio>.*?</audio>', '<audio></audio>', chat[key]['raw_text'])
    counts = [form.tokens(samples[clip]) for clip in prompt.clips]
    checked += words.check(chat[key], prompts.encode(prompt, tokenizer, form, counts))
  assert checked, 'no prompt consists of known words: set OIDO_QWEN_TIKTOKEN to qwen.tiktoken'


@each_case('dynamic_superb', where=kind('decoding'))
def test_dynamic_superb_as_qwen2_audio_is_asked(case):
  from research.text.messages import question

  for row in case.info['cases']:
    clips = [f'{i}.wav' for i in range(row['clips'])]
    assert qwen2_audio.render(question(row['instruction'], *clips)).text == row['text']
