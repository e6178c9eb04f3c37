"""Audio Flamingo in its three published stages (arXiv 2402.01831; foundation/ and chat/configs).

python -m launch.train --config=experiments/audio_flamingo/stages.py:pretrain --workdir=runs/af-1 \
  --config.data.source='{"name": "messages", "args": {"path": "asked/", "audio": "clips/"}}' \
  --config.init.parts.clap_tower.path=CLAP_weights_2023.pth \
  --config.init.parts.clap_projection.path=CLAP_weights_2023.pth \
  --config.init.parts.language_model.path=/path/to/opt-iml-max-1.3b \
  --config.data.fields.tokens.args.tokenizer=/path/to/opt-iml-max-1.3b
python -m launch.train --config=experiments/audio_flamingo/stages.py:sft --workdir=runs/af-2 \
  --config.init.path=runs/af-1 --config.data.source=…

| stage | learns | rate | conversations a step |
|---|---|---|---|
| `:pretrain` | gates and the transformer over vectors | 1e-4 | 384 |
| `:sft` (`:sft_4_shot`, `:sft_8_shot`) | and the language model, with examples | 2e-5 | 128 |
| `:chat` | the same, on dialogues | 2e-5 | 128 |

CLAP's tower never learns. Linear warm-up of 1875 steps, then constant; AdamW, decay 0.1, gradients
clipped at 1 (upstream clips each part by itself). Prompts with examples are rows of several turns
with a clip each. 100 epochs of a hundredth of the data are once all 5.9 million pairs: the steps
are of these (`config.epochs=1` for other data). Nothing was run at this size: the paper's scores
are in its tables 2 and 3. `:debug` is a small model of bytes on the built-in corpus.
"""

import ml_collections

PAIRS = 5_900_000
# {stage: (frozen parts, rate, conversations a step, clips of a conversation)}
_ALL = ('clap', 'language_model')
STAGES = {
  'pretrain': (_ALL, 1e-4, 384, 8),
  'sft': (('clap',), 2e-5, 128, 1),
  'sft_4_shot': (('clap',), 2e-5, 128, 4),
  'sft_8_shot': (('clap',), 2e-5, 128, 8),
  'chat': (('clap',), 2e-5, 128, 4),
}


def get_config(arg=''):
  if arg not in ('', *STAGES, 'debug'):
    raise ValueError(
      f"stages.py has no variant {arg!r}: give one of {', '.join(STAGES)}, or 'debug'."
    )
  stage = arg if arg in STAGES else 'pretrain'
  frozen, lr, batch, clips = STAGES[stage]
  config = ml_collections.ConfigDict()
  config.seed = 42
  config.total_steps = PAIRS // batch

  config.data = dict(
    source='asked',
    split='train',
    fields=dict(
      tokens=dict(
        name='messages',
        args=dict(prompt='audio_flamingo', tokenizer='', clips=clips, max_tokens=512),
      )
    ),
    sample_rate=44_100,
    seconds=33.25,
    batch_size=batch,
    num_threads=16,
  )
  config.model = dict(
    name='audio_flamingo',
    args=dict(
      size='foundation',
      max_clips=clips,
      freeze=frozen,
      dtype='bfloat16' if stage == 'pretrain' else 'float32',
      scan_layers=True,
      remat=True,
    ),
  )
  if stage == 'pretrain':
    config.init = dict(
      parts=dict(
        clap_tower=dict(path='', part='audio_tower'),
        clap_projection=dict(path='', part='audio_projection'),
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
    schedule=dict(name='constant', warmup_steps=1875),
  )
  config.evals = dict(valid=dict(name='validation', every=500, data=dict(split='valid')))
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2, best='valid/loss', best_mode='min')

  if arg == 'debug':
    config.total_steps = 4
    config.data.update(source='builtin', where=dict(kind='digit'), seconds=1.0, batch_size=4)
    config.data.num_threads = 2
    config.data.fields.tokens.args = dict(
      prompt='audio_flamingo', ask='What is said?', answer='label'
    )
    # Few layers: they compile long.
    config.model.args = dict(
      size='tiny', max_clips=1, seconds=0.5, hop_seconds=0.25, clap_depths=(1, 1),
      clap_heads=(1, 2), clap_width=8, audio_depth=1, text_depth=1,
    )  # fmt: skip
    config.init = None
    config.optim.schedule.warmup_steps = 1
    config.evals = dict()
    config.log_every = 1
    config.checkpoint = dict(every=2, keep=2)
  return config
