"""What is known of the data sets of SUPERB before they are opened."""

from research.audio.datasets.dataset import Dataset

SPLITS = ('train', 'valid', 'test')


def _superb(reader: str, layout: str, **known) -> Dataset:
  return Dataset(reader=f'datasets.superb.{reader}', layout=layout, **{'splits': SPLITS, **known})


SUPERB: dict[str, Dataset] = {
  'superb_asr': _superb(
    'words:superb_asr',
    'train-clean-100, dev-clean and test-clean of LibriSpeech; for phones beside them or as '
    'lexicon= the files librispeech-lexicon-{200k,allothers}-g2p.txt',
    marks=('train-clean-100/*/*/*.flac', 'dev-clean/*/*/*.flac', 'test-clean/*/*/*.flac'),
    folders=('LibriSpeech', 'librispeech'),
  ),
  'superb_ks': _superb(
    'commands:superb_ks',
    'WORD/*.wav and _background_noise_/*.wav of Speech Commands 0.01, and beside that folder '
    'speech_commands_test_set_v0.01/CLASS/*.wav (or test=)',
    marks=('_background_noise_/*',),
    folders=('speech_commands_v0.01', 'speech_commands_v1', 'speech_commands'),
    label='label',
    labels='10 commands, _unknown_ and _silence_',
    seconds=1.0,
  ),
  'superb_ic': _superb(
    'commands:superb_ic',
    'data/{train,valid,test}_data.csv and wavs/speakers/SPEAKER/*.wav of Fluent Speech Commands',
    marks=('data/train_data.csv',),
    folders=('fluent_speech_commands_dataset', 'fluent_speech_commands', 'ic'),
  ),
  'superb_sf': _superb(
    'commands:superb_sf',
    'all.iob.snips.txt, slots.txt and {train,valid,test}/ID.wav of Audio SNIPS',
    marks=('all.iob.snips.txt',),
    folders=('SNIPS', 'audio_snips', 'snips', 'sf'),
  ),
  'superb_qbe': _superb(
    'words:superb_qbe',
    'scoring/language_key_{utterances,dev,eval}.lst, and the audio that they list, of QUESST 2014',
    marks=('scoring/language_key_utterances.lst',),
    folders=('quesst14Database', 'quesst14', 'QUESST14'),
    splits=('documents', 'valid', 'test'),
  ),
  'superb_st': _superb(
    'words:superb_st',
    '{train,dev,test}.tsv of s3prl (id, audio, n_frames, sr, src_text, tgt_text), or '
    'covost_v2.en_de.{train,dev,test}.tsv of CoVoST 2 (path, sentence, translation), with clips/ '
    'beside them or as audio=',
    marks=('covost_v2.*.train.tsv', 'train.tsv', 'covost_v2.*.test.tsv', 'test.tsv'),
    folders=('covost_en_de', 'covost', 'covost2', 'CoVoST2'),
  ),
  'superb_sid': _superb(
    'speakers:superb_sid',
    'veri_test_class.txt (or iden_split.txt) and {dev,test}/wav/idNNNNN/VIDEO/*.wav of VoxCeleb1',
    marks=('veri_test_class.txt', 'iden_split.txt'),
    folders=('VoxCeleb1', 'voxceleb1', 'vox1'),
    label='speaker',
    labels='1251 speakers',
  ),
  'superb_asv': _superb(
    'speakers:superb_asv',
    'dev/wav/idNNNNN/VIDEO/*.wav, test/wav/… and voxceleb1_test_v2.txt (or veri_test2.txt, '
    'veri_test.txt) of VoxCeleb1',
    marks=('dev/wav/id*', 'test/wav/id*'),
    folders=('VoxCeleb1', 'voxceleb1', 'vox1'),
    splits=('train', 'test'),
    label='speaker',
    labels='1211 speakers of dev/wav',
  ),
  'superb_er': _superb(
    'emotion:superb_er',
    'Session1…5/sentences/wav/DIALOG/*.wav and Session1…5/dialog/EmoEvaluation/*.txt of IEMOCAP',
    marks=('Session*/dialog/EmoEvaluation/*.txt',),
    folders=('IEMOCAP_full_release', 'IEMOCAP', 'iemocap'),
    label='label',
    labels='neu, hap (with exc), ang, sad',
  ),
  'superb_sd': _superb(
    'mixtures:superb_sd',
    '{train or train-100,dev,test}/ with wav.scp, segments, utt2spk and reco2dur',
    marks=('train/reco2dur', 'train-100/reco2dur', 'dev/reco2dur', 'test/reco2dur'),
    folders=('Libri2Mix_diarization', 'diarization', 'sd', 'Libri2Mix/wav16k/max', 'wav16k/max'),
  ),
  'superb_se': _superb(
    'mixtures:superb_se',
    '{train,dev,test}/{noisy,clean}/wav.scp, or {noisy,clean}_{trainset_28spk,testset}_wav_16k/ of '
    'VoiceBank-DEMAND',
    marks=('*/noisy/wav.scp', 'noisy_trainset_28spk_wav*', 'noisy_testset_wav*'),
    folders=('voicebank', 'noisy-vctk-16k', 'VoiceBank-DEMAND', 'noisy', 'se'),
  ),
  'superb_ss': _superb(
    'mixtures:superb_ss',
    '{train-100,dev_1000 or dev,test}/{mix_clean,s1,s2}/ with wav.scp or audio, of Libri2Mix '
    '(wav16k/min)',
    marks=('train-100/s1', 'dev/s1', 'dev_1000/s1', 'test/s1'),
    folders=('Libri2Mix/wav16k/min', 'wav16k/min', 'Libri2Mix', 'ss'),
  ),
  'superb_vc': _superb(
    'words:superb_vc',
    'SPEAKER/E10001.wav … of VCC 2020 (TEF1, TEF2, TEM1, TEM2, SEF1, SEF2, SEM1, SEM2), '
    'prompts/Eng_transcriptions.txt',
    marks=('T[EFGM][FM][12]/*.wav', 'T[EFGM][FM][12]/*.flac'),
    folders=('vcc2020', 'VCC2020'),
  ),
}
