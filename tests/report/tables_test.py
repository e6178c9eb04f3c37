"""Tables: published figures beside ours, how much settings matter, what was lost or not scored."""

import json

import numpy as np
import pytest

from research.errors import InputError
from research.evals import clip_lists, protocols, tasks
from research.report import published, run, tables
from tests.evals import toy


def row(**changes):
  made = dict(
    task='urbansound8k', system='mine', kind='model', protocol='evar', metric='accuracy',
    score=0.5, ci=None, ci_over='folds', values=[[0.5]], chosen=[{}], layers=['0'], pool='mean',
    clips=10, clips_missing=0, weights='abc', wall_seconds=1.0, embed_seconds=1.0,
    split={'origin': 'column fold', 'hash': 'h'}, grid=[], per_class={}, classes=[],
  )  # fmt: skip
  return made | changes


def test_published_figures_are_labelled_and_never_win():
  ours = [row(), row(task='voxceleb1', score=0.2)]
  others = published.rows(['urbansound8k', 'voxceleb1'])
  (table,) = tables.comparison(ours, others)
  text = table.markdown()
  label = '| BYOL-A v1, d = 2048 (published: linear evaluation of EVAR or BYOL-A; AudioSet without'
  assert f'{label} labels) | 79.1 | 40.1 |' in text
  assert '| mine | **50.0** | **20.0** |' in text and text.count('**') == 4
  # Fine-tuned figures stand beside fine-tuned ones.
  assert 'AudioMAE' not in text
  tuned = tables.comparison([row(task='esc50', protocol='finetune')], published.rows(['esc50']))
  assert 'AudioMAE, ViT-B (published: fine-tuning;' in tuned[0].markdown()
  assert 'ImageNet labels' in tuned[0].markdown()


def test_every_published_figure_is_of_a_task_and_says_where_it_is_from():
  for entry in published.PUBLISHED:
    assert set(entry.scores) <= set(tasks.TASKS)
    assert all(0 < s < 1 for s in entry.scores.values())
    assert entry.supervision and entry.source and entry.protocol in published.PROTOCOLS


def test_how_much_settings_matter():
  points = [(1e-3, 0.0, 0.6, 0.55), (1e-2, 0.0, 0.8, 0.7), (1e-1, 0.0, 0.5, 0.4),
            (1e-2, 1e-2, 0.8, 0.75)]  # fmt: skip
  names = ('learning_rate', 'weight_decay', 'validation', 'test')
  grid = [dict(zip(names, p)) for p in points]
  # Two points are as good on validation: what counts is the one that the probe took.
  chosen = dict(learning_rate=1e-2, weight_decay=0.0, rounds=[3], at_edge=[])
  fold = protocols.Fold(np.zeros((1, 1, 2)), 0.8, chosen, grid)
  table = tables.sensitivity([row(sensitivity=protocols._sensitivity([fold, fold]))])
  cells = dict(zip(table.header, table.rows[0]))
  assert cells['settings'] == '4' and cells['chosen'] == '70.0'
  assert (cells['best of the grid'], cells['worst']) == ('75.0', '40.0')
  assert cells['median'] == '62.5'
  # Beside 1e-2 lie 1e-3 (55) and 1e-1 (40); a step in weight decay is the point of 75.
  assert cells['lr a step off'] == '40.0' and cells['wd a step off'] == '75.0'
  assert cells['k a step off'] == ''
  assert tables.sensitivity([row()]) is None
  # Half of the folds chose another rate: the means are of what each chose.
  other = protocols.Fold(fold.test_scores, 0.6, chosen | dict(learning_rate=1e-3), grid)
  mixed = protocols._sensitivity([fold, other])
  assert mixed['chosen'] == pytest.approx((0.7 + 0.55) / 2)


def test_what_is_absent_is_said():
  lost = {'listed': 200, 'absent': {'eval': 20}}
  lost |= {'clip_list': dict(clips=180, hash='cafe', absent=3, first=[])}
  notes = '\n'.join(tables.notes([row(attrition=lost)]))
  assert '20 of eval in the published lists have no audio file here (10.0 % of all)' in notes
  assert 'the clip list cafe of 180 clips, 3 of them absent here' in notes
  page = run.score_page({'rows': [row()], 'absent': {'gtzan': 'Not there: prepare it.'}})
  assert 'Not scored' in page and 'Not there: prepare it.' in page


def test_scores_of_each_class_name_their_model():
  rows = [row(system=name, per_class={'dog': 0.5}) for name in ('mine', 'yours')]
  page = run.score_page({'rows': rows})
  assert all(f'average precision of each class, {r["system"]}<' in page for r in rows)


def test_a_clip_list_selects_the_same_clips_of_another_copy(tmp_path):
  root = toy.tones(tmp_path / 'a', per_class=6)
  made = tasks.prepare(str(root))
  file = tmp_path / 'lists' / 'clips.json'
  assert clip_lists.read(file) is None
  clip_lists.write(file, [made])
  listed = clip_lists.read(file)
  # Another copy has more clips, and lacks one of the list.
  more = toy.tones(tmp_path / 'b' / 'a', per_class=8)
  gone = made.source.id(0)
  lines = (more / 'labels.csv').read_text().splitlines()
  (more / 'labels.csv').write_text('\n'.join(x for x in lines if not x.startswith(gone)) + '\n')
  again = tasks.prepare(str(more), clip_list=clip_lists.of_task(listed, file, 'a'))
  ids = {again.source.id(i) for i in range(len(again.source))}
  assert ids == set(listed['a']['ids']) - {gone} and len(ids) == 17
  # The split was drawn, and stays as it was drawn, though another one would be drawn now.
  named = lambda t, rows: {t.source.id(r) for r in rows}  # noqa: E731
  for before, after in zip(made.splits.folds[0].rows(), again.splits.folds[0].rows()):
    assert named(again, after) == named(made, before) - {gone}
  assert again.splits.origin == made.splits.origin + ' (clip list)'
  facts = again.attrition['clip_list']
  assert (facts['clips'], facts['absent'], facts['first']) == (18, 1, [gone])
  strange = dict(ids=['x'], parts=[[0]], hash='h', origin='o', published_validation=False)
  with pytest.raises(InputError, match='none of the 1 clips in the clip list'):
    tasks.prepare(str(root), clip_list=strange)
  with pytest.raises(InputError, match='none of the validation clips of fold 0 in the clip list'):
    tasks.prepare(str(root), clip_list=strange | dict(ids=listed['a']['ids'], parts=[[0] * 18]))
  with pytest.raises(InputError, match="no clips for task 'b', only for a"):
    clip_lists.of_task(listed, file, 'b')


@pytest.mark.parametrize(
  'text',
  [
    '[',
    '[1]',
    '{"a": "b"}',
    '{"a": [1]}',
    '{"a": {"ids": ["x"], "parts": [[]], "origin": ""}}',
    '{"a": {"ids": ["x"], "parts": [[7]], "origin": ""}}',
  ],
)
def test_a_list_that_is_none_is_refused(tmp_path, text):
  (tmp_path / 'p.json').write_text(text)
  with pytest.raises(InputError, match='--clip_list='):
    clip_lists.read(tmp_path / 'p.json')


def test_clips_that_audioset_lists_but_nobody_has_are_counted(tmp_path):
  root = tmp_path / 'audioset'
  root.mkdir()
  (root / 'class_labels_indices.csv').write_text('index,mid,display_name\n0,/m/0,A\n1,/m/1,B\n')
  (root / 'audio').mkdir()
  for part, there, count in (
    ('balanced_train', 12, 15),
    ('unbalanced_train', 4, 9),
    ('eval', 6, 8),
  ):
    lines = ['# YTID, start_seconds, end_seconds, positive_labels']
    for i in range(count):
      ytid = f'{part[:3]}{i:08d}'
      lines.append(f'{ytid}, 0.000, 10.000, "/m/{i % 2}"')
      if i < there:
        toy.soundfile.write(root / 'audio' / f'{ytid}.wav', toy.tone(300, 0.1, i), toy.RATE)
    (root / f'{part}_segments.csv').write_text('\n'.join(lines) + '\n')
  small, large = (tasks.prepare(n, tmp_path) for n in ('audioset20k', 'audioset'))
  assert small.attrition == dict(listed=23, absent={'balanced': 3, 'eval': 2})
  assert large.attrition['absent'] == {'balanced': 3, 'unbalanced': 5, 'eval': 2}
  assert json.dumps(small.attrition)
