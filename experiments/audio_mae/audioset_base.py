"""AudioMAE ViT-B pre-trained on AudioSet-2M: the published recipe (arXiv 2207.06405).

python -m launch.train --config=experiments/audio_mae/audioset_base.py --workdir=DIR \
  --config.data.root=/data/AudioSet

Variants: `:small`, `:base` (default), `:large`; with `,global` the plain decoder instead of the
shifted windows (`:base,global`); `:debug` is a few steps of a narrow model on the built-in corpus.

Hardware of the authors: 64 V100, about 36 hours. After fine-tuning (finetune_audioset2m.py,
finetune_audioset20k.py) the authors report 47.3 mAP on AudioSet-2M and 37.0 on AudioSet-20K (README
of facebookresearch/AudioMAE, commit bd60e29). Not reproduced here: the data is not included.

Numbers: submit_pretrain_audioset2M.sh, main_pretrain.py and util/lr_sched.py of that commit. The
learning rate is blr x batch / 256 = 2e-4 x 2 = 4e-4; weight decay is the script's 1e-4 (the
parser's default is 0.05).
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 136_336_128}


def get_config(arg='base'):
  words = set((arg or 'base').split(','))
  sizes = words & {'small', 'base', 'large', 'debug'}
  if len(sizes) != 1 or words - sizes - {'global'}:
    raise ValueError(
      f'audioset_base.py has no variant {arg!r}: '
      'small, base, large or debug, and global after a comma.'
    )
  (size,) = sizes
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.epochs = 33

  # The published pipeline cuts or pads each clip to 1024 frames; 10 s are 998 frames.
  config.data = dict(
    source='audioset',
    split='train',
    sample_rate=16_000,
    seconds=10.0,
    crop='start',
    batch_size=512,
    num_threads=16,
  )
  # roll_mag_aug: gain Beta(10, 10) + 0.5; its roll is always by 0.
  config.augment = (dict(name='gain'),)

  config.model = dict(
    name='audio_mae',
    args=dict(
      size='base' if size == 'debug' else size,
      frontend=dict(name='kaldi_fbank', mean=-4.2677393, std=4.5689974),
      frames=1024,
      masking='unstructured',
      mask_ratio=0.8,
      decoder='global' if 'global' in words else 'swin',
      dtype='bfloat16',
    ),
  )
  config.objective = dict(name='masked_patch_mse', args=dict(norm_pix=True))

  config.optim = dict(
    name='adamw',
    lr=2e-4 * 512 / 256,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=1e-4,
    schedule=dict(name='cosine', warmup_epochs=3, final_lr=0.0),
  )
  config.evals = dict(pictures=dict(name='pictures', every=5000))
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2)

  if size == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', split='train', batch_size=8, num_threads=2)
    config.data.seconds = 2.0
    config.model.args.update(
      frames=208, width=32, depth=2, heads=2, decoder_width=32, decoder_depth=2, decoder_heads=2
    )
    config.optim.schedule = dict(name='cosine', warmup_steps=1, final_lr=0.0)
    config.evals.pictures.every = 2
    config.log_every = 1
    config.checkpoint.every = 2
  return config
