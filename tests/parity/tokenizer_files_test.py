"""Folders that launch.convert --reverse writes, as transformers opens them: weights, front-end and
tokenizer."""

import numpy as np
import pytest

from research import models, weights
from research.audio.decode import decode
from research.audio.example import Example
from research.inference.classify import embed_texts
from research.text.subwords import read_tokenizer
from research.weights import Pretrained, conversion, tokenizer_files
from research.weights.write import write_release
from tests.launch import runner
from tests.launch.transcribe_whisper_test import FILE, SAID
from tests.parity.whisper_vocabulary import WEIGHTS
from tests.text.vocabularies import write_roberta
from tests.weights.toy import filled

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')


def reversed_to(release, source, out, *more):
  done = runner.run(
    'launch.convert', f'--release={release}', f'--source={source}', f'--out={out}', '--reverse',
    *more,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS.is_dir() and FILE.is_file()), reason=f'no {WEIGHTS} or no {FILE}')
def test_whisper(tmp_path):
  """tiny.en of openai, with gpt2.tiktoken: every token, and what transformers writes of speech."""
  assert 'left out' not in reversed_to('whisper_hf', WEIGHTS, tmp_path / 'hf')
  names = {p.name for p in (tmp_path / 'hf').iterdir()}
  assert {'tokenizer.json', 'vocab.json', 'merges.txt', 'tokenizer_config.json'} <= names
  ours = weights.load(WEIGHTS)
  own = ours._reader
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'hf')
  assert type(theirs).__name__.startswith('WhisperTokenizer')
  for token, number in own.special_tokens.items():
    assert theirs.convert_tokens_to_ids(token) == number, token
  for text in (' Hello, world!', " it's 12 o'clock …", ' 你好 ♪♪', '\n\ttabs'):
    ids = theirs(text, add_special_tokens=False)['input_ids']
    assert ids == own.encode(text)
    assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
  processor = transformers.AutoProcessor.from_pretrained(tmp_path / 'hf')
  model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / 'hf')
  audio = decode(Example('clip', {}, path=str(FILE)), sample_rate=16_000)
  given = processor(audio, sampling_rate=16_000, return_tensors='pt')
  with torch.no_grad():
    ids = model.generate(given.input_features)
  assert processor.batch_decode(ids, skip_special_tokens=True)[0].strip() == SAID
  assert ours.transcribe(audio, 16_000, temperature=0.0).text == SAID


@pytest.mark.slow
def test_whisper_of_99_languages(tmp_path):
  """Single bytes, without weights that were trained: languages and tasks have their numbers."""
  model = models.get('whisper')(
    size='nano', width=16, depth=1, decoder_depth=1, heads=1, decoder_heads=1, n_audio_ctx=32,
    n_text_ctx=16, n_vocab=51865, alignment_heads=((0, 0),),
  )  # fmt: skip
  folder = tmp_path / 'ours'
  weights.save(Pretrained('whisper', model, filled(model), 'made here'), folder)
  said = reversed_to('whisper_hf', folder, tmp_path / 'none')
  assert 'left out: the tokenizer' in said
  arrays, files, _ = conversion.revert_files('whisper_hf', model, filled(model))
  write_release(tmp_path / 'hf', 'whisper_hf', arrays, files)
  assert tokenizer_files.write('whisper_hf', model, 'bytes', tmp_path / 'hf') == ''
  config = transformers.GenerationConfig.from_pretrained(tmp_path / 'hf')
  assert (config.lang_to_id['<|en|>'], config.task_to_id['transcribe']) == (50259, 50359)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'hf')
  assert theirs.convert_tokens_to_ids('<|notimestamps|>') == 50363
  assert theirs.decode(theirs(' ab', add_special_tokens=False)['input_ids']) == ' ab'
  # Again, from the folder: what is there is copied.
  again = weights.load(tmp_path / 'hf')
  weights.save(again, tmp_path / 'again')
  assert 'left out' not in reversed_to('whisper_hf', tmp_path / 'again', tmp_path / 'hf2')
  same = ('tokenizer.json', 'vocab.json', 'merges.txt')
  for name in same:
    assert (tmp_path / 'hf2' / name).read_bytes() == (tmp_path / 'hf' / name).read_bytes(), name


@pytest.mark.slow
def test_clap(tmp_path):
  """vocab.json and merges.txt of a RoBERTa beside the weights: ClapProcessor opens the folder."""
  model = models.get('clap')(
    size='laion', audio_width=8, depths=(1, 1, 1, 1), audio_heads=(1, 2, 2, 4), dim=8,
    text_width=16, text_depth=1, text_heads=2, text_hidden=16, vocabulary=263, positions=20,
    max_tokens=12, transforms=False, int16=False,
  )  # fmt: skip
  # `save` keeps the tokenizer.
  folder, tokenizer = tmp_path / 'ours', str(write_roberta(tmp_path / 'roberta'))
  weights.save(Pretrained('clap', model, filled(model), 'made here', tokenizer), folder)
  assert 'left out' not in reversed_to('clap_hf', folder, tmp_path / 'hf')
  theirs = transformers.ClapModel.from_pretrained(tmp_path / 'hf').eval()
  processor = transformers.ClapProcessor.from_pretrained(tmp_path / 'hf')
  audio = (0.1 * np.random.default_rng(0).standard_normal(48_000)).astype(np.float32)
  text = ['hello', 'hello hello']
  given = processor(text=text, audio=audio, sampling_rate=48_000, return_tensors='pt', padding=True)
  with torch.no_grad():
    want = theirs.get_text_features(
      input_ids=given['input_ids'], attention_mask=given['attention_mask']
    )
  want = want if isinstance(want, torch.Tensor) else want.pooler_output
  want = torch.nn.functional.normalize(want, dim=-1).numpy()
  got = embed_texts(weights.load(folder), read_tokenizer(folder), text)
  np.testing.assert_allclose(got, want, atol=1e-4)
