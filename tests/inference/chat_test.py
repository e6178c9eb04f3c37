"""Answers to questions about clips: prompts, batches, draws, streams, files."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import soundfile

from research import models, weights
from research.audio import sources
from research.errors import InputError
from research.inference import chat_files, decoding, generate
from research.inference.chat import Chat, converse
from research.inference.generate_rules import BlockNgrams, MinTokens, RepetitionPenalty
from research.text import prompts
from research.text.messages import question
from research.train import sharding
from research.weights import Pretrained, tables
from tests.contract import jit, wave
from tests.models.subjects.qwen2_audio import SMALL

RATE = 16_000
WINDOW = 10_240
ARGS = SMALL | dict(vocab_size=512, audio_token=300, max_tokens=400)


@pytest.fixture(scope='module')
def pretrained():
  model = models.get('qwen2_audio')(**ARGS)
  rng = np.random.default_rng(0)
  flat = {k: (0.4 * rng.standard_normal(s)).astype(np.float32)
          for k, s in sorted(tables.expected_shapes(model).items())}  # fmt: skip
  # Printable bytes alone.
  head = flat['params/language_model/lm_head/kernel']
  head[:, :33] = head[:, 127:] = 0.0
  return Pretrained('qwen2_audio', model, tables.nest(flat, model), 'made here')


def tokenizer(name='qwen2_audio', places=(300,)):
  return prompts.tokenizer_of(name, 'bytes', places)


def chat(pretrained, **options):
  options = dict(max_new_tokens=6, batch_size=4) | options
  return Chat(pretrained.model, pretrained.variables, tokenizer(), **options)


CLIPS = [wave(0, 5000), wave(1, WINDOW), wave(2, 3000)]


@pytest.mark.slow
def test_answers_are_the_likeliest_tokens_and_alone_as_in_a_batch(pretrained):
  """By the logits of the whole prompt and answer at once; several clips, none, two turns."""
  own = chat(pretrained)
  turns = [
    {'role': 'system', 'content': 'Short.'},
    {'role': 'user', 'content': [{'audio': 0}, {'text': 'One?'}]},
    {'role': 'assistant', 'content': 'No.'},
    {'role': 'user', 'content': [{'text': 'And '}, {'audio': 1}, {'text': ' this?'}]},
  ]
  asked = [
    own.ask(CLIPS[:1], question('What is it?', 0)),
    own.ask(CLIPS[1:], turns),
    own.ask([], question('Nothing?')),
    own.ask(CLIPS[2:], question('A much longer question about it, is it not?', 0)),
  ]
  texts = own.answers(asked)
  assert len(set(texts)) > 1 and all(texts)
  assert own(CLIPS[:1], question('What is it?', 0)) == texts[0]
  assert [own.answers([each])[0] for each in asked[1:]] == texts[1:]
  # All at once, without a cache.
  read = own.tokenizer
  rows = [[*each.ids, *read.encode(text)] for each, text in zip(asked, texts, strict=True)]
  tokens = np.full((4, max(map(len, rows))), -1, np.int32)
  audio = np.zeros((4, 2, WINDOW), np.float32)
  lengths = np.zeros((4, 2), int)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
    for j, clip in enumerate(asked[i].clips):
      audio[i, j, : len(clip)], lengths[i, j] = clip, len(clip)
  mask = np.arange(WINDOW) < lengths[..., None]
  batch = {'audio': audio, 'audio_mask': mask, 'tokens': tokens}
  pretrained.model.check_prompts(batch)
  out = jit(lambda v: pretrained.model.apply(v, batch)['logits'])(pretrained.variables)
  for i, (each, row) in enumerate(zip(asked, rows, strict=True)):
    best = np.asarray(out)[i, len(each.ids) - 1 : len(row) - 1].argmax(axis=-1)
    assert best.tolist() == row[len(each.ids) :]


@pytest.mark.slow
def test_tokens_on_a_mesh(pretrained):
  """Weights divided between eight devices, rows too: the tokens of one device."""
  one = chat(pretrained)
  asked = [
    one.ask([clip], question(f'What is it, {i}?', 0)) for i, clip in enumerate(CLIPS + CLIPS[:1])
  ]
  rows, how = one._begun(asked, [0] * 4)
  want = generate.generate(one.model, one._variables, rows, one.settings, **how)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  spread = jax.device_put(one._variables, sharding.shardings(one._variables, mesh))
  assert any(not x.is_fully_replicated for x in jax.tree.leaves(spread))
  with jax.set_mesh(mesh):
    out = generate.generate(one.model, spread, rows, one.settings, **how)
  assert out.best() == want.best() and any(out.best())
  np.testing.assert_allclose(out.sums, want.sums, rtol=1e-4)


@pytest.mark.slow
def test_draws_depend_on_seed_and_question_alone(pretrained):
  own = chat(pretrained, do_sample=True, temperature=2.0, top_k=90, top_p=0.99, seed=3)
  one, two = (own.ask([clip], question('What is it?', 0)) for clip in (CLIPS[0], CLIPS[2]))
  texts = own.answers([one, two, one], [7, 8, 9])
  assert own.answers([two], [8]) == texts[1:2] and own.answers([one], [7]) == texts[:1]
  assert texts[0] != texts[2]
  # As it comes, piece by piece.
  pieces = []
  whole = own.answer([CLIPS[0]], question('What is it?', 0), pieces.append)
  assert ''.join(pieces) == whole == own.answers([one])[0] and len(pieces) > 1
  other = dataclasses.replace(own.decoding, seed=4)
  again = chat(pretrained, **dataclasses.asdict(other))
  assert again.answers([one], [7]) != texts[:1]


def test_settings_of_transformers():
  found = decoding.decoding(
    dict(do_sample=True, top_k=20), dict(top_k=0, top_p=0.9, repetition_penalty=1.1),
    dict(no_repeat_ngram_size=3, min_new_tokens=2, temperature=1),
  ).settings((5, 6))  # fmt: skip
  assert (found.sample, found.top_k, found.top_p, found.stop) == (True, None, 0.9, (5, 6))
  assert found.rules == (RepetitionPenalty(1.1), BlockNgrams(3), MinTokens(2, (5, 6)))
  beams = decoding.Decoding(num_beams=3, length_penalty=0.5).settings((1,))
  assert (beams.beams, beams.style, beams.length_penalty) == (3, 'transformers', 0.5)
  for given, words in (
    (dict(top_q=1), "'top_q'"),
    (dict(max_new_tokens='9'), 'a whole number'),
    (dict(do_sample=True, num_beams=2), 'draws nothing'),
    (dict(temperature=0.0), 'more than 0'),
    (dict(top_p=1.5), 'up to 1'),
  ):
    with pytest.raises(InputError, match=words):
      decoding.decoding(given)


def test_long_clips_and_mistakes(pretrained):
  own = chat(pretrained)
  # Two windows and a rest that is too short to be heard.
  asked = own.ask([wave(0, 2 * WINDOW + 200)], question('What?', 0))
  assert [len(clip) for clip in asked.clips] == [WINDOW, WINDOW]
  assert 'Audio 2: ' in own.tokenizer.decode(asked.ids)
  with pytest.raises(InputError, match='too short'):
    own.ask([np.zeros(100, np.float32)], question('What?', 0))
  say = lambda role, text='x': {'role': role, 'content': text}  # noqa: E731
  for clips, messages, words in (
    (CLIPS[:1], question('What?', 0, 1), 'have 2 clips and 1'),
    (CLIPS[:1], question('What is <|AUDIO|>?', 0), '2 placeholders and there are 1 clips'),
    ([], [say('user'), say('assistant')], 'end with one of the user'),
    ([], [say('robot')], "'robot'"),
    ([], question('x' * 500), 'has 400 positions'),
  ):
    with pytest.raises(InputError, match=words):
      own.ask(clips, messages)
  other = models.get('audio_flamingo3')(
    **SMALL | dict(vocab_size=512, audio_token=300), max_windows=2
  )
  flamingo = Chat(other, {}, tokenizer('audio_flamingo3'))
  assert flamingo.decoding.do_sample and flamingo.decoding.top_k == 20
  assert len(flamingo.task('transcribe', wave(0, 2 * WINDOW)).clips) == 1
  assert flamingo.cleaner('transcribe')("The spoken content of the audio is 'hi'.") == 'hi'
  with pytest.raises(InputError, match=r'1\.9 s and audio_flamingo3 hears 1\.28 s'):
    flamingo.ask([wave(0, 3 * WINDOW)], question('What?', 0))
  fewer = pretrained.model.clone(vocab_size=299, audio_token=298)
  for args, words in (
    (dict(tokenizer=tokenizer(places=(301,))), 'is id 301'),
    (
      dict(tokenizer=tokenizer(), model=fewer),
      'take the token',
    ),
    (dict(tokenizer=tokenizer('audio_flamingo3')), "no token '<|AUDIO|>'"),
    (dict(tokenizer=tokenizer(), base=True, prompt='audio_flamingo3'), 'no form of its own'),
    (
      dict(tokenizer=tokenizer(), model=models.get('audio_mae')(size='tiny')),
      'answers no questions',
    ),
  ):
    args = {'model': pretrained.model, **args}
    model, read = args.pop('model'), args.pop('tokenizer')
    with pytest.raises(InputError, match=words.replace('|', r'\|').replace('<', '<')):
      Chat(model, {}, read, **args)


def test_qwen_audio_is_asked_by_tags():
  places = (300, 301, 302)
  args = SMALL | dict(vocab_size=512, audio_token=300, audio_start=301, head_dim=8)
  model = models.get('qwen_audio')(**args)
  own = Chat(model, {}, tokenizer('qwen_audio', places), do_sample=False)
  asked = own.task('caption', CLIPS[0], style='caption_clotho')
  assert sum(i in places for i in asked.ids) == model.placeholders(len(CLIPS[0]))
  assert own.task_settings('caption')['max_new_tokens'] == 30
  asked = own.ask(CLIPS[:2], question('Which?', 0, 1))
  wanted = sum(model.placeholders(len(clip)) for clip in CLIPS[:2])
  assert sum(i in places for i in asked.ids) == wanted
  with pytest.raises(InputError, match='needs lang='):
    own.task('asr', CLIPS[0])


@pytest.fixture(scope='module')
def folder(pretrained, tmp_path_factory):
  """Weights with their tokenizer and how to decode, clips, and questions."""
  home = tmp_path_factory.mktemp('chat')
  (home / 'made').mkdir()
  (home / 'clips').mkdir()
  tokenizer().library.save(str(home / 'made' / 'tokenizer.json'))
  said = dict(max_new_tokens=5, temperature=None, transformers_version='5.23')
  (home / 'made' / 'generation_config.json').write_text(json.dumps(said))
  weights.save(dataclasses.replace(pretrained, tokenizer=str(home / 'made')), home / 'model')
  for i, clip in enumerate(CLIPS):
    soundfile.write(home / 'clips' / f'{i}.wav', clip, RATE)
  clip = lambda i: {'audio': f'clips/{i}.wav'}  # noqa: E731
  rows = [
    {'id': 'one', 'messages': [
      {'role': 'user', 'content': [{'audio_path': 'clips/0.wav'}, {'text': 'What is it?'}]},
      {'role': 'assistant', 'content': 'A reference.'}]},
    {'id': 'two', 'messages': [
      {'role': 'user', 'content': [clip(2), {'text': 'Or '}, clip(1)]}]},
    {'id': 'bad', 'messages': [
      {'role': 'user', 'content': [clip(9), {'text': 'Gone?'}]}]},
  ]  # fmt: skip
  (home / 'questions.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  return home


@pytest.mark.slow
def test_weights_answer_with_the_tokenizer_beside_them(folder, pretrained):
  loaded = weights.load(folder / 'model')
  found = loaded.answer(str(folder / 'clips/0.wav'), 'What is it?')
  own = chat(pretrained, max_new_tokens=5)
  (clip,), talk = own.heard(str(folder / 'clips/0.wav'), 'What is it?')
  assert found == own([clip], talk)
  talk = [
    {'role': 'user', 'content': [{'audio': str(folder / 'clips/0.wav')}, {'text': 'What is it?'}]}
  ]
  assert loaded.answer(None, talk) == found
  assert loaded.answer(clip, 'What is it?', RATE, max_new_tokens=2) == found[:2]


@pytest.mark.slow
def test_questions_of_a_file_are_a_job(folder, pretrained, tmp_path):
  own = chat(pretrained)
  source = sources.open_source(str(folder / 'questions.jsonl'))
  rows = chat_files.answer_source(own, source, tmp_path / 'a.jsonl')
  written = [json.loads(line) for line in (tmp_path / 'a.jsonl').read_text().splitlines()]
  assert written == rows and [row['id'] for row in rows] == ['one', 'two', 'bad']
  assert 'error' in rows[2] and [row['question'] for row in rows] == ['What is it?', 'Or ', 'Gone?']
  clips = [soundfile.read(folder / f'clips/{i}.wav', dtype='float32')[0] for i in (0, 2, 1)]
  assert rows[0]['answer'] == own(clips[:1], question('What is it?', 0))
  both = [{'role': 'user', 'content': [{'audio': 0}, {'text': 'Or '}, {'audio': 1}]}]
  assert rows[1]['answer'] == own(clips[1:], both)
  # The first brings the right answer along.
  assert rows[0]['reference'] == 'A reference.' and 'reference' not in rows[1]
  assert chat_files.scores(rows) == {'questions': (0.0, 1)}
  right = [{**row, 'task': 'a', 'answer': row['reference'].upper()} for row in rows[:1]]
  assert chat_files.scores([*rows, *right])['all'] == (0.5, 2)
  # One question about every clip of a source.
  clips = sources.open_source(str(folder / 'clips'))
  what = chat_files.What('What is it?')
  chat_files.answer_source(own, clips, tmp_path / 'b.tsv', what)
  lines = (tmp_path / 'b.tsv').read_text().splitlines()
  assert len(lines) == 4 and lines[1] == f'0.wav\t{rows[0]["answer"]}'
  for bad, words in (
    (lambda: chat_files.answer_source(own, clips), 'Nothing is asked'),
    (lambda: chat_files.answer_source(own, source, tmp_path / 'a.jsonl'), 'overwrite|exists|there'),
    (lambda: chat_files.answer_source(own, source, tmp_path / 'a.wav'), 'jsonl'),
  ):
    with pytest.raises(InputError, match=words):
      bad()


@pytest.mark.slow
def test_a_conversation(folder, pretrained):
  own = chat(pretrained)
  said = []
  lines = [
    f'/clip {folder / "clips/0.wav"}', 'What is it?', '', 'And now?', '/what', '/clip nowhere.wav',
    '/new', 'What is it?', '/quit', 'never',
  ]  # fmt: skip
  converse(own, lines, said.append)
  text = ''.join(said)
  (clip,), talk = own.heard(str(folder / 'clips/0.wav'), 'What is it?')
  first = own([clip], talk)
  turns = [*talk, {'role': 'assistant', 'content': first}, {'role': 'user', 'content': 'And now?'}]
  second, alone = own([clip], turns), own([], question('What is it?'))
  assert text.startswith(f'0.3 s\n{first}\n{second}\nerror: /what is no command')
  assert 'nowhere.wav' in text and text.endswith(f'\n{alone}\n') and 'never' not in text
