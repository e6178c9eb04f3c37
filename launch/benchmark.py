"""Times oido and its peers in one run on this machine, and prints medians and ratios.

python -m launch.benchmark --what=features,training,speech,input,startup --out=runs/benchmark.json

A ratio above 1 means that oido is faster. `features`, `training`, `speech`, `whisper`, `chat`,
`embeddings` and `superb` compare with torch and transformers, `input` with torch's DataLoader,
`wavenet` with rings in torch, `byol` with torch (use --batch=64, as in experiments/README.md);
these need the [parity] extra. `clustering` compares with scikit-learn and needs the [test] extra.
"""

import json
import os
import platform
from pathlib import Path

from absl import flags

from launch import command
from research.errors import InputError, unknown

WHAT = flags.DEFINE_list(
  'what', ['features', 'training', 'speech', 'input', 'startup'], 'Benchmarks to run.'
)
REPEATS = flags.DEFINE_integer('repeats', 7, 'Rounds; medians are reported.', lower_bound=1)
OUT = flags.DEFINE_string('out', None, 'JSON file for the results (optional).')
SIZE = flags.DEFINE_string(
  'size', 'base', 'Model size of training, speech and whisper; v1_d512, … of byol.'
)
MODEL = flags.DEFINE_enum('model', 'wav2vec2', ['wav2vec2', 'hubert', 'wavlm'], 'Model of speech.')
DECODER = flags.DEFINE_enum('decoder', 'swin', ['swin', 'global'], 'Decoder of the training step.')
BATCH = flags.DEFINE_integer(
  'batch', 4, 'Batch size of training, speech, byol and embeddings.', lower_bound=1
)
DTYPE = flags.DEFINE_enum(
  'dtype',
  None,
  ['float32', 'bfloat16'],
  'Compute dtype of speech; default bfloat16 on a GPU, float32 elsewhere.',
)
TOKENS = flags.DEFINE_integer('tokens', 100, 'Tokens that whisper and chat write.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', 10.0, 'Clip length of speech, seconds.', lower_bound=0.1)


def _features():
  from launch.benchmarks import features

  return features.compare_features(repeats=REPEATS.value)


def _training():
  from launch.benchmarks import training

  return training.compare_training(
    size=SIZE.value, batch=BATCH.value, repeats=REPEATS.value, decoder=DECODER.value
  )


def _speech():
  from launch.benchmarks import speech

  return speech.compare_speech(
    size=SIZE.value,
    batch=BATCH.value,
    clip_seconds=SECONDS.value,
    repeats=REPEATS.value,
    model=MODEL.value,
    dtype=DTYPE.value,
  )


def _input():
  from launch.benchmarks import input as input_benchmark

  return input_benchmark.compare_input(repeats=REPEATS.value)


def _startup():
  from launch.benchmarks import startup

  return startup.compare_startup(repeats=min(REPEATS.value, 3))


def _clustering():
  from launch.benchmarks import clustering

  return clustering.compare_clustering(repeats=min(REPEATS.value, 3))


def _byol():
  from launch.benchmarks import byol

  size = SIZE.value if SIZE.value.startswith('v1') else 'v1_d512'
  return byol.compare_byol(size=size, batch=BATCH.value, repeats=REPEATS.value)


def _whisper():
  import tempfile

  from launch.benchmarks import whisper

  with tempfile.TemporaryDirectory() as folder:
    return whisper.compare_whisper(
      Path(folder), size=SIZE.value, tokens=TOKENS.value, repeats=REPEATS.value
    )


def _chat():
  import tempfile

  from launch.benchmarks import chat

  with tempfile.TemporaryDirectory() as folder:
    return chat.compare_chat(Path(folder), tokens=TOKENS.value, repeats=REPEATS.value)


def _wavenet():
  from launch.benchmarks import wavenet

  return wavenet.compare_wavenet(repeats=REPEATS.value)


def _embeddings():
  import tempfile

  from launch.benchmarks import embeddings

  with tempfile.TemporaryDirectory() as folder:
    return embeddings.compare_embeddings(Path(folder), batch=BATCH.value, repeats=REPEATS.value)


def _superb():
  from launch.benchmarks import superb

  return superb.compare_superb(repeats=REPEATS.value)


BENCHMARKS = dict(
  features=_features,
  training=_training,
  speech=_speech,
  input=_input,
  startup=_startup,
  clustering=_clustering,
  byol=_byol,
  whisper=_whisper,
  chat=_chat,
  wavenet=_wavenet,
  embeddings=_embeddings,
  superb=_superb,
)
# Extras other than [parity].
EXTRAS = {'clustering': 'test'}


def main(argv):
  del argv
  # The worker processes need device memory beside this process.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  import jax

  device = jax.devices()[0]
  machine = {
    'device': device.device_kind if device.platform != 'cpu' else platform.processor() or 'cpu',
    'platform': device.platform,
    'python': platform.python_version(),
    'jax': jax.__version__,
  }
  print(' '.join(f'{k}={v}' for k, v in machine.items()), flush=True)
  rows = {}
  for name in WHAT.value:
    if name not in BENCHMARKS:
      raise unknown('benchmark', name, BENCHMARKS)
    try:
      rows[name] = BENCHMARKS[name]()
    except ImportError as error:
      raise InputError(
        f'The benchmark {name!r} compares with {error.name}, which is not installed: '
        f"pip install -e '.[{EXTRAS.get(name, 'parity')}]'."
      ) from error
    for row in rows[name]:
      shown = (f'{k}={v:.4g}' if isinstance(v, float) else f'{k}={v}' for k, v in row.items())
      print(f'{name}: {" ".join(shown)}', flush=True)
  if OUT.value:
    path = Path(OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'machine': machine, 'rows': rows}, indent=2))
    print(f'wrote {path}')


if __name__ == '__main__':
  command.run(main)
