"""Qwen2-Audio fine-tuned on questions about clips (JSON lines with `messages`).

python -m launch.train --config=experiments/qwen2_audio/instructions.py --workdir=runs/asked \
  --config.data.source='{"name": "messages", "args": {"path": "asked/", "audio": "clips/"}}' \
  --config.init.path=/path/to/Qwen2-Audio-7B-Instruct \
  --config.data.fields.tokens.args.tokenizer=/path/to/Qwen2-Audio-7B-Instruct
python -m launch.chat --model=runs/asked --input=street.wav --question='What do you hear?'

The data: research/audio/README.md, "Instruction data"; launch.make_instructions makes some of a
labelled folder. By default the encoder stays as it is, the projector learns, and so do adapters of
rank 16 on the language model's attention (`:lora` says the same). `:projector` trains the projector
alone, `:language` projector and language model, `:whole` everything with SpecAugment. The paper
(arXiv 2407.10759) publishes neither rate nor batch nor what was frozen: these are ours, and no
score was measured. The whole model needs the memory of eight chips of 80 GB
(`--config.mesh.fsdp=8`). `:debug` is a small model of bytes on the built-in corpus.
"""

import ml_collections

VARIANTS = ('', 'lora', 'projector', 'language', 'whole', 'debug')


def get_config(arg=''):
  if arg not in VARIANTS:
    raise ValueError(f'instructions.py has no variant {arg!r}: give one of {", ".join(VARIANTS)}.')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 1

  config.data = dict(
    source='asked',
    split='train',
    fields=dict(
      tokens=dict(name='messages', args=dict(prompt='qwen2_audio', tokenizer='', max_tokens=2048))
    ),
    sample_rate=16_000,
    seconds=30.0,
    batch_size=64,
    num_threads=16,
  )
  config.model = dict(
    name='qwen2_audio',
    args=dict(size='7b', freeze=('audio_tower',), dtype='bfloat16', scan_layers=True, remat=True),
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
    schedule=dict(name='cosine', warmup_fraction=0.03),
  )
  config.evals = dict(valid=dict(name='validation', every=500, data=dict(split='valid')))
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2, best='valid/loss', best_mode='min')

  if arg in ('', 'lora'):
    config.adapters = dict(
      rank=16, alpha=32.0, targets=r'language_model/.*/attn/(query|key|value|out)/kernel$',
      trained=r'^projector/',
    )  # fmt: skip
  if arg == 'projector':
    config.model.args.freeze = ('audio_tower', 'language_model')
    config.optim.lr = 1e-3
  if arg in ('language', 'whole'):
    config.optim.lr = 1e-5
  if arg == 'whole':
    config.model.args.update(freeze=(), freq_mask=27, time_mask=100)
  if arg == 'debug':
    config.epochs = None
    config.total_steps = 4
    config.data.update(source='builtin', where=dict(kind='digit'), seconds=2.0, batch_size=4)
    config.data.num_threads = 2
    config.data.fields.tokens.args = dict(
      prompt='qwen2_audio', ask=('What is said?', 'Which digit is it?'), answer='label'
    )
    config.model.args = dict(
      size='tiny', n_audio_ctx=100, audio_depth=1, text_depth=1, freeze=('audio_tower',)
    )
    config.adapters = dict(
      rank=2, alpha=4.0, targets=r'language_model/.*/attn/(query|key|value|out)/kernel$',
      trained=r'^projector/',
    )  # fmt: skip
    config.init = None
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'))
    config.log_every = 1
    config.checkpoint.every = 2
  return config
