import json

import numpy as np
import pytest

from research.errors import InputError
from research.text import prompts, subwords
from research.text.messages import Clip, question, read_messages
from research.text.prompts import (
  audio_flamingo,
  audio_flamingo2,
  audio_flamingo3,
  music_flamingo,
  qwen2_audio,
  qwen_audio,
)

CHAT = (
  {'role': 'user', 'content': [{'audio_path': 'a.wav'}, {'text': 'What is it?'}]},
  {'role': 'assistant', 'content': 'A dög.'},
  {'role': 'user', 'content': [{'audio': 'b.wav'}, {'text': 'And this?'}]},
  {'role': 'assistant', 'content': [{'text': '\nA cat.'}]},
)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  """Bytes and the special tokens of all models."""
  import tokenizers

  library = subwords.read_tokenizer(subwords.BYTES).library
  names = ['<|im_start|>', '<|im_end|>', '<|endoftext|>', '<|AUDIO|>', '<|audio_bos|>']
  names += ['<|audio_eos|>', '<sound>', '<|sound_bos|>', '<|sound_eos|>', '</s>', *'\n']
  names += [qwen_audio.BEGIN, qwen_audio.FINISH, qwen_audio.PAD]
  library.add_special_tokens([tokenizers.AddedToken(n, normalized=False) for n in names])
  folder = tmp_path_factory.mktemp('tokenizer')
  library.save(str(folder / 'tokenizer.json'))
  return audio_flamingo2.with_tokens(subwords.read_tokenizer(folder), '<PAD>')


def read(encoded, tokenizer):
  """(text of the ids, what of it is learned)."""
  ids, learn = encoded.ids, encoded.learn
  return tokenizer.decode(ids, special=True), tokenizer.decode(ids[learn], special=True)


@pytest.mark.parametrize(
  'module, text, answers',
  [
    (qwen2_audio, '<|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>\nWhat', 2),
    (qwen_audio, '<audio>[[[AUDIO:modality]]][[[AUDIO:modality]]]</audio>\nWhat', 2),
    (audio_flamingo3, 'user\n<sound><sound>What', 2),
    (music_flamingo, '<|sound_bos|><sound><sound><|sound_eos|>What', 2),
  ],
)
def test_only_answers_are_learned(module, text, answers, tokenizer):
  prompt = module.render(read_messages(CHAT), answer=False)
  assert prompt.clips == ('a.wav', 'b.wav')
  found = prompts.encode(prompt, tokenizer, module.FORM, [2, 3])
  written, learned = read(found, tokenizer)
  assert text in written
  assert learned == 'A dög.<|im_end|>\nA cat.<|im_end|>'
  assert [int((found.audio == i).sum()) for i in (0, 1)] == [2, 3]
  assert not found.learn[found.audio >= 0].any()
  opened = module.render(read_messages(CHAT[:3]))
  assert opened.text.endswith('<|im_start|>assistant\n')
  with pytest.raises(InputError, match='placeholders'):
    prompts.encode(prompt, tokenizer, module.FORM, [2])


def test_flamingo_learns_what_its_training_loop_learns(tokenizer):
  sep, chunk = tokenizer.id('<SEP>'), tokenizer.id('<|endofchunk|>')
  talk = [dict(CHAT[0]), CHAT[1], {'role': 'user', 'content': 'Sure?'}, CHAT[3]]
  for module, messages, first in (
    (audio_flamingo, CHAT, '</s>Here are similar examples. <audio>what is it?\nAnswer:<SEP>a dög.'),
    (audio_flamingo, CHAT[:2], '</s><audio>what is it?\nAnswer:<SEP>a dög.<|endofchunk|></s>'),
    (audio_flamingo, talk, '</s>The task is dialog. <audio>user: What is it? \nassistant: <SEP>A'),
    (audio_flamingo2, CHAT[:2], '<audio>what is it?<SEP>a dög.<|endofchunk|><|endoftext|>'),
  ):
    prompt = module.render(read_messages(messages), answer=False)
    found = prompts.encode(prompt, tokenizer, module.FORM)
    assert read(found, tokenizer)[0].startswith(first)
    eos = tokenizer.id(audio_flamingo2.EOS if module is audio_flamingo2 else audio_flamingo.EOS)
    want = audio_flamingo.learned(found.ids, sep=sep, chunk=chunk, eos=eos)
    np.testing.assert_array_equal(found.learn, want)
    assert want.any()
  asked = question('Is it LOUD?', 'a.wav')
  assert audio_flamingo.render(asked).text == '</s> <audio>is it loud?\nanswer:<SEP>'
  assert audio_flamingo2.render(asked).text == '<audio>is it loud?<SEP>'
  assert audio_flamingo2.clean('x<SEP>Yes.<|endofchunk|><|endoftext|>') == 'Yes.'


def test_clips_of_a_turn_share_a_placeholder(tokenizer):
  prompt = audio_flamingo3.render(question('Compare.', 'a', 'b'))
  assert prompt.clips == ('a', 'b') and prompt.places == (0, 0)
  counts = prompts.per_placeholder(prompt.places, [2, 3])
  found = prompts.encode(prompt, tokenizer, audio_flamingo3.FORM, counts)
  assert int((found.audio == 0).sum()) == 5
  prompt = qwen2_audio.render(question('Compare.', 'a', 'b'))
  assert prompts.per_placeholder(prompt.places, [2, 3]) == [2, 3]


def test_base_models_and_tasks(tokenizer):
  found = qwen2_audio.base(question('Generate the caption in English:', 'a.wav'))
  assert found.text == '<|audio_bos|><|AUDIO|><|audio_eos|>Generate the caption in English:'
  learned = qwen2_audio.base(read_messages(CHAT[:2]), answer=False)
  assert learned.text[slice(*learned.answers[0])] == 'A dög.<|endoftext|>'
  with pytest.raises(InputError, match='one instruction'):
    qwen2_audio.base(read_messages(CHAT))
  with pytest.raises(InputError, match='needs to='):
    qwen_audio.task('s2tt', 'a.wav', lang='en')
  # The tag of the README's example, which no vocabulary has.
  with pytest.raises(InputError, match='caption_clotho'):
    qwen_audio.task('caption', 'a.wav', style='caption_cloth')
  assert qwen_audio.task('scene', 'a.wav', answer='park').text.endswith(
    '<|scene|>park<|endoftext|>'
  )


def test_pairs_of_qwen_split_as_qwen_does(tmp_path):
  from research.text import byte_pairs, qwen

  ids = {character: byte for byte, character in byte_pairs.alphabet().items()}
  ids |= {'12': 256, 'ab': 257}
  (tmp_path / 'vocab.json').write_text(json.dumps(ids))
  (tmp_path / 'merges.txt').write_text('1 2\na b\n')
  added = {'258': {'content': '<|im_end|>'}, '259': {'content': '<|AUDIO|>'}}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'added_tokens_decoder': added}))
  found = qwen.read_tokenizer(tmp_path)
  # Digits stand alone, though the pair would merge them.
  assert found.encode('ab12<|AUDIO|>').tolist() == [257, ord('1'), ord('2'), 259]
  assert found.encode('e\u0301').tolist() == list('é'.encode())
  (tmp_path / 'tokenizer_config.json').write_text(
    json.dumps({'added_tokens_decoder': {'300': {'content': '<|AUDIO|>'}}})
  )
  with pytest.raises(InputError, match='should have id 300'):
    qwen.read_tokenizer(tmp_path)


def test_windows_and_short_clips():
  assert [audio_flamingo2.windows(n) for n in (1, 160_000, 160_001, 10**7)] == [1, 1, 2, 30]
  assert music_flamingo.FORM.windows(10**9) == 40
  assert music_flamingo.FORM.tokens(10**9) == 30_000
  for module, longest in ((qwen2_audio, 320), (qwen_audio, 479), (audio_flamingo3, 320)):
    with pytest.raises(InputError, match=f'a.wav has {longest} samples at 16000 Hz'):
      module.FORM.clip_tokens(longest, 'a.wav')
    assert module.FORM.clip_tokens(longest + 1) == 1


def test_messages_of_all_forms_are_read():
  parts = [
    {'audio_path': 'a'},
    {'audio': 'b'},
    {'type': 'audio', 'audio_url': 'c'},
    {'type': 'audio', 'path': 'd'},
    {'type': 'text', 'text': 'x'},
    {'text': 'y'},
  ]
  (found,) = read_messages(json.loads(json.dumps([{'role': 'user', 'content': parts}])))
  assert [clip.audio for clip in found.clips] == ['a', 'b', 'c', 'd'] and found.text == 'xy'
  assert read_messages([found]) == (found,)
  assert question('z', 'a').__getitem__(0).parts == (Clip('a'), 'z')
  for wrong, sentence in (
    ([], 'list of messages'),
    ('hello', 'list of messages'),
    ([{'role': 'usr', 'content': 'x'}], "Did you mean 'user'"),
    ([{'role': 'user'}], 'expected role and content'),
    ([{'role': 'user', 'content': [{'image': 'x'}]}], 'a part must be'),
    ([{'role': 'user', 'content': [{'text': 'x', 'audio': 'y'}]}], 'a part must be'),
    ([{'role': 'user', 'content': {'text': 'x'}}], 'content must be'),
  ):
    with pytest.raises(InputError, match=sentence):
      read_messages(wrong, 'line 3')
  with pytest.raises(InputError, match='take turns'):
    audio_flamingo.render(read_messages([CHAT[1]]))
  with pytest.raises(InputError, match='one clip'):
    audio_flamingo2.render(question('x', 'a', 'b'))
  spoken = [CHAT[0], {'role': 'assistant', 'content': [{'audio': 'c.wav'}]}]
  for module in (qwen2_audio, qwen_audio, audio_flamingo3):
    with pytest.raises(InputError, match='this one holds audio'):
      module.render(read_messages(spoken))
  with pytest.raises(InputError, match="Did you mean 'qwen2_audio'"):
    prompts.get('qwen2audio')
