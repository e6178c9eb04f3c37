"""Captions of audio files: what is heard, in a sentence.

python -m launch.caption --model=clapcap_weights_2023.pth --tokenizer=gpt2 --input=street.wav
python -m launch.caption --model=runs/mine --input=my/folder --out=captions.tsv

--model is a clapcap (GPT-2 behind the audio embedding of Microsoft's CLAP): the published file, or
a run that trained one. Its tokenizer is that of the run, or the one beside the weights
(tokenizer.json, or vocab.json with merges.txt, of gpt2), or --tokenizer. --input is a folder, an
audio file, a list of files or the name of a data set. Of clips above 7 s the first 7 count, or with
--windows each 7 s get a caption. --out keeps the captions: .jsonl, .tsv or .txt. Killed, the same
command goes on where it was; several processes (--num_processes) share the clips, and the disk.
"""

from absl import flags

from launch import command, outputs
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'File to write: .jsonl, .tsv or .txt.')
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
TOKENIZER = flags.DEFINE_string(
  'tokenizer', None, "A folder or a file that came with the weights, or 'bytes'."
)
SUFFIX = flags.DEFINE_string(
  'suffix', None, 'What ended captions in training (that of a run is known).'
)
BEAM = flags.DEFINE_integer('beam', 5, 'Hypotheses of the search.', lower_bound=1)
MAX_TOKENS = flags.DEFINE_integer('max_tokens', 67, 'Of a caption, at most.', lower_bound=1)
TEMPERATURE = flags.DEFINE_float('temperature', 1.0, 'Logits are divided by it.')
WINDOWS = flags.DEFINE_bool('windows', False, 'A caption for every window of a longer clip.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the file if it is there.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
command.required('model', 'input')
command.distributed_flags()


@outputs.remote('out', folder=False)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.inference import caption
  from research.weights import writers

  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  captioner = writers.captioner(
    loaded, TOKENIZER.value, SUFFIX.value, beams=BEAM.value, max_tokens=MAX_TOKENS.value,
    temperature=TEMPERATURE.value, windows=WINDOWS.value,
  )  # fmt: skip
  rows = caption.caption_source(
    captioner,
    source,
    OUT.value,
    about={'model': loaded.fingerprint},
    overwrite=OVERWRITE.value,
    max_bad_fraction=MAX_BAD.value,
  )
  if jax.process_index():
    return
  for row in rows:  # In the order given; they were done by length.
    if 'text' in row:
      command.say(f'{row["id"]}: {row["text"]}')
  lines = list(outputs.left_out(rows))
  lines[0] = f'{OUT.value}: {lines[0]}' if OUT.value else lines[0]
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
