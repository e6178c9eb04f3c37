"""Instructions of Audio Flamingo's data sets: what a task is called, and what is asked of a clip.

Names of tasks and lists of classes are those of the official data code (foundation/data/data.py);
classes are always listed in alphabetic order. A task is named DATASET-Task, as 'CochlScene-
SceneClassification'.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from research.text.prompts.audio_flamingo import SUFFIX

# Tasks with one class a clip, by how their names start.
SINGLE = (
  *('CREMA-D', 'emov-db', 'jl-corpus', 'MELD', 'MSP-PODCAST-Publish-1.9', 'ravdess', 'tess'),
  *('OMGEmotion', 'Medley-solos-DB', 'musdbhq', 'NSynth-InstrClassification'),
  *('NSynth-SourceClassification', 'UrbanSound8K', 'CochlScene', 'NonSpeech7k'),
)
EMOTION = (
  *('CREMA-D', 'emov-db', 'jl-corpus', 'MELD-EmotionClassification', 'MSP-PODCAST-Publish-1.9'),
  *('ravdess', 'tess', 'OMGEmotion'),
)
SEVERAL = (
  *('WavText5K-Tagging', 'Clotho-AQA-EventClassification', 'AudioSet-EventClassification'),
  *('AudioSetFull', 'chime-home', 'SONYC-UST'),
)
QUESTIONS = ('Clotho-AQA-AQA', 'Music-AVQA', 'MU-LLAMA')
CLASSES = {
  'CREMA-D': 'sad, fearful, neutral, disgusted, angry, happy',
  'emov-db': 'amused, sleepy, neutral, disgusted, angry',
  'jl-corpus': (
    'sad, apologetic, neutral, concerned, excited, anxious, encouraging, angry, assertive, happy'
  ),
  'MELD-EmotionClassification': 'neutral, joy, sadness, anger, surprise, fear, disgust',
  'MELD-SentimentClassification': 'positive, neutral, negative',
  'MSP-PODCAST-Publish-1.9': 'angry, sad, happy, surprise, fear, disgust, contempt, neutral',
  'ravdess': 'sad, fearful, calm, neutral, disgusted, angry, happy, surprised',
  'tess': 'pleasantly surprised, sad, fearful, neutral, disgusted, angry, happy',
  'OMGEmotion': 'fearful, angry, disgusted, neutral, sad, happy, surprised',
  'NSynth-InstrClassification': (
    'organ, mallet, brass, vocal, keyboard, reed, flute, guitar, bass, synth_lead, string'
  ),
  'NSynth-SourceClassification': 'synthetic, electronic, acoustic',
  'musdbhq': 'mixture, other, vocals, bass, drums',
  'Medley-solos-DB': (
    'clarinet, flute, distorted electric guitar, trumpet, violin, piano, female singer, '
    'tenor saxophone'
  ),
  'GTZAN': 'blues, classical, country, disco, hiphop, jazz, metal, pop, reggae, rock',
  'UrbanSound8K': (
    'air conditioner, car horn, children playing, dog bark, drilling, engine idling, gun shot, '
    'jackhammer, siren, street music'
  ),
  'CochlScene': (
    'bus, cafe, car, crowdedindoor, elevator, kitchen, park, residentialarea, restaurant, '
    'restroom, street, subway, subwaystation'
  ),
  'NonSpeech7k': 'cough, breath, screaming, laugh, sneeze, yawn, crying',
}
# Listed in one line, in this order.
ALL_LABELS = {
  'chime-home': (
    'child speaking, male speaking, female speaking, human activity, television, household '
    'appliances, silence'
  ),
  'SONYC-UST': (
    'small sounding engine, medium sounding engine, large sounding engine, rock drill, jackhammer, '
    'hoe ram, pile driver, non machinery impact, chainsaw, small medium rotating saw, large '
    'rotating saw, car horn, car alarm, siren, reverse beeper, stationary music, mobile music, ice '
    'cream truck, person or small group talking, person or small group shouting, large crowd, '
    'amplified speech, dog barking whining'
  ),
}
EMOTIONS = {
  'anger': 'angry',
  'disgust': 'disgusted',
  'fear': 'fearful',
  'joy': 'happy',
  'sadness': 'sad',
  'surprise': 'surprised',
}
CAPTIONS = {
  'AC_short': 'describe the sound in a sentence.',
  'AC_long': 'describe the sound at length.',
  'AC_paragraph': 'describe the sound in a paragraph.',
}
FIXED = {
  'FSD50k': 'describe this sound in the order from specific to general.',
  'NSynth-QualityClassification': 'what are the qualities of the music?',
  'mtg-jamendo-MusicTagging': 'what are the genres, instruments, and mood/theme of the music?',
}
_TASKS = {
  'a q a': 'audio question answering',
  'a v q a': 'audio vision question answering',
  'instr classification': 'instrument classification',
  'm i r': 'music information retrieval',
}


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One example: `prefix` is '' or 'The task is … . ', the prompt ends with its suffix."""

  prefix: str
  prompt: str
  output: str


def prefix(task: str) -> str:
  """'The task is scene classification. ' of 'CochlScene-SceneClassification'."""
  for kind in ('random', 'knn'):
    task = task.replace(f'interleaved_{kind}-', '')
  *names, last = task.split('/')[0].split('-')
  dataset = '-'.join(names).lower()
  words = ''.join(f' {c}' if c.isupper() else c for c in last).lstrip().lower()
  if 'musiccaps' in dataset and words == 'audio captioning':
    words = 'music captioning'
  for start, name in _TASKS.items():
    if words.startswith(start):
      words = name
  return f'The task is {words}. '


def instruct(
  task: str,
  prompt: str,
  output: str,
  augmentations: Mapping[str, float],
  *,
  prefix_prob: float = 1.0,
  seed: int | np.random.RandomState = 0,
  train: bool = True,
  name: str = '',
  options: bool = True,
) -> Instruction:
  """What the official code makes of one row of a data set.

  Args:
    task: DATASET-Task.
    prompt: of the row, in lower case.
    output: of the row, in lower case.
    augmentations: {kind: probability}: 'default', 'provide_all_labels', 'num_words',
      'AQA_binary_instruction', 'AC_short', 'AC_long', 'AC_paragraph', 'do_nothing'.
    prefix_prob: probability of the prefix.
    seed: of NumPy's legacy generator, or that generator.
    train: False seeds the choice by the row itself, as in validation.
    name: of the row's audio, part of that seed.
    options: False for examples in front of a question.
  """
  drawn = np.random.RandomState(seed) if isinstance(seed, int) else seed
  kinds, chances = list(augmentations), list(augmentations.values())
  own = sum(map(ord, f'{name}{prompt}{output}{task}'))
  choose = drawn.choice if train else np.random.default_rng(own).choice
  kind = str(choose(kinds, p=chances))
  if not options and kind == 'provide_all_labels':
    kind = 'default'
  lead = '' if drawn.rand() > prefix_prob else prefix(task)
  output = output.strip()
  if kind != 'do_nothing':
    shuffles = drawn if train else np.random.default_rng(own)
    prompt, output = _ask(task, prompt, output, kind, options, shuffles)
  return Instruction(lead, prompt + SUFFIX, output)


def _ask(
  task: str, prompt: str, output: str, kind: str, options: bool,
  drawn: np.random.RandomState | np.random.Generator,
) -> tuple[str, str]:  # fmt: skip
  if task.startswith(QUESTIONS):
    prompt = _question(prompt, output, kind == 'AQA_binary_instruction')
  if 'AudioCaptioning' in task:
    prompt = CAPTIONS.get(kind, prompt)
    if kind == 'AC_paragraph':
      head, dot, tail = output.strip().rpartition('.')
      output = head.replace('.', ';') + dot + tail
    if 'MusicCaps' in task:
      prompt = prompt.replace('sound', 'music')
  if task.startswith(SINGLE) or 'GenreClassification' in task:
    if kind in ('default', 'provide_all_labels'):
      prompt = _one_class(task, prompt)
    if kind == 'provide_all_labels' and (classes := classes_of(task)):
      prompt += '\nOPTIONS:\n' + '\n'.join(f' - {name}.' for name in classes)
  if task.startswith(SEVERAL):
    prompt, output = 'use a few labels to describe this sound.', output.removesuffix('.')
    if kind == 'num_words':
      labels = output.split(', ')
      prompt = f'Describe the sound in {len(labels)} label{"s" if len(labels) > 1 else ""}.'
      drawn.shuffle(labels)
      output = ', '.join(labels)
    every = next((v for k, v in ALL_LABELS.items() if task.startswith(k)), '')
    if options and every:
      prompt += f' All labels are: {every}.'
  if kind == 'default':
    prompt = next((v for k, v in FIXED.items() if task.startswith(k)), prompt)
    if task.startswith('mtg-jamendo-MusicTagging'):
      output = output.replace(';', '.')
  return prompt, output


def _question(prompt: str, output: str, binary: bool) -> str:
  answers = {each.strip().lower() for each in output.split(',')}
  if binary and answers <= {'yes', 'no'}:
    asked = prompt.replace('question:', 'please answer this question:')
    return f'{asked}\nOPTIONS:\nyes.\nno.'
  if prompt.startswith('question:'):
    return prompt.replace('question:', 'please answer this question:')
  return prompt


def _one_class(task: str, prompt: str) -> str:
  if task.startswith(EMOTION):
    prompt = 'what is the emotion of this speech?'
  if task.startswith('MELD-SentimentClassification'):
    prompt = 'what is the sentiment of this speech?'
  for part, what in (('Instr', 'instrument'), ('Source', 'source'), ('Genre', 'genre')):
    if f'{part}Classification' in task:
      prompt = f'what is the {what} of this music?'
  if task.startswith(('UrbanSound8K', 'CochlScene')):
    prompt = 'classify this sound.'
  return prompt


def classes_of(task: str) -> list[str]:
  """The classes of a task that are listed as options, sorted; empty if it has no list."""
  found = next((v for k, v in CLASSES.items() if task.startswith(k)), '')
  classes = found.split(', ') if found else []
  if 'EmotionClassification' in task:
    classes = [EMOTIONS.get(name, name) for name in classes]
  return sorted(classes)
