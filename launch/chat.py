"""Questions about audio, answered in words by an audio language model.

python -m launch.chat --model=runs/mine --input=street.wav --question='What do you hear?'
python -m launch.chat --model=/path/to/Qwen2-Audio-7B-Instruct --input=a.wav,b.wav \
  --question='Which of them is louder?'
python -m launch.chat --model=runs/mine --input=questions.jsonl --out=answers.jsonl
python -m launch.chat --model=runs/mine --input=my/folder --question='What is said?' --out=said.tsv
python -m launch.chat --model=runs/mine

--model is a run that trained a Qwen2-Audio, an Audio Flamingo 3, a Qwen-Audio or a SIFT-LLM, or a
folder of published weights with its tokenizer (--tokenizer where it lies elsewhere). With a
question and without --out it answers one question about all files of --input. With --out every clip
of a folder, a list or a data set is asked --question, or JSON lines with `messages` bring their own
questions (research/audio/README.md), and where these end with an answer, the fraction of equal ones
is printed by task; killed, the same command goes on where it was, and several processes
(--num_processes) divide the questions between them. With neither it is a conversation: a line is a
question, /clip FILE adds audio to the next one, /new forgets, /quit ends. --task takes a published
prompt (--task=help lists those of the model): Qwen-Audio's need --options=lang=en and the like.

Answers are decoded as generation_config.json beside the weights says, or as published, where flags
do not say otherwise; --nodo_sample takes the likeliest tokens. --dtype=bfloat16 halves the memory
of weights and caches, and changes answers a little.
"""

import sys
from typing import Any

from absl import flags

from launch import command, outputs, requests
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
INPUT = flags.DEFINE_string(
  'input', None, 'Audio files A,B; or, with --out, a folder, a list, a data set or JSON lines with '
  'messages.',
)  # fmt: skip
QUESTION = flags.DEFINE_string('question', None, 'What is asked about the audio.')
TASK = flags.DEFINE_string('task', None, 'A published prompt instead; help: those that there are.')
OPTIONS = flags.DEFINE_list('options', [], 'What --task needs: lang=en, to=de, question=….')
SYSTEM = flags.DEFINE_string('system', None, 'A system message in front of the conversation.')
OUT = flags.DEFINE_string('out', None, 'File to write: .jsonl or .tsv.')
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
TOKENIZER = flags.DEFINE_string(
  'tokenizer', None, "A folder or a file that came with the weights, or 'bytes'."
)
BASE = flags.DEFINE_bool(
  'base', None, 'The form of the base model, without turns (Qwen2-Audio; as a run was trained).'
)
DTYPE = flags.DEFINE_enum(
  'dtype', None, ('float32', 'bfloat16'), 'In which the model computes and holds its matrices.'
)
BATCH = flags.DEFINE_integer('batch_size', 8, 'Windows of audio at once.', lower_bound=1)
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the file if it is there.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
# Settings of `inference.decoding.Decoding`.
DECODING = (
  flags.DEFINE_integer('max_new_tokens', None, 'Of an answer (256 if nothing says another).'),
  flags.DEFINE_integer('min_new_tokens', None, 'No answer ends before.'),
  flags.DEFINE_bool('do_sample', None, 'Draw tokens instead of taking the likeliest.'),
  flags.DEFINE_float('temperature', None, 'Of the draws.'),
  flags.DEFINE_integer('top_k', None, 'Tokens that can be drawn; 0 for all.'),
  flags.DEFINE_float('top_p', None, 'Probability that these have together; 1 for all.'),
  flags.DEFINE_float('repetition_penalty', None, 'Of tokens that are there already; 1 for none.'),
  flags.DEFINE_integer('no_repeat_ngram_size', None, 'No N tokens come twice; 0 for any.'),
  flags.DEFINE_integer('num_beams', None, 'Hypotheses of a beam search; 1 for none.'),
  flags.DEFINE_float('length_penalty', None, 'Exponent of the length in a beam search.'),
  flags.DEFINE_integer('seed', None, 'Of draws (0).'),
)
command.required('model')
command.distributed_flags()


def one(chat, task):
  """The answer to a question about all files of --input."""
  from research.errors import InputError
  from research.text.messages import Message, question

  files = [name for name in (INPUT.value or '').split(',') if name]
  clips, talk = chat.heard(files, question(QUESTION.value or '', *files))
  if task:
    if len(clips) != 1:
      raise InputError(f'--task={task} is about one clip, and --input has {len(clips)}.')
    return chat.answers([chat.task(task, clips[0], **requests.pairs(OPTIONS))])[0]
  system = (Message('system', (SYSTEM.value,)),) if SYSTEM.value else ()
  return chat.answer(clips, (*system, *talk))


@outputs.remote('out', folder=False)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.errors import InputError, printable
  from research.inference import chat_files
  from research.inference.chat import converse
  from research.weights import writers

  if QUESTION.value and TASK.value:
    raise InputError('--question and --task were given: a published prompt asks by itself.')
  if OUT.value and not INPUT.value:
    raise InputError('--out was given without --input: give the clips, or JSON lines of questions.')
  if OUT.value and SYSTEM.value:
    raise InputError('--system is for one question or a conversation: write it into the messages.')
  how = {flag.name: flag.value for flag in DECODING if flag.value is not None}
  kind: dict[str, Any] = {'dtype': DTYPE.value} if DTYPE.value else {}
  loaded = weights.load(str(MODEL.value), release=RELEASE.value, **kind)
  chat = writers.chat(loaded, TOKENIZER.value, BASE.value, batch_size=BATCH.value, **how)
  task = TASK.value or ''
  if task == 'help':
    command.say('\n'.join(chat.tasks()) or f'{chat.name} has no published prompts: ask in words.')
    return
  if task:
    published = chat.task_settings(task)
    chat = writers.chat(
      loaded, TOKENIZER.value, BASE.value, batch_size=BATCH.value, **{**published, **how}
    )
  if OUT.value:
    what = chat_files.What(QUESTION.value or '', task, requests.pairs(OPTIONS), chat.cleaner(task))
    rows = chat_files.answer_source(
      chat,
      open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value),
      OUT.value,
      what,
      about={'model': loaded.fingerprint},
      overwrite=OVERWRITE.value,
      max_bad_fraction=MAX_BAD.value,
    )
    if jax.process_index() == 0:
      lines = list(outputs.left_out(rows))
      for name, (score, count) in chat_files.scores(rows).items():
        lines.append(f'{name or "answers"}: {100 * score:.1f} % of {count} are the reference')
      command.say('\n'.join([f'{OUT.value}: {lines[0].replace(" clips", " answers")}', *lines[1:]]))
  elif QUESTION.value or task:
    command.say(chat.cleaner(task)(one(chat, task)))
  elif INPUT.value:
    raise InputError('--input was given and nothing is asked: give --question, --task or --out.')
  else:
    command.say('A line is a question; /clip FILE adds audio to it, /new forgets, /quit ends.')
    say = lambda text: print(printable_lines(text, printable), end='', flush=True)  # noqa: E731
    converse(chat, sys.stdin, say, SYSTEM.value or '')


def printable_lines(text, printable):
  """Text for a terminal, with its ends of lines."""
  return '\n'.join(printable(line) for line in text.split('\n'))


if __name__ == '__main__':
  command.run(main)
