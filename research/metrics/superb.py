"""Overall scores of the SUPERB leaderboard: superb_s, rank, and both per million parameters.

Source: the leaderboard's site (superbbenchmark.org, frontend src/Data.js, src/overall_metrics.js)
and its policy page; tasks of arXiv 2105.01051 (SUPERB) and 2203.06849 (SUPERB-SG). A metric is
named '<task>_<metric>', as 'SF_f1'. Values are percent as the leaderboard has them; QbE_mtwv is
MTWV * 100, PESQ and SI-SDR improvement are as they are.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from research.errors import InputError, unknown

# [FBANK, state of the art] of each metric of the public sets; the order says what is better.
REFERENCE_POINTS: dict[str, tuple[float, float]] = {
  'PR_per': (82.01, 3.53),
  'KS_acc': (41.3826674, 96.66),
  'IC_acc': (9.649354219, 98.76),
  'SID_acc': (20.058174, 90.3),
  'ER_acc': (48.23672168, 67.62),
  'ASR_wer': (23.18, 3.62),
  'QbE_mtwv': (0.58, 7.36),
  'SF_f1': (69.64, 89.81),
  'SF_cer': (52.94, 21.76),
  'SV_eer': (9.56, 5.11),
  'SD_der': (10.05, 5.62),
  'ST_bleu': (2.32, 20.01),
  'SE_pesq': (2.55, 2.64),
  'SE_stoi': (93.6, 94.2),
  'SS_sisdri': (9.2341, 10.4514),
}
SUBSETS: dict[str, tuple[str, ...]] = {
  'Paper': ('PR', 'KS', 'IC', 'SID', 'ER', 'ASR', 'QbE', 'SF', 'SV', 'SD'),
  'Public Set': ('PR', 'SID', 'ER', 'ASR', 'QbE', 'SV', 'SD', 'ST', 'SE', 'SS'),
}


@dataclasses.dataclass(frozen=True)
class Overall:
  """What the leaderboard makes of an entry.

  Attributes:
    superb_s: 0 for FBANK, 1000 for the state of the art of 2021; the board rounds it. nan where a
      metric is missing.
    superb_s_p: the same with positive values divided by million parameters, if above one.
    rank: mean over tasks of the number of entries that are worse; a missing metric counts 0.
    per_metric: 1000 (x - FBANK) / (state of the art - FBANK).
  """

  superb_s: float
  superb_s_p: float
  rank: float
  per_metric: dict[str, float]

  @property
  def score(self) -> int | None:
    """superb_s, rounded; None where it is nan."""
    return None if math.isnan(self.superb_s) else math.floor(self.superb_s + 0.5)


def metrics_of(
  subset: str | Sequence[str], points: Mapping[str, tuple[float, float]] = REFERENCE_POINTS
) -> tuple[str, ...]:
  """Metrics of a subset: a name of SUBSETS, or its tasks.

  Raises:
    InputError: there is no such subset or task.
  """
  if isinstance(subset, str):
    if subset not in SUBSETS:
      raise unknown('subset of SUPERB', subset, SUBSETS)
    subset = SUBSETS[subset]
  known = {_task(name) for name in points}
  for task in subset:
    if task not in known:
      raise unknown('task of SUPERB', task, known)
  return tuple(name for name in points if _task(name) in subset)


def overall(
  entries: Sequence[Mapping[str, float]],
  subset: str | Sequence[str] = 'Paper',
  *,
  parameters: Sequence[float] | None = None,
  points: Mapping[str, tuple[float, float]] = REFERENCE_POINTS,
) -> list[Overall]:
  """Scores and ranks of leaderboard entries among each other.

  Args:
    entries: values by the name of the metric. What is not of the subset is left out.
    subset: 'Paper' (10 tasks), 'Public Set' (10 with those of SUPERB-SG), or tasks.
    parameters: of each upstream, for superb_s_p; 0 without.
    points: [FBANK, state of the art] by metric.

  Raises:
    InputError: the subset is unknown, or the numbers of entries and parameters differ.
  """
  names = metrics_of(subset, points)
  parameters = [0.0] * len(entries) if parameters is None else list(parameters)
  if len(parameters) != len(entries):
    raise InputError(
      f'SUPERB got {len(entries)} entries and {len(parameters)} numbers of parameters: one each is '
      'expected.'
    )
  found = []
  for entry, count in zip(entries, parameters):
    each = {n: _scaled(entry[n], points[n]) for n in names if n in entry}
    millions = max(count / 1e6, 1.0)
    small = {n: v / millions if v > 0 else v for n, v in each.items()}
    worse = {n: _worse(n, entry, entries, points[n]) for n in names}
    found.append(Overall(_mean(each, names), _mean(small, names), _mean(worse, names), each))
  return found


def _task(metric: str) -> str:
  return metric.split('_', 1)[0]


def _scaled(x: float, point: tuple[float, float]) -> float:
  return 1000.0 * (x - point[0]) / (point[1] - point[0] + 1e-12)  # as the site has it


def _worse(
  name: str,
  entry: Mapping[str, float],
  entries: Sequence[Mapping[str, float]],
  point: tuple[float, float],
) -> float:
  """Number of entries that are strictly worse in a metric."""
  if name not in entry:
    return 0.0
  sign = 1.0 if point[1] > point[0] else -1.0
  return float(sum(sign * (entry[name] - e[name]) > 0 for e in entries if name in e))


def _mean(values: Mapping[str, float], names: Sequence[str]) -> float:
  """Mean over tasks of the mean over their metrics."""
  tasks: dict[str, list[float]] = {}
  for name in names:
    tasks.setdefault(_task(name), []).append(values.get(name, math.nan))
  return sum(sum(v) / len(v) for v in tasks.values()) / len(tasks)
