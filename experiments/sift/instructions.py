"""SIFT-LLM (arXiv 2504.09081, table 12): pre-training, then instruction tuning.

python -m launch.train --config=experiments/sift/instructions.py:pretrain --workdir=runs/sift-pt \
  --config.data.source='{"name": "messages", "args": {"path": "mix/", "audio": "corpora/"}}' \
  --config.init.parts.audio_tower.path=hf://openai/whisper-medium \
  --config.init.parts.language_model.path=QWEN --config.data.fields.tokens.args.tokenizer=QWEN
python -m launch.train --config=experiments/sift/instructions.py --workdir=runs/sift \
  --config.init.path=runs/sift-pt --config.data.source=… \
  --config.data.fields.tokens.args.tokenizer=QWEN

QWEN is a folder of Qwen2.5-7B-Instruct with its tokenizer. Whisper-medium's encoder is frozen; one
linear connector and adapters of rank 16 (alpha 8) on queries and values of Qwen2.5 learn:
8,719,872 parameters, the paper's 8.7 M. 200,000 steps at a peak of 1e-4; pre-training in batches of
256 over the tasks of table 11, instruction tuning in batches of 128 on the closed- and open-ended
parts of SIFT-50M, from the checkpoint at 50,000 steps (32 A100 of 40 GB, three days). Optimiser and
decay are not published: AdamW and a cosine are ours. `data.weights` and `mix` draw the tasks of
pre-training (column `task`) by the paper's weights, those that are answered in words. The paper:
EvalSIFT closed 46.1 %, open 7.8, AIR-Bench speech 7.3; nothing was run at this size here. Its
second model, which speaks by units of HuBERT, is not built. `:debug` is a small model of bytes on
the built-in corpus.
"""

import ml_collections

# Table 11, without what is answered in speech (speech synthesis, 0.30).
MIX = dict(
  speech_recognition=0.35,
  emotion_recognition=0.05,
  speaker_attributed_recognition=0.05,
  intent_and_slots=0.05,
  speech_translation=0.20,
)


def get_config(arg=''):
  if arg not in ('', 'pretrain', 'debug'):
    raise ValueError(
      f"instructions.py has no variant {arg!r}: give nothing, 'pretrain' or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 200_000

  config.data = dict(
    source='sift',
    split='train',
    fields=dict(tokens=dict(name='messages', args=dict(prompt='sift_llm', tokenizer=''))),
    sample_rate=16_000,
    seconds=30.0,
    batch_size=128,
    num_threads=16,
  )
  config.model = dict(
    name='sift_llm',
    args=dict(
      size='medium_7b', freeze=('audio_tower',), dtype='bfloat16', scan_layers=True, remat=True
    ),
  )
  config.adapters = dict(
    rank=16,
    alpha=8.0,
    targets=r'language_model/.*/attn/(query|value)/kernel$',
    trained=r'^projector/',
  )
  config.init = dict(path='')
  config.objective = dict(name='answer_tokens')
  config.optim = dict(
    name='adamw',
    lr=1e-4,
    b1=0.9,
    b2=0.999,
    weight_decay=0.0,
    clip_norm=1.0,
    schedule=dict(name='cosine', warmup_steps=500),
  )
  config.evals = dict(valid=dict(name='validation', every=5000, data=dict(split='dev')))
  config.log_every = 50
  config.checkpoint = dict(every=5000, keep=2)

  if arg == 'pretrain':
    config.data.update(batch_size=256, weights='balanced')
    config.data.fields.tokens.args.mix = MIX
    config.optim.schedule.warmup_steps = 1000
    config.init = dict(
      parts=dict(
        audio_tower=dict(path='', part='encoder'),
        language_model=dict(path=''),
      )
    )
  if arg == 'debug':
    config.total_steps = 4
    config.data.update(source='builtin', where=dict(kind='digit'), seconds=2.0, batch_size=4)
    config.data.num_threads = 2
    config.data.fields.tokens.args = dict(prompt='sift_llm', ask='What is said?', answer='label')
    config.model.args = dict(size='tiny', audio_depth=1, text_depth=1, freeze=('audio_tower',))
    config.adapters.rank = 2
    config.init = None
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'))
    config.log_every = 1
    config.checkpoint.every = 2
  return config
