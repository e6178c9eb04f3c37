"""What the commands have in common."""

from ml_collections import ConfigDict

from launch import command


def test_values_that_the_command_line_may_replace_make_room():
  config = ConfigDict(dict(data=dict(root=None, buckets=[1.0, 2.0], seconds=3.0), init=None))
  given = ['--config.data.root=/a', '--config.data.buckets=4', '--config.data.seconds=1']
  command._with_groups(config, [*given, '--config.init.path=b', '--other=c'])
  # A text in place of None, one number in place of a list, a group in place of None.
  assert config.to_dict() == dict(data=dict(seconds=3.0), init={})
