"""The named data sets: folders, published layouts, splits, statistics.

`DATASETS` is the full list. A reader is given as 'module:function' and imported on use. It takes
the folder (`root`) and the arguments of a config, and returns a `Source`.
"""

import os
import pathlib

from research.audio.datasets.dataset import Dataset
from research.audio.datasets.superb.table import SUPERB
from research.errors import InputError

# The environment variable that names the folder of all data sets.
ROOT = 'OIDO_DATA'


class Absent(InputError):
  """A named data set was not found."""


_LIBRISPEECH_SPLITS = (
  'train-clean-100', 'train-clean-360', 'train-other-500', 'train', 'valid', 'test',
  'dev-clean', 'dev-other', 'test-clean', 'test-other',
)  # fmt: skip
_ESC50_FOLDERS = ('ESC-50', 'ESC-50-master', 'esc50')
_VOXFORGE = ('de', 'en', 'SpeechCorpus', 'es', 'fr', 'it', 'ru')
_SPEECH_COMMANDS_LAYOUT = (
  'WORD/*_nohash_*.wav, validation_list.txt, testing_list.txt, _background_noise_/'
)
_SPEECH_COMMANDS_MARKS = ('validation_list.txt', 'testing_list.txt')
# (mean, std) of log-mel values: AudioMAE main_pretrain.py and main_finetune_as.py.
_AUDIOSET, _ESC50 = (-4.2677393, 4.5689974), (-6.6268077, 5.358466)
_SPEECH_COMMANDS = (-6.845978, 5.5654526)

_VERSION_1 = ('speech_commands_v0.01', 'speech_commands_v1', 'spcv1')
_VERSION_2 = ('speech_commands_v0.02', 'speech_commands', 'SpeechCommands')


def _speech_commands(function: str, labels: str, folders: tuple[str, ...]) -> Dataset:
  """A fixed version and set of classes; `speech_commands` takes both as arguments."""
  return Dataset(
    reader=f'datasets.speech_commands:{function}',
    layout=_SPEECH_COMMANDS_LAYOUT,
    marks=_SPEECH_COMMANDS_MARKS,
    folders=folders,
    splits=('train', 'valid', 'test'),
    label='label',
    labels=labels,
    seconds=1.0,
  )


DATASETS: dict[str, Dataset] = {
  'builtin': Dataset(
    reader='datasets.builtin:builtin',
    layout='part of the package',
    splits=('train', 'valid', 'test'),
    label='label',
    labels='10 digits, 20 words, 12 sound events; select with where={"kind": …}',
  ),
  'builtin_sequences': Dataset(
    reader='datasets.builtin:builtin_sequences',
    layout='part of the package',
    splits=('train', 'valid', 'test'),
    label='label',
    labels='9 glides, 12 pairs of sounds, 12 pairs of words; select with where={"kind": …}',
    seconds=1.0,
  ),
  'librispeech': Dataset(
    reader='datasets.librispeech:librispeech',
    layout='SPEAKERS.TXT and train-clean-100/SPEAKER/CHAPTER/*.flac with *.trans.txt, …',
    marks=('train-*/*/*/*.flac', 'dev-*/*/*/*.flac', 'test-*/*/*/*.flac'),
    folders=('LibriSpeech', 'librispeech'),
    splits=_LIBRISPEECH_SPLITS,
    label='speaker',
    labels='the speakers found',
  ),
  'libri_light': Dataset(
    reader='datasets.librispeech:libri_light',
    layout='small/SPEAKER/BOOK/*.flac with *.json, and medium/, large/, duplicate/ likewise',
    marks=('small/*/*/*.flac', 'medium/*/*/*.flac', 'large/*/*/*.flac', 'duplicate/*/*/*.flac'),
    folders=('libri-light', 'librilight', 'libri_light', 'unlab-60k'),
    splits=('small', 'medium', 'large', 'duplicate', 'unlab-580', 'unlab-5.8k', 'unlab-58k'),
  ),
  'librispeech_finetuning': Dataset(
    reader='datasets.librispeech:librispeech_finetuning',
    layout='1h/0…5/{clean,other}/SPEAKER/CHAPTER/*.flac with *.trans.txt, 9h/{clean,other}/…',
    marks=('1h/*/*/*/*/*.flac', '9h/*/*/*/*.flac'),
    folders=('librispeech_finetuning',),
    splits=('10min', '1h', '9h', '10h'),
  ),
  'ljspeech': Dataset(
    reader='datasets.read_speech:ljspeech',
    layout='metadata.csv (id|text|normalized) and wavs/*.wav',
    marks=('metadata.csv',),
    folders=('LJSpeech-1.1', 'LJSpeech', 'ljspeech'),
    seconds=6.6,
  ),
  'libritts': Dataset(
    reader='datasets.read_speech:libritts',
    layout='train-clean-100/SPEAKER/CHAPTER/*.wav with *.trans.tsv or *.normalized.txt, …',
    marks=('train-*/*/*/*.wav', 'dev-*/*/*/*.wav', 'test-*/*/*/*.wav'),
    folders=('LibriTTS', 'LibriTTS_R', 'libritts', 'libritts_r'),
    splits=_LIBRISPEECH_SPLITS,
    label='speaker',
    labels='the speakers found',
  ),
  'vctk': Dataset(
    reader='datasets.read_speech:vctk',
    layout='wav48_silence_trimmed/SPEAKER/*_mic1.flac or wav48/SPEAKER/*.wav, txt/SPEAKER/*.txt, '
    'speaker-info.txt',
    marks=('wav48_silence_trimmed/*/*', 'wav48/*/*'),
    folders=('VCTK-Corpus-0.92', 'VCTK-Corpus', 'VCTK', 'vctk'),
    label='speaker',
    labels='110 speakers (0.92), 109 (0.80)',
    seconds=3.6,
  ),
  'voxpopuli': Dataset(
    reader='datasets.speech:voxpopuli',
    layout='transcribed_data/LANG/asr_{train,dev,test}.tsv with LANG/YEAR/*.ogg, or '
    'unlabelled_data/LANG/YEAR/*.ogg, or raw_audios/LANG/YEAR/*.ogg',
    marks=('transcribed_data/*/asr_*.tsv', 'unlabelled_data/*/*/*', 'raw_audios/*/*/*'),
    folders=('voxpopuli', 'VoxPopuli'),
    splits=('train', 'dev', 'test', 'unlabelled', 'raw'),
  ),
  'voxceleb1': Dataset(
    reader='datasets.speech:voxceleb1',
    layout='wav/idXXXXX/VIDEO/*.wav, iden_split.txt, vox1_meta.csv',
    marks=('wav/id1*', 'dev/wav/id1*', 'test/wav/id1*'),
    folders=('VoxCeleb1', 'voxceleb1', 'vox1'),
    splits=('train', 'valid', 'test'),
    label='speaker',
    labels='1251 speakers',
  ),
  'voxceleb2': Dataset(
    reader='datasets.speech:voxceleb2',
    layout='{dev,test}/aac/idXXXXX/VIDEO/* (converted to WAV, FLAC or OGG), vox2_meta.csv',
    marks=('dev/*/id0*', 'test/*/id0*', 'dev/id0*', 'aac/id0*', 'wav/id0*'),
    folders=('VoxCeleb2', 'voxceleb2', 'vox2'),
    splits=('dev', 'test'),
    label='speaker',
    labels='6112 speakers',
  ),
  'common_voice': Dataset(
    reader='manifests.common_voice:published',
    layout='LANG/{train,dev,test,validated,…}.tsv and LANG/clips/*.mp3',
    marks=('train.tsv', 'validated.tsv', '*/train.tsv', '*/validated.tsv'),
    folders=('common_voice', 'CommonVoice', 'cv-corpus'),
    splits=('train', 'dev', 'test', 'validated', 'invalidated', 'other'),
  ),
  'audioset': Dataset(
    reader='datasets.tags:audioset',
    layout='class_labels_indices.csv, {balanced_train,unbalanced_train,eval}_segments.csv, audio '
    'files named YTID or YTID_START in any subfolder',
    marks=('*_segments.csv', '*/*_segments.csv'),
    folders=('AudioSet', 'audioset'),
    splits=('balanced', 'unbalanced', 'eval', 'train'),
    label='label',
    labels='527 classes of class_labels_indices.csv',
    multilabel=True,
    statistics=_AUDIOSET,
    weights='balanced',
    seconds=10.0,
  ),
  'fsd50k': Dataset(
    reader='datasets.tags:fsd50k',
    layout='FSD50K.ground_truth/{dev,eval,vocabulary}.csv, FSD50K.dev_audio/*.wav, '
    'FSD50K.eval_audio/*.wav',
    marks=('FSD50K.ground_truth/*.csv',),
    folders=('FSD50K', 'fsd50k'),
    splits=('train', 'valid', 'test'),
    label='label',
    labels='200 classes of vocabulary.csv',
    multilabel=True,
  ),
  'esc50': Dataset(
    reader='datasets.tags:esc50',
    layout='meta/esc50.csv and audio/*.wav',
    marks=('meta/esc50.csv',),
    folders=_ESC50_FOLDERS,
    label='label',
    labels='50 classes in the order of the targets; column `fold` 1-5',
    statistics=_ESC50,
    seconds=5.0,
  ),
  'esc10': Dataset(
    reader='datasets.tags:esc10',
    layout='meta/esc50.csv and audio/*.wav',
    marks=('meta/esc50.csv',),
    folders=('ESC-10', 'esc10', *_ESC50_FOLDERS),
    label='label',
    labels='10 of the 50 classes of ESC-50; column `fold` 1-5',
    statistics=_ESC50,
    seconds=5.0,
  ),
  'speech_commands': Dataset(
    reader='datasets.speech_commands:speech_commands',
    layout=_SPEECH_COMMANDS_LAYOUT,
    marks=_SPEECH_COMMANDS_MARKS,
    folders=('speech_commands', 'speech_commands_v0.02', 'speech_commands_v0.01', 'SpeechCommands'),
    splits=('train', 'valid', 'test'),
    label='label',
    labels='35 words (version 2), 30 (version 1), or 12 with classes=12',
    statistics=_SPEECH_COMMANDS,
    seconds=1.0,
  ),
  'nsynth': Dataset(
    reader='datasets.tags:nsynth',
    layout='nsynth-{train,valid,test}/examples.json and audio/*.wav',
    marks=('nsynth-*/examples.json',),
    folders=('nsynth', 'NSynth'),
    splits=('train', 'valid', 'test'),
    label='label',
    labels='11 instrument families; columns pitch, instrument, source, qualities',
    seconds=4.0,
  ),
  'speech_commands_v2': _speech_commands(
    'version_2', '35 words of version 2', (*_VERSION_2, 'spcv2')
  ),
  'speech_commands_12': _speech_commands(
    'twelve', '10 commands, _silence_ and _unknown_, of version 2', _VERSION_2
  ),
  'speech_commands_v1': _speech_commands('version_1', '30 words of version 1', _VERSION_1),
  'speech_commands_v1_12': _speech_commands(
    'version_1_twelve', '10 commands, _silence_ and _unknown_, of version 1', _VERSION_1
  ),
  'urbansound8k': Dataset(
    reader='datasets.tags:urbansound8k',
    layout='metadata/UrbanSound8K.csv and audio/fold1…10/*.wav',
    marks=('metadata/UrbanSound8K.csv',),
    folders=('UrbanSound8K', 'urbansound8k', 'us8k'),
    label='label',
    labels='10 classes in the order of their numbers; column `fold` 1-10',
    seconds=4.0,
  ),
  'crema_d': Dataset(
    reader='datasets.voices:crema_d',
    layout='AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav',
    marks=('AudioWAV/1*_*_*_*', '10[0-9][0-9]_*_*_*.*'),
    folders=('CREMA-D', 'CREMA-D-master', 'crema_d', 'cremad'),
    splits=('train', 'valid', 'test'),
    label='label',
    labels='6 emotions',
    seconds=2.5,
  ),
  'voxforge': Dataset(
    reader='datasets.voices:voxforge',
    layout='{de,en,es,fr,it,ru}/…/SUBMISSION/{wav,flac}/*, or any folders with voxforge.csv '
    '(file_name,label,split)',
    marks=('voxforge.csv', *(f'{n}/**/{kind}' for n in _VOXFORGE for kind in ('wav', 'flac'))),
    folders=('VoxForge', 'voxforge'),
    splits=('train', 'valid', 'test'),
    label='label',
    labels='6 languages',
    seconds=5.8,
  ),
  'libricount': Dataset(
    reader='datasets.voices:libricount',
    layout='test/COUNT_*.wav',
    marks=('test/[0-9]*_*', 'LibriCount10-0dB/test/[0-9]*_*'),
    folders=('LibriCount10-0dB', 'LibriCount', 'libricount'),
    label='label',
    labels='0 to 10 voices',
    seconds=5.0,
  ),
  'gtzan': Dataset(
    reader='datasets.music:gtzan',
    layout='genres/GENRE/GENRE.NNNNN.wav, {train,valid,test}_filtered.txt',
    marks=('genres/*/*.0*.*', 'genres_original/*/*.0*.*', 'Data/genres_original/*/*.0*.*',
           'blues/blues.0*.*'),
    folders=('GTZAN', 'gtzan', 'genres', 'genres_original'),
    splits=('train', 'valid', 'test'),
    label='label',
    labels='10 genres',
    seconds=30.0,
  ),
  'audiocaps': Dataset(
    reader='datasets.captions:audiocaps',
    layout='{train,val,test}.csv (audiocap_id,youtube_id,start_time,caption), also in dataset/, '
    'audio files named YTID, YTID_START or by the audiocap_id in any subfolder',
    marks=tuple(f'{f}{n}.csv' for f in ('', 'dataset/', 'csv_files_v1/', 'dataset2.0/',
                                        'csv_files_v2/') for n in ('train', 'val', 'test')),
    folders=('AudioCaps', 'audiocaps', 'AUDIOCAPS'),
    splits=('train', 'val', 'valid', 'test'),
    seconds=10.0,
  ),
  'clotho': Dataset(
    reader='datasets.captions:clotho',
    layout='clotho_captions_{development,validation,evaluation}.csv (file_name,caption_1,…), also '
    'in a subfolder, and audio files in folders named by these parts',
    marks=('clotho_captions_*.csv', '*/clotho_captions_*.csv'),
    folders=('Clotho', 'clotho', 'CLOTHO', 'clotho_v2.1', 'CLOTHO_v2.1'),
    splits=('development', 'validation', 'evaluation', 'train', 'valid', 'test'),
    seconds=22.5,
  ),
  'wavcaps': Dataset(
    reader='datasets.captions:wavcaps',
    layout='json_files/PART/*_final.json ("data": id, caption), audio files named by their id in '
    'any subfolder',
    marks=('json_files/*/*_final.json', 'json_files/*_final.json', '*/*_final.json',
           '*_final.json'),
    folders=('WavCaps', 'wavcaps'),
  ),
  'musiccaps': Dataset(
    reader='datasets.captions:musiccaps',
    layout='musiccaps-public.csv, audio files named YTID, YTID_START or [YTID]-[START-END] in any '
    'subfolder',
    marks=('musiccaps-public.csv', 'MusicCaps.csv'),
    folders=('MusicCaps', 'musiccaps'),
    splits=('train', 'eval', 'test'),
    seconds=10.0,
  ),
  'surge': Dataset(
    reader='datasets.music:surge',
    layout='PRESET-velocity64/NOTE.ogg, and dataset_surge_tone_splits.csv for the split of EVAR',
    marks=('surge-*/[0-9]*.*',),
    folders=('surge', 'Surge'),
    splits=('train', 'valid', 'test'),
    label='label',
    labels='88 MIDI notes',
    seconds=4.0,
  ),
} | SUPERB  # fmt: skip


# Part of the package: never searched for.
PACKAGED = ('builtin', 'builtin_sequences')


def find(name: str, root: str | os.PathLike | None) -> tuple[pathlib.Path, bool]:
  """The folder of a named data set, and whether it has the published layout.

  Searches the usual folder names in `root`, then `root` itself; `root` defaults to $OIDO_DATA. A
  folder of that name with a labels.csv or labels.jsonl instead of the published layout is accepted
  and read as a generic folder.

  Raises:
    Absent: not found; states the expected layout and the searched folders.
  """
  entry = DATASETS[name]
  base = root if root is not None else os.environ.get(ROOT)
  if base is None:
    raise Absent(
      f'Data set {name!r} has to be on disk: give its folder as root= (or --data_root, ${ROOT}). '
      f'Expected in it: {entry.layout}.'
    )
  base = pathlib.Path(os.path.expanduser(base))
  named = [base / n for n in (*entry.folders, name)]
  if base.name.lower() in {n.lower() for n in (*entry.folders, name)}:
    named.insert(0, base)
  for folder in dict.fromkeys([*named, base]):
    if folder.is_dir() and any(next(folder.glob(mark), None) for mark in entry.marks):
      return folder, True
  for folder in named:
    if (folder / 'labels.csv').is_file() or (folder / 'labels.jsonl').is_file():
      return folder, False
  looked = ', '.join(dict.fromkeys(str(f) for f in [base, *named]))
  raise Absent(f'Data set {name!r} was not found: expected {entry.layout}. Looked in {looked}.')
