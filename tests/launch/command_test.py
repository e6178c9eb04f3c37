"""The common entry point of the commands."""

from ml_collections import ConfigDict

from launch import command


def test_overrides_may_change_the_type_of_a_value():
  config = ConfigDict(dict(data=dict(root=None, buckets=[1.0, 2.0], seconds=3.0), init=None))
  given = ['--config.data.root=/a', '--config.data.buckets=4', '--config.data.seconds=1']
  command._with_groups(config, [*given, '--config.init.path=b', '--other=c'])
  # A string for None, a number for a list, a group for None.
  assert config.to_dict() == dict(data=dict(seconds=3.0), init={})


def test_a_word_may_override_a_boolean_and_back():
  config = ConfigDict(dict(remat=True, scan=False, kept=True, name='a', other='products'))
  given = ['remat=products', 'scan=true', 'kept=0', 'name=b', 'other=False']
  command._with_groups(config, [f'--config.{each}' for each in given])
  assert set(config) == {'scan', 'kept', 'name'}


def test_none_may_override_anything():
  config = ConfigDict(dict(data=dict(batch_seconds=40.0, batch_size=8), total_steps=3))
  command._with_groups(config, ['--config.data.batch_seconds=None', '--config.data.batch_size=4'])
  assert config.to_dict() == dict(data=dict(batch_size=8), total_steps=3)


def test_a_name_may_override_a_data_source():
  source = dict(name='libri_light', args=dict(voice_seconds=60))
  config = ConfigDict(dict(data=dict(source=source), evals=dict(valid=dict(name='validation'))))
  command._with_groups(config, ['--config.data.source.args.voice_seconds=30'])
  assert config.data.source.to_dict() == source
  command._with_groups(config, ['--config.data.source=/my/audio', '--config.evals={}'])
  assert config.data.to_dict() == {} and config.evals.valid.name == 'validation'


def test_a_tilde_in_any_flag_is_the_home_folder(monkeypatch):
  monkeypatch.setenv('HOME', '/home/ear')
  given = [
    '--workdir=~/runs/x',
    '--config=~/e.py:debug',
    '--config.data.source=~/a',
    '~/b',
    '--x=~',
  ]
  assert list(map(command._at_home, given)) == [
    '--workdir=/home/ear/runs/x',
    '--config=/home/ear/e.py:debug',
    '--config.data.source=/home/ear/a',
    '/home/ear/b',
    '--x=/home/ear',
  ]
  assert command._at_home('--models=~/a,~/b') == '--models=/home/ear/a,/home/ear/b'
  for same in ('--out=a~b', '--out=x~/y', '--filter=~name', '--workdir=/a/~/b'):
    assert command._at_home(same) == same


def test_a_tilde_in_a_config_is_the_home_folder(monkeypatch):
  monkeypatch.setenv('HOME', '/home/ear')
  sources = ['~/a', dict(name='folder', args=dict(path='~/b'))]
  config = ConfigDict(dict(data=dict(source='~/d', also=sources, seconds=2.0), note='a ~/ b'))
  assert command._home_config(config).to_dict() == dict(
    data=dict(
      source='/home/ear/d',
      also=['/home/ear/a', dict(name='folder', args=dict(path='/home/ear/b'))],
      seconds=2.0,
    ),
    note='a ~/ b',
  )


def test_a_command_makes_its_folder_at_home(tmp_path, monkeypatch):
  """No folder called ~ in the current one."""
  import sys

  from absl import app, flags

  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr(sys, 'argv', ['x', '--workdir=~/runs/x'])
  monkeypatch.setattr(command.children, 'die_together', lambda: None)
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, 'A folder.', flag_values=values)
  seen = []
  monkeypatch.setattr(app, 'run', lambda main, flags_parser: seen.extend(sys.argv))
  command.run(lambda argv: None)
  assert values(seen) == ['x'] and values.workdir == f'{tmp_path}/runs/x'
