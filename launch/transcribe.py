"""Transcripts of audio files, with the times of the words.

python -m launch.transcribe --model=weights/mine --input=speech.wav --out=speech.srt
python -m launch.transcribe --model=weights/mine --input=my/folder --out=t.jsonl --lm=4-gram.arpa.gz

--model is a model with a CTC head (fine-tuned on transcripts), or a Whisper: a .pt of openai, a
folder of transformers, hf://openai/whisper-tiny.en, or a run that fine-tuned one. A Whisper needs
its tokenizer: gpt2.tiktoken, multilingual.tiktoken, tokenizer.json or vocab.json beside its weights
(hf:// fetches it, a run names it), or --tokenizer. --input is a folder, an audio file,
a list of files (.txt: a path a line; .csv, .tsv, .jsonl: a column `path`; relative paths start at
the list), or the name of a data set. Texts are printed in the order given; --out keeps them with
the times of their words: .jsonl, .txt, .ctm, and for one recording .srt, .vtt and .tsv. Killed, the
same command goes on where it was; several processes (--num_processes) share the clips, and the
disk. Where the input has transcripts (a column `transcript`), word and character error rates are
printed in the end; those of a Whisper count normalised texts.
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
OUT = flags.DEFINE_string('out', None, 'File to write: .jsonl, .txt, .srt, .vtt, .tsv or .ctm.')
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
  'beam', None, 'Beam search with N prefixes (50 with --lm; greedy without either), or, with a '
  'Whisper, hypotheses.',
  lower_bound=1,
)  # fmt: skip
TOKENIZER = flags.DEFINE_string('tokenizer', None, "Whisper's, if not beside its weights.")
LANGUAGE = flags.DEFINE_string('language', None, "Whisper's; detected if not given.")
TASK = flags.DEFINE_enum(
  'task', None, ['transcribe', 'translate'], "Whisper's: translate into English, or not."
)
TEMPERATURES = flags.DEFINE_list(
  'temperature', None, "Whisper's, tried in turn (0,0.2,0.4,0.6,0.8,1 if not given)."
)
BEST_OF = flags.DEFINE_integer(
  'best_of', None, "Whisper's draws where the temperature is above 0.", lower_bound=1
)
PROMPT = flags.DEFINE_string('initial_prompt', None, 'Text before the first window of a Whisper.')
CONDITION = flags.DEFINE_bool(
  'condition_on_previous_text', None, 'A Whisper sees what it wrote before (yes if not given).'
)
WORDS = flags.DEFINE_bool(
  'word_timestamps', None, 'A Whisper gives the times of words too (with .ctm if not given).'
)
NO_SPEECH = flags.DEFINE_float(
  'no_speech_threshold', None, "Whisper's: probability of no speech above which improbable text is "
  'left out (0.6 if not given).',
)  # fmt: skip
LOGPROB = flags.DEFINE_string(
  'logprob_threshold', None, "Whisper's: text is improbable below it (-1 if not given); none: text "
  'of a probably silent window is always left out.',
)  # fmt: skip
HALLUCINATION = flags.DEFINE_float(
  'hallucination_silence_threshold', None, "Whisper's, with --word_timestamps: silence of more "
  'than N seconds around improbable text is left out with it.',
)  # fmt: skip
SKIP = flags.DEFINE_bool(
  'skip_unvoiced', None, 'A Whisper does not decode windows in which there is no voice.'
)
WINDOWS = flags.DEFINE_enum(
  'windows', None, ['sequential', 'voice', 'fixed'], "Whisper's: each behind the text before "
  '(if not given), cut in pauses, or of 30 s with --overlap; the last two are decoded in batches.',
)  # fmt: skip
CLIPS = flags.DEFINE_string('clip_timestamps', None, 'Seconds start,end,… that a Whisper hears.')
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

OF_WHISPER = (
  TOKENIZER, LANGUAGE, TASK, TEMPERATURES, BEST_OF, PROMPT, CONDITION, WORDS, CLIPS,
  NO_SPEECH, LOGPROB, HALLUCINATION, SKIP, WINDOWS,
)  # fmt: skip


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


def system(loaded):
  """(what transcribes, what else its result depends on, how texts are compared) of weights."""
  from research.capabilities import WritesSpeech
  from research.inference import ctc, transcribe

  if isinstance(loaded.model, WritesSpeech):
    return whisper(loaded)
  refuse(OF_WHISPER, 'is for a Whisper')
  ctc.check_ctc(loaded.model)
  transcriber = transcribe.Transcriber(
    loaded.model,
    loaded.variables,
    decoder=decoder(loaded.model),
    window=WINDOW.value,
    overlap=OVERLAP.value,
    batch_seconds=BATCH_SECONDS.value,
  )
  about = {'window': WINDOW.value, 'overlap': OVERLAP.value, **transcriber.decoder.about()}
  return transcriber, about, dict(symbols=loaded.model.vocabulary)


def refuse(flags_of_another, reason):
  """Raises InputError for the first flag that was given and does not fit the model."""
  from research.errors import InputError

  for flag in flags_of_another:
    if flag.present:
      raise InputError(f'--{flag.name} {reason}, and --model is none: leave it out.')


def whisper(loaded):
  """`system` of a Whisper."""
  from research.inference.transcribers import read_tokenizer
  from research.inference.whisper_decoding import Options, WhisperDecoder
  from research.inference.whisper_files import WhisperTranscriber, normalised
  from research.inference.whisper_settings import TEMPERATURES as USUAL
  from research.inference.whisper_settings import Transcription

  refuse((LM, LEXICON, LM_WEIGHT, WORD_SCORE, WINDOW), 'is for a model with a CTC head')
  if WINDOWS.value != 'fixed':
    refuse((OVERLAP,), 'is for a model with a CTC head, or for --windows=fixed')
  tokenizer = read_tokenizer(loaded.model, TOKENIZER.value or loaded.tokenizer)
  words = str(OUT.value).endswith('.ctm') if WORDS.value is None else WORDS.value
  how = Transcription(
    temperature=USUAL if TEMPERATURES.value is None else numbers(TEMPERATURES),
    initial_prompt=PROMPT.value,
    condition_on_previous_text=CONDITION.value is not False,
    no_speech_threshold=0.6 if NO_SPEECH.value is None else NO_SPEECH.value,
    logprob_threshold=threshold(),
    word_timestamps=words,
    clip_timestamps=CLIPS.value or '0',
    hallucination_silence_threshold=HALLUCINATION.value,
    skip_unvoiced=bool(SKIP.value),
    windows=WINDOWS.value or 'sequential',
    overlap=OVERLAP.value,
    options=Options(
      task=TASK.value or 'transcribe',
      language=LANGUAGE.value,
      beam_size=BEAM.value,
      best_of=BEST_OF.value,
    ),
  )
  decoder = WhisperDecoder(loaded.model, loaded.variables, tokenizer)
  if LANGUAGE.value is not None:
    decoder.with_language(LANGUAGE.value)
  transcriber = WhisperTranscriber(decoder, how, batch_seconds=BATCH_SECONDS.value)
  return transcriber, transcriber.about(), dict(normalise=normalised)


def threshold():
  """--logprob_threshold.

  Raises:
    InputError: neither a number nor none.
  """
  from research.errors import InputError

  given = LOGPROB.value
  if given is None or given.lower() == 'none':
    return -1.0 if given is None else None
  try:
    return float(given)
  except ValueError as error:
    raise InputError(f'--logprob_threshold={given}: expected a number or none.') from error


def numbers(flag):
  """The numbers of a list.

  Raises:
    InputError: one is no number.
  """
  from research.errors import InputError

  try:
    return tuple(float(value) for value in flag.value)
  except ValueError as error:
    raise InputError(f'--{flag.name}={",".join(flag.value)}: expected numbers.') from error


def summary(rows, compared):
  """Lines that say what is done: files that were left out, and error rates if there are any."""
  from research.inference import transcript_files

  yield from outputs.left_out(rows)
  clips, words, characters = transcript_files.error_rates(rows, **compared)
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
  from research.inference import transcript_files

  for flag in (LEXICON, LM_WEIGHT, WORD_SCORE):
    if flag.value is not None and LM.value is None:
      raise InputError(f'--{flag.name} is for the search with an n-gram: give --lm too.')
  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  if OUT.value is not None:
    transcript_files.check_out(OUT.value, len(source), OVERWRITE.value)
  said = references(source, REFERENCE.value)
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  transcriber, about, compared = system(loaded)
  rows = transcript_files.transcribe_source(
    transcriber,
    source,
    OUT.value,
    references=said,
    about={'model': loaded.fingerprint, **about},
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
  )
  if jax.process_index():
    return
  for row in rows:  # In the order given; they were done by length.
    if 'text' in row:
      command.say(f'{row["id"]}: {row["text"]}')
  lines = list(summary(rows, compared))
  lines[0] = f'{OUT.value}: {lines[0]}' if OUT.value else lines[0]
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
