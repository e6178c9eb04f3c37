"""Audio files to codes and back, by a codec (EnCodec).

python -m launch.codec --model=encodec_24khz-d7cc33bc.th --bandwidth=6 --input=my/folder --out=codes
python -m launch.codec --model=encodec_24khz-d7cc33bc.th --decode --input=codes --out=audio

--input is a folder, an audio file, a list of files, or the name of a data set, of any length, rate
and number of channels: a mono codec takes the mean of channels; a stereo codec takes mono files on
both sides, and both channels of stereo files. NAME.wav becomes NAME.ecdc in the folder --out (files
of encodec, for the codecs of 24 and 48 kHz), or with --format .npz or .safetensors: `codes`
[frames, codebooks], `samples`, `sample_rate`, `frames` and `scales` of segments. files.jsonl lists
them. --format=tsv writes one file --out, a line a clip, "c0-c1-…" a frame
(`research/units/code_files.py`), and --format=units a folder of units to train on for each codebook
(--config.data.fields.units of a language model of codes); both of any model with a codebook, a
VQ-VAE or a vq-wav2vec too.

With --lm=encodec_lm_24khz-1608e3c0.th encodec's language model packs .ecdc files (20 to 30 %
smaller, say its authors): slowly, a frame at a time, and so that only the same program on the same
kind of machine reads them, with the same --lm.

With --decode, --input is a file or a folder of such files, and --out a folder of audio files
(--audio_format=wav, in floats, or flac). Killed, the same command goes on where it was; several
processes (--num_processes) share the files that are encoded.
"""

from pathlib import Path
from typing import Any

from absl import flags

from launch import command, outputs
from launch.inputs import open_input

MODEL = flags.DEFINE_string('model', None, 'Weights: a workdir, a checkpoint or a file.')
RELEASE = flags.DEFINE_string('release', None, 'Whose original weights --model is, if not ours.')
INPUT = flags.DEFINE_string(
  'input', None, 'A folder, an audio file, a list (.txt, .csv, .tsv, .jsonl), or a data set.'
)
OUT = flags.DEFINE_string('out', None, 'Folder to write to; a .tsv file with --format=tsv.')
DECODE = flags.DEFINE_bool('decode', False, 'Make audio of files of codes.')
BANDWIDTH = flags.DEFINE_float('bandwidth', None, 'kbit/s of codes; all codebooks if not given.')
FORMAT = flags.DEFINE_enum(
  'format', 'ecdc', ['ecdc', 'npz', 'safetensors', 'tsv', 'units'], 'Of codes.'
)
AUDIO_FORMAT = flags.DEFINE_enum('audio_format', 'wav', ['wav', 'flac'], 'Of audio files.')
LM = flags.DEFINE_string('lm', None, 'Weights of the language model that packs .ecdc files.')
SPLIT = flags.DEFINE_string('split', None, 'Only the clips of this split of the input.')
DATA_ROOT = flags.DEFINE_string(
  'data_root', None, 'Folder of named data sets ($OIDO_DATA if not given).'
)
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Do a finished folder again.')
MAX_BAD = flags.DEFINE_float(
  'max_bad_fraction', 0.5, 'Fraction of unreadable files that stops the run.'
)
command.required('model', 'input', 'out')
command.distributed_flags()


@outputs.remote('out', folder=lambda: DECODE.value or FORMAT.value != 'tsv')
def main(argv):
  del argv
  command.start_jax()
  import jax

  from research import weights
  from research.errors import InputError
  from research.inference import codec, codec_files
  from research.inference.entropy import EntropyCoder

  loaded = weights.load(str(MODEL.value), release=RELEASE.value)
  about, packer = {'model': loaded.fingerprint}, None
  if LM.value is not None:
    if not DECODE.value and FORMAT.value != 'ecdc':
      raise InputError(f'--lm is for .ecdc files, and --format is {FORMAT.value}: leave one out.')
    lm = weights.load(LM.value)
    packer = EntropyCoder(lm.model, lm.variables)
    about['lm'] = lm.fingerprint
  how: dict[str, Any] = dict(overwrite=OVERWRITE.value, max_bad_fraction=MAX_BAD.value)
  # Lines of codes are written of any model with a codebook, a VQ-VAE or a vq-wav2vec too.
  own: Any = None
  if DECODE.value or FORMAT.value not in ('tsv', 'units'):
    own = codec.Codec(loaded.model, loaded.variables, BANDWIDTH.value, packer)
    about['codebooks'] = own.n_q
  if DECODE.value:
    for name in ('bandwidth', 'format', 'split'):
      if flags.FLAGS[name].present:
        raise InputError(f'--{name} is for encoding: --decode takes what the files hold.')
    done = codec_files.decode_folder(
      own, str(INPUT.value), str(OUT.value), format=AUDIO_FORMAT.value, overwrite=OVERWRITE.value
    )
    command.say(f'{OUT.value}: {done} files')
    return
  source = open_input(INPUT.value, split=SPLIT.value, root=DATA_ROOT.value)
  if FORMAT.value in ('tsv', 'units'):
    from research.units import code_files

    if BANDWIDTH.value is not None:
      loaded = weights.load(str(MODEL.value), release=RELEASE.value, bandwidth=BANDWIDTH.value)
    path = Path(str(OUT.value))
    given: Any = (loaded.model, loaded.variables, source, path)
    if FORMAT.value == 'units':
      if how.pop('overwrite'):
        raise InputError('--format=units replaces no folder: give another --out.')
      found = code_files.write_units(*given, fingerprint=loaded.fingerprint, **how)
    else:
      found = code_files.write_codes(*given, fingerprint=loaded.fingerprint, **how)
    if found:
      command.say(f'{path}: {found["clips"]} clips, {found["frames"]} frames')
    return
  rows = codec_files.encode_source(
    own, source, str(OUT.value), format=FORMAT.value, about=about, **how
  )
  if jax.process_index():
    return
  lines = list(outputs.left_out(rows))
  lines[0] = f'{OUT.value}: {lines[0]}'
  command.say('\n'.join(lines))


if __name__ == '__main__':
  command.run(main)
