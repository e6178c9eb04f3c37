"""Transcripts of audio files, with the times of the words.

python -m launch.transcribe --model=weights/mine --input=speech.wav --out=speech.srt
python -m launch.transcribe --model=weights/mine --input=my/folder --out=t.jsonl --lm=4-gram.arpa.gz

--model is a model with a CTC head (fine-tuned on transcripts). --input is a folder, an audio file,
a list of files (.txt: a path a line; .csv, .tsv, .jsonl: a column `path`; relative paths start at
the list), or the name of a data set. Texts are printed in the order given; --out keeps them with
the times of their words: .jsonl, .txt, .ctm, and for one recording .srt and .vtt. Killed, the same
command goes on where it was; several processes (--num_processes) share the clips, and the disk.
Where the input has transcripts (a column `transcript`), word and character error rates are printed
in the end.
"""

from typing import Any

from absl import flags

from launch import command, outputs
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'File to write: .jsonl, .txt, .srt, .vtt or .ctm.')
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
LM = flags.DEFINE_string(
  'lm', None, 'N-gram of words or characters: an ARPA file (.gz too) or a KenLM binary.'
)
LEXICON = flags.DEFINE_string(
  'lexicon', None, 'Words to search, one a line (those of the ARPA file if not given).'
)
BEAM = flags.DEFINE_integer(
  'beam', None, 'Beam search with N prefixes (50 with --lm; greedy without either).',
  lower_bound=1,
)  # fmt: skip
LM_WEIGHT = flags.DEFINE_float('lm_weight', None, 'Weight of the n-gram (2 if not given).')
WORD_SCORE = flags.DEFINE_float(
  'word_score', None, 'Added to the score for every word (-1 if not given).'
)
WINDOW = flags.DEFINE_float(
  'window', 40.0, 'Longer audio is cut into chunks of N seconds.', lower_bound=0
)
OVERLAP = flags.DEFINE_float(
  'overlap', 5.0, 'Seconds that neighbouring chunks share.', lower_bound=0
)
BATCH_SECONDS = flags.DEFINE_float(
  'batch_seconds', 120.0, 'Audio that goes through the model at once.', lower_bound=0
)
REFERENCE = flags.DEFINE_string(
  'reference_column', None, 'Column with what was said (`transcript` if there is one).'
)
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the file if it is there.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
command.required('model', 'input')
command.distributed_flags()

# How many of the files that were left out are named on the screen.
NAMED = 20


def references(source, column):
  """What was said in each clip, '' where that is not known; None without such a column.

  Raises:
    InputError: a column was named that is not there.
  """
  if column is None and 'transcript' not in source.column_names:
    return None
  from research.audio.fields import transcript

  return transcript.texts(source, column or 'transcript')


def decoder(model):
  """The decoder that the flags ask for; None is greedy."""
  from research.inference import beam

  if LM.value is None and BEAM.value is None:
    return None
  weights: Any = {f.name: f.value for f in (LM_WEIGHT, WORD_SCORE) if f.value is not None}
  search = beam.BeamSearch(
    model.vocabulary,
    model.blank,
    lm=LM.value,
    lexicon=LEXICON.value,
    beam=BEAM.value or beam.BEAM,
    **weights,
  )
  if search.left_out:
    print(
      f'{search.left_out} words of the n-gram have characters that the model lacks.', flush=True
    )
  return search


def summary(rows, symbols):
  """Lines that say what is done: files that were left out, and error rates if there are any."""
  from research.inference import transcript_files

  left = [row for row in rows if 'error' in row]
  yield f'{len(rows) - len(left)} clips' + (f', {len(left)} left out:' if left else '')
  yield from (f'  {row["id"]}: {row["error"]}' for row in left[:NAMED])
  if len(left) > NAMED:
    yield f'  … and {len(left) - NAMED} more'
  clips, words, characters = transcript_files.error_rates(rows, symbols)
  if clips:
    yield (
      f'WER {100 * words.rate:.2f} % ({words.substitutions} substitutions, {words.deletions} '
      f'deletions, {words.insertions} insertions; {words.reference} words), '
      f'CER {100 * characters.rate:.2f} % ({characters.reference} characters), {clips} clips with '
      'a transcript'
    )


@outputs.remote('out', folder=False)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.errors import InputError
  from research.inference import ctc, transcribe, transcript_files

  for flag in (LEXICON, LM_WEIGHT, WORD_SCORE):
    if flag.value is not None and LM.value is None:
      raise InputError(f'--{flag.name} is for the search with an n-gram: give --lm too.')
  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  if OUT.value is not None:
    transcript_files.check_out(OUT.value, len(source), OVERWRITE.value)
  said = references(source, REFERENCE.value)
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  ctc.check_ctc(loaded.model)
  search = decoder(loaded.model)
  transcriber = transcribe.Transcriber(
    loaded.model,
    loaded.variables,
    decoder=search,
    window=WINDOW.value,
    overlap=OVERLAP.value,
    batch_seconds=BATCH_SECONDS.value,
  )
  rows = transcript_files.transcribe_source(
    transcriber,
    source,
    OUT.value,
    references=said,
    about={
      'model': loaded.fingerprint,
      'window': WINDOW.value,
      'overlap': OVERLAP.value,
      **transcriber.decoder.about(),
    },
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
  )
  if jax.process_index():
    return
  for row in rows:  # In the order given; they were done by length.
    if 'text' in row:
      command.say(f'{row["id"]}: {row["text"]}')
  lines = list(summary(rows, loaded.model.vocabulary))
  lines[0] = f'{OUT.value}: {lines[0]}' if OUT.value else lines[0]
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
