"""User mistakes: each gets one sentence that says what to do, and exit code 2."""

from tests.launch import runner

CONFIG = f'--config={runner.DEBUG}'


def cases(tmp_path):
  """{name: (arguments, words that the sentence must contain)}."""
  empty = tmp_path / 'empty'
  empty.mkdir()
  broken = tmp_path / 'broken.py'
  broken.write_text('def get_config():\n  return {}["nothing"]\n')
  several = tmp_path / 'several.py'
  several.write_text(
    'from experiments.audio_mae import builtin_tiny\n\n\ndef get_config():\n'
    "  config = builtin_tiny.get_config('debug')\n"
    "  del config.data.source\n  config.data.source = ['builtin', 'builtin']\n  return config\n"
  )
  file = tmp_path / 'a_file'
  file.write_text('x')
  work = f'--workdir={tmp_path / "work"}'
  return {
    'misspelt model argument': (
      ['--config=experiments/audio_mae/builtin_tiny.py', work, '--config.model.args.wdith=3'],
      ["'wdith'", "Did you mean 'width'"],
    ),
    'no such config': (['--config=experiments/audio_mae/builtin.py', work], ['builtin_tiny.py']),
    'config that is not a Python file': (
      ['--config=README.md', work],
      ['README.md', 'Python file'],
    ),
    'no workdir': ([CONFIG], ['--workdir']),
    'no config': ([work], ['--config']),
    'unknown variant': (
      ['--config=experiments/audio_mae/builtin_tiny.py:huge', work],
      ["no variant 'huge'", 'debug'],
    ),
    'unknown model': (
      [CONFIG, work, '--config.model.name=audiomae'],
      ["'audiomae'", "Did you mean 'audio_mae'"],
    ),
    'unknown size': ([CONFIG, work, '--config.model.args.size=bse'], ["'bse'", "'base'"]),
    'unknown objective': (
      [CONFIG, work, '--config.objective.name=masked_mse'],
      ["'masked_mse'", 'masked_patch_mse'],
    ),
    'misspelt setting': (
      [CONFIG, work, '--config.optim.learning_rate=1'],
      ['config.optim.learning_rate', 'config.optim.lr'],
    ),
    'misspelt group': (
      [CONFIG, work, '--config.optimizer.lr=1'],
      ["'config.optimizer'", "Did you mean 'config.optim'"],
    ),
    'text for a number': (
      [CONFIG, work, '--config.optim.lr=fast'],
      ["optim.lr=fast: 'fast' is not a number"],
    ),
    'text for a whole number': (
      [CONFIG, work, '--config.data.batch_size=abc'],
      ["batch_size=abc: 'abc' is not a whole number"],
    ),
    'seconds of a batch without lengths': (
      [CONFIG, work, '--config.data.batch_seconds=40'],
      ['give buckets= with it'],
    ),
    'text for a number that the config leaves out': (
      [CONFIG, work, '--config.model.args.stride=wide'],
      ["config.model.args.stride is 'wide'; it must be a whole number"],
    ),
    'neither yes nor no': (
      [CONFIG, work, '--config.data.shuffle=maybe'],
      ["config.data.shuffle is 'maybe'; it must be True or False"],
    ),
    'text for a list of augmentations': (
      [CONFIG, work, '--config.augment=spec_augment'],
      ["config.augment is 'spec_augment'; it must be a list"],
    ),
    'text for a limit': (
      [CONFIG, work, '--config.watch.representation_std.min=small'],
      ['representation_std.min', 'number'],
    ),
    'name for a front-end': (
      [CONFIG, work, '--config.model.args.frontend=log_mel'],
      ['config.model.args.frontend.name'],
    ),
    'best of a metric that no evaluation computes': (
      [CONFIG, work, '--config.checkpoint.best=loss'],
      ["config.checkpoint.best is 'loss'", "'valid/loss'"],
    ),
    'value for a group': ([CONFIG, work, '--config.optim=adamw'], ['config.optim is a group']),
    'text in place of a list': (
      [f'--config={several}', work, '--config.data.source=/no/such/folder'],
      ['/no/such/folder'],
    ),
    'folder that does not exist': (
      [CONFIG, work, '--config.data.source=/no/such/folder'],
      ['/no/such/folder'],
    ),
    'folder without audio': ([CONFIG, work, f'--config.data.source={empty}'], [str(empty)]),
    'unknown split': ([CONFIG, work, '--config.data.split=trian'], ["'trian'"]),
    'batch of clips that norm each other, which devices cannot split': (
      [
        '--config=experiments/byol_a/audioset_v2.py:debug',
        work,
        '--config.data.source=builtin',
        '--config.optim.accumulate=3',
      ],
      ['it must be a multiple of 3 ', 'byol_a computes statistics over all rows'],
    ),
    'mesh of the wrong size': ([CONFIG, work, '--config.mesh.tensor=5'], ['mesh', 'devices']),
    'warm-up longer than the run': (
      [CONFIG, work, '--config.optim.schedule.warmup_steps=100'],
      ['warms up for 100 steps', '4'],
    ),
    'workdir is a file': ([CONFIG, f'--workdir={file}'], [str(file)]),
    'negative learning rate': ([CONFIG, work, '--config.optim.lr=-1.0'], ['optim.lr', '-1.0']),
    'negative clipping': ([CONFIG, work, '--config.optim.clip_norm=-1.0'], ['clip_norm', '-1.0']),
    'another rate than the front-end': (
      [CONFIG, work, '--config.data.sample_rate=8000'],
      ['8000 Hz', '16000 Hz'],
    ),
    'setting of another group': (
      [CONFIG, work, '--config.batch_size=4'],
      ["'config.batch_size'", 'config.data.batch_size'],
    ),
    'stray argument': ([CONFIG, work, 'now'], ["'now'"]),
    'unknown flag': ([CONFIG, work, '--workdirr=x'], ['workdirr']),
    'broken config': ([f'--config={broken}', work], ['nothing']),
    'unknown schedule': (
      [CONFIG, work, '--config.optim.schedule.name=cosin'],
      ["'cosin'", "'cosine'"],
    ),
    'audio shorter than a frame': (
      [CONFIG, work, '--config.data.seconds=0.01'],
      ['0.01', 's'],
    ),
  }


def test_every_mistake_gets_one_clear_sentence(tmp_path):
  runner.check_mistakes('launch.train', cases(tmp_path))
