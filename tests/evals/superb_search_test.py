"""The list of detected terms of query by example."""

from xml.etree import ElementTree

import numpy as np

from research.evals.superb_search import detected


def test_the_list_of_detected_terms():
  scores = np.array([[2.00004, -0.5, 1.99999], [2.0, 0.0, 3.14159]])
  text = detected(scores, ['q&1', 'q2'], ['a', 'b', 'c"'])
  root = ElementTree.fromstring(text.encode())
  assert root.tag == 'stdlist' and root.get('termlist_filename') == 'benchmark.stdlist.xml'
  lists = root.findall('detected_termlist')
  assert [x.get('termid') for x in lists] == ['q&1', 'q2']
  rows = [[(t.get('file'), t.get('score'), t.get('decision')) for t in x] for x in lists]
  assert rows[0] == [('a', '2.0000', 'YES'), ('b', '-0.5000', 'NO'), ('c"', '2.0000', 'NO')]
  assert [row[2] for row in rows[1]] == ['NO', 'NO', 'YES']
  assert {t.get('dur') for x in lists for t in x} == {'0.00'}
