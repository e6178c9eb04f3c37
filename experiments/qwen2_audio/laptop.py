"""A small audio language model on a laptop: Whisper's tiny.en encoder hears, a small language model
answers questions about digits, their speakers, keywords and sounds.

export OIDO_DATA=/data   # contains the folders speech_commands_v2_test, esc10 and fsdd
ask() { python -m launch.make_instructions --out=runs/asked/$1 --source=$2 --what=$3 "${@:4}" \
  --phrasings=experiments/qwen2_audio/phrasings.json; }
ask digits $OIDO_DATA/fsdd digit
ask speakers $OIDO_DATA/fsdd speaker --column=speaker --questions=class,yes_no
ask sounds $OIDO_DATA/esc10 sound --per_clip=2
ask words '{"name": "speech_commands_v2_test", "args": {"where": {"kind": "keyword"}}}' word
python -m launch.train --config=experiments/qwen2_audio/laptop.py --workdir=runs/ears \
  --config.init.parts.audio_tower.path=hf://openai/whisper-tiny.en
python -m launch.chat --model=runs/ears --input=dog.wav --question='What do you hear?'
asked='{"name": "messages", "args": {"path": "runs/asked/digits", "audio": "/data/fsdd"}}'
python -m launch.chat --model=runs/ears --input="$asked" --split=test --out=answers.jsonl

The phrasings always say what is asked for: a clip of FSDD has a digit and a speaker. The encoder
stays as it is; its windows are cut to 2.5 seconds. Projector and language model begin
from nothing and learn together. Tokens are bytes; a tokenizer of one's own goes into
`--config.data.fields.tokens.args.tokenizer`, with `vocab_size` and the id of its <|AUDIO|> as
`audio_token`. `:projector` is the first of two stages where a language model is
there already (`--config.init.parts.language_model.path=RUN`, `part=language_model`): the projector
learns alone, and a second run starts from it by `--config.init.path`. Scores are in
experiments/notes/audio_language.md. `:debug` runs on the built-in corpus.
"""

import os

import ml_collections

# {folder of questions: data set of its clips}
ASKED = {
  'digits': 'fsdd',
  'speakers': 'fsdd',
  'sounds': 'esc10',
  'words': 'speech_commands_v2_test',
}


def get_config(arg=''):
  if arg not in ('', 'projector', 'debug'):
    raise ValueError(f"laptop.py has no variant {arg!r}: give nothing, 'projector' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1500

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=[
      dict(name='messages', args=dict(path=f'runs/asked/{name}', audio=f'{root}/{folder}'))
      for name, folder in ASKED.items()
    ],
    split='train',
    fields=dict(tokens=dict(name='messages', args=dict(prompt='qwen2_audio'))),
    sample_rate=16_000,
    seconds=5.0,
    buckets=2,
    batch_size=16,
  )
  config.model = dict(
    name='qwen2_audio',
    args=dict(
      size='tiny',
      audio_width=384,
      audio_depth=4,
      audio_heads=6,
      audio_hidden=1536,
      n_audio_ctx=125,
      max_windows=2,
      text_width=192,
      text_depth=4,
      text_heads=6,
      text_kv_heads=6,
      text_hidden=512,
      freeze=('audio_tower',),
    ),
  )
  config.init = dict(parts=dict(audio_tower=dict(path='', part='encoder')))
  config.objective = dict(name='answer_tokens')
  config.optim = dict(
    name='adamw',
    lr=1e-3,
    b1=0.9,
    b2=0.98,
    weight_decay=0.01,
    clip_norm=1.0,
    schedule=dict(name='cosine', warmup_steps=100),
  )
  config.evals = dict()
  config.log_every = 20
  config.checkpoint = dict(every=300, keep=2)

  if arg == 'projector':
    config.model.args.freeze = ('audio_tower', 'language_model')
    config.init.parts.language_model = dict(path='', part='language_model')
    config.total_steps = 500
  if arg == 'debug':
    config.total_steps = 3
    with config.ignore_type():  # a name instead of a list
      config.data.source = 'builtin'
    config.data.update(where=dict(kind='digit'), seconds=2.0, batch_size=4, buckets=None)
    config.data.fields.tokens.args.update(ask='What is said?', answer='label')
    config.model.args.update(audio_width=16, audio_depth=1, audio_heads=2, audio_hidden=32)
    config.model.args.update(text_width=16, text_depth=1, text_heads=2, text_kv_heads=2)
    config.model.args.update(text_hidden=32, n_audio_ctx=50)
    config.init = None
    config.optim.schedule.warmup_steps = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config
