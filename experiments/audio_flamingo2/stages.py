"""Audio Flamingo 2 in its three published stages (arXiv 2503.03983; configs of the release).

python -m launch.train --config=experiments/audio_flamingo2/stages.py:stage1 --workdir=runs/af2-1 \
  --config.data.source='{"name": "messages", "args": {"path": "asked/", "audio": "clips/"}}' \
  --config.init.parts.clap_tower.path=AF_CLAP \
  --config.init.parts.language_model.path=/path/to/Qwen2.5-3B \
  --config.data.fields.tokens.args.tokenizer=/path/to/Qwen2.5-3B
python -m launch.train --config=experiments/audio_flamingo2/stages.py:stage2 --workdir=runs/af2-2 \
  --config.init.path=runs/af2-1 --config.data.source=…

| stage | learns | rate | seconds of a clip | conversations a step |
|---|---|---|---|---|
| `:stage1` | gates, the transformer over vectors, the embedding of tokens | 1e-4 | 30 | 1024 |
| `:stage2` | and the tower of AF-CLAP | 2e-5 | 90 | 1024 |
| `:stage3` | as in the first | 2e-5 (not published) | 300 | 1024 |

Of stages 2 and 3 the batch is not published either: it is that of the first. They see AudioSkills
(4.2 million) and LongAudio (263,000) once; of the first stage's data the number is not published
(that of Audio Flamingo 1 is taken). Linear warm-up of 1875 steps (25 in the third, which has 256),
then constant; AdamW, decay 0.1, bfloat16. AF_CLAP is a CLAP of the house with this
tower (`clap` with width 256); published weights of the whole model come in by
`weights.audio_flamingo_system.load_audio_flamingo`. The paper says that the language model is
frozen; the released configurations train its embedding, which is its output too (`freeze=('clap',
'language_model', 'embeddings')` follows the paper). Nothing was run at this size; the paper's
scores are in its tables. `:debug` is a small model of bytes on the built-in corpus.
"""

import ml_collections

BATCH = 1024
# {stage: (frozen parts, rate, windows of 10 s, conversations in all, steps of warm-up)}
STAGES = {
  'stage1': (('clap', 'language_layers'), 1e-4, 3, 5_900_000, 1875),
  'stage2': (('language_layers',), 2e-5, 9, 4_200_000, 1875),
  'stage3': (('clap', 'language_layers'), 2e-5, 30, 263_000, 25),
}


def get_config(arg=''):
  if arg not in ('', *STAGES, 'debug'):
    raise ValueError(
      f"stages.py has no variant {arg!r}: give one of {', '.join(STAGES)}, or 'debug'."
    )
  stage = arg if arg in STAGES else 'stage1'
  frozen, lr, windows, total, warmup = STAGES[stage]
  config = ml_collections.ConfigDict()
  config.seed = 42
  config.total_steps = total // BATCH

  config.data = dict(
    source='asked',
    split='train',
    fields=dict(
      tokens=dict(
        name='messages', args=dict(prompt='audio_flamingo2', tokenizer='', max_tokens=512)
      )
    ),
    sample_rate=16_000,
    seconds=10.0 * windows,
    batch_size=BATCH,
    num_threads=16,
  )
  config.model = dict(
    name='audio_flamingo2',
    args=dict(
      size='3b',
      max_windows=windows,
      freeze=frozen,
      dtype='bfloat16',
      scan_layers=True,
      remat=True,
    ),
  )
  if stage == 'stage1':
    config.init = dict(
      parts=dict(
        clap_tower=dict(path='', part='audio_tower'),
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
    weight_decay=0.1,
    clip_norm=1.0,
    accumulate=2,
    schedule=dict(name='constant', warmup_steps=warmup),
  )
  config.evals = dict(valid=dict(name='validation', every=500, data=dict(split='valid')))
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2, best='valid/loss', best_mode='min')

  if arg == 'debug':
    config.total_steps = 4
    config.data.update(source='builtin', where=dict(kind='digit'), seconds=1.0, batch_size=4)
    config.data.num_threads = 2
    config.data.fields.tokens.args = dict(
      prompt='audio_flamingo2', ask='What is said?', answer='label'
    )
    # Few layers: they compile long.
    config.model.args = dict(
      size='tiny', max_clips=1, seconds=0.5, hop_seconds=0.5, clap_depths=(1, 1),
      clap_heads=(1, 2), clap_width=32, audio_width=64, audio_heads=1, audio_depth=1, text_depth=1,
    )  # fmt: skip
    config.init = None
    config.optim.schedule.warmup_steps = 1
    config.optim.accumulate = 1
    config.evals = dict()
    config.log_every = 1
    config.checkpoint = dict(every=2, keep=2)
  return config
