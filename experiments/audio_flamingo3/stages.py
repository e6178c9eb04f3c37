"""Audio Flamingo 3 in its five published stages (arXiv 2507.08128, table 7).

python -m launch.train --config=experiments/audio_flamingo3/stages.py:stage1 --workdir=runs/af3-1 \
  --config.data.source='{"name": "messages", "args": {"path": "asked/", "audio": "clips/"}}' \
  --config.init.parts.audio_tower.path=AF_WHISPER --config.init.parts.language_model.path=QWEN2.5 \
  --config.data.fields.tokens.args.tokenizer=/path/to/audio-flamingo-3-hf
python -m launch.train --config=experiments/audio_flamingo3/stages.py:stage2 --workdir=runs/af3-2 \
  --config.init.path=runs/af3-1 --config.data.source=…

| stage | learns | seconds of a clip | clips a step |
|---|---|---|---|
| `:stage1` | the adaptor | 30 | 8192 |
| `:stage2` | encoder and adaptor | 30 | 4096 |
| `:stage3` | everything, which the default is too | 150 | 2048 |
| `:stage35` | adapters (LoRA) on the language model alone | 600 | 2048 |
| `:stage4` | everything, on dialogues | 600 | 2048 |

Batches are the paper's, of 128 devices (per device x accumulation x 128), with its rates and
epochs; cosine, 3 % of warm-up, no weight decay. The released scripts use a half to a sixteenth of
the batches and 1.5e-5 where the paper has 2e-5. The rank of the adapters is not
published (64 is ours). Data: AudioSkills-XL, LongAudio-XL, AF-Think and AF-Chat, as JSON lines.
The published weights, nvidia/audio-flamingo-3-hf, can start any stage: `--config.init.path`.
Nothing was run at this size: there is no score to expect; the paper's are in its table 3. `:debug`
is a small model of bytes on the built-in corpus.
"""

import ml_collections

# {stage: frozen parts, rate, epochs, seconds, batch, accumulation}
STAGES = {
  'stage1': (('audio_tower', 'language_model'), 1e-3, 1, 30.0, 8192, 1),
  'stage2': (('language_model',), 2e-5, 1, 30.0, 4096, 2),
  'stage3': ((), 2e-5, 1, 150.0, 2048, 4),
  'stage35': ((), 5e-5, 2, 600.0, 2048, 4),
  'stage4': ((), 5e-5, 2, 600.0, 2048, 8),
}


def get_config(arg=''):
  if arg not in ('', *STAGES, 'debug'):
    raise ValueError(
      f"stages.py has no variant {arg!r}: give one of {', '.join(STAGES)}, or 'debug'."
    )
  frozen, lr, epochs, seconds, batch, accumulate = STAGES[arg if arg in STAGES else 'stage3']
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = epochs

  config.data = dict(
    source='asked',
    split='train',
    fields=dict(tokens=dict(name='messages', args=dict(prompt='audio_flamingo3', tokenizer=''))),
    sample_rate=16_000,
    seconds=seconds,
    batch_size=batch,
    num_threads=16,
  )
  config.model = dict(
    name='audio_flamingo3',
    args=dict(size='7b', freeze=frozen, dtype='bfloat16', scan_layers=True, remat=True),
  )
  if arg == 'stage1':
    config.init = dict(
      parts=dict(
        audio_tower=dict(path='', part='audio_tower'),
        language_model=dict(path=''),
      )
    )
  else:
    config.init = dict(path='')
  config.objective = dict(name='answer_tokens')
  config.optim = dict(
    name='adamw',
    lr=lr,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=1.0,
    accumulate=accumulate,
    schedule=dict(name='cosine', warmup_fraction=0.03),
  )
  config.evals = dict(valid=dict(name='validation', every=500, data=dict(split='valid')))
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2, best='valid/loss', best_mode='min')

  if arg == 'stage35':
    config.adapters = dict(
      rank=64, alpha=128.0,
      targets=r'language_model/.*(attn/(query|key|value|out)|mlp/(fc1|gate|fc2))/kernel$',
    )  # fmt: skip
  if arg == 'debug':
    config.epochs = None
    config.total_steps = 4
    config.data.update(source='builtin', where=dict(kind='digit'), seconds=2.0, batch_size=4)
    config.data.num_threads = 2
    config.data.fields.tokens.args = dict(
      prompt='audio_flamingo3', ask='What is said?', answer='label'
    )
    # Two windows of a second.
    config.model.args = dict(size='tiny', n_audio_ctx=50, audio_depth=1, text_depth=1)
    config.init = None
    config.optim.accumulate = 1
    config.evals = dict()
    config.log_every = 1
    config.checkpoint = dict(every=2, keep=2)
  return config
