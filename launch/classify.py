"""What is heard in audio files: the classes with the highest scores.

python -m launch.classify --model=weights/ast --input=street.wav
python -m launch.classify --model=weights/ast --input=my/folder --top=3 --out=classes.jsonl
python -m launch.classify --model=weights/clap --labels=names.txt --input=a.wav

--model is a classifier (AST, any encoder under the head `classifier`), or a CLAP, for which
--labels are the classes (zero-shot); its tokenizer is that of the run, or the one beside the
weights, or --tokenizer. --input is a folder, an audio file, a list of files
or the name of a data set. Files of any length are cut into windows; launch.tag says where in them
classes are. --out keeps all scores: .jsonl, a line a clip. Files that cannot be read are named and
left out. Killed, the same command goes on where it was; several processes (--num_processes) share
the clips, and the disk.
"""

from absl import flags

from launch import classifiers, command, outputs
from launch.inputs import open_input

classifiers.define()
OUT = flags.DEFINE_string('out', None, 'File to write: .jsonl.')
TOP = flags.DEFINE_integer('top', 5, 'Classes that are printed of a clip.', lower_bound=1)
command.required('model', 'input')
command.distributed_flags()


@outputs.remote('out', folder=False)
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research.inference import classify

  values = flags.FLAGS
  source = open_input(values.input, split=values.split, root=values.data_root)
  ours, about = classifiers.classifier()
  rows = classify.classify_source(
    ours,
    source,
    OUT.value,
    about=about,
    overwrite=values.overwrite,
    max_bad_fraction=values.max_bad_fraction,
  )
  if jax.process_index():
    return
  for row in rows:  # In the order given; they were done by length.
    if 'error' not in row:
      found = list(row['scores'].items())[: TOP.value]
      command.say(f'{row["id"]}: ' + ', '.join(f'{name} {score:.3f}' for name, score in found))
  lines = list(outputs.left_out(rows))
  lines[0] = f'{OUT.value}: {lines[0]}' if OUT.value else lines[0]
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
