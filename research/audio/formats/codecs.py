"""The codec of a file that libsndfile cannot read, by name: what the user has to convert from."""

import struct

from research.audio.formats.raw import Raw

# Format tags of WAV (mmreg.h).
_WAV = {
  0x0003: 'floating point PCM', 0x0005: 'IBM CVSD', 0x0008: 'DTS', 0x000A: 'WMA Voice',
  0x0010: 'OKI ADPCM', 0x0014: 'G.723 ADPCM', 0x0016: 'DIGITEG', 0x0022: 'TrueSpeech',
  0x0028: 'Antex ADPCM', 0x0031: 'GSM 6.10', 0x0038: 'Rockwell ADPCM', 0x0040: 'G.721 ADPCM',
  0x0041: 'G.728 CELP', 0x0042: 'G.723.1', 0x0045: 'G.726', 0x0050: 'MPEG audio (MP2)',
  0x0055: 'MP3', 0x0057: 'AMR-NB', 0x0058: 'AMR-WB', 0x0059: 'G.726 ADPCM', 0x0061: 'Duck ADPCM',
  0x0062: 'Yamaha ADPCM', 0x0064: 'G.726', 0x0065: 'G.722', 0x0069: 'IMA ADPCM (Xbox)',
  0x0075: 'MetaSound', 0x0083: 'G.729', 0x00A1: 'AAC', 0x00FF: 'AAC', 0x0111: 'VivoActive G.723',
  0x0112: 'VivoActive Siren', 0x0125: 'Sanyo LD-ADPCM', 0x0130: 'ACELP', 0x0132: 'ACELP',
  0x0160: 'WMA 1', 0x0161: 'WMA 2', 0x0162: 'WMA Pro', 0x0163: 'WMA Lossless', 0x0200: 'ADPCM',
  0x0270: 'ATRAC3', 0x028E: 'Siren', 0x028F: 'G.722', 0x0401: 'Indeo Audio', 0x0500: 'On2 AVC',
  0x1600: 'AAC (ADTS)', 0x1602: 'AAC (LATM)', 0x2000: 'AC-3', 0x2001: 'DTS', 0x2048: 'Sonic',
  0x566F: 'Vorbis', 0x6771: 'Vorbis', 0x674F: 'Vorbis', 0x6750: 'Vorbis', 0x6751: 'Vorbis',
  0x4143: 'AAC', 0x706D: 'AAC', 0x7A21: 'AMR', 0xA106: 'AAC', 0xA109: 'Speex', 0xF1AC: 'FLAC',
}  # fmt: skip
# Sample entries of MP4, and codec ids of Matroska: looked for in the first bytes.
_MP4 = {
  b'alac': 'ALAC', b'Opus': 'Opus', b'ac-3': 'AC-3', b'ec-3': 'E-AC-3', b'samr': 'AMR-NB',
  b'sawb': 'AMR-WB', b'fLaC': 'FLAC', b'.mp3': 'MP3', b'dtsc': 'DTS', b'mp4a': 'AAC',
}  # fmt: skip
_MATROSKA = {
  b'A_OPUS': 'Opus', b'A_VORBIS': 'Vorbis', b'A_AAC': 'AAC', b'A_FLAC': 'FLAC', b'A_EAC3': 'E-AC-3',
  b'A_AC3': 'AC-3', b'A_MPEG/L3': 'MP3', b'A_MPEG/L2': 'MP2', b'A_PCM': 'PCM', b'A_DTS': 'DTS',
  b'A_TRUEHD': 'TrueHD', b'A_ALAC': 'ALAC', b'A_WAVPACK4': 'WavPack', b'A_MS/ACM': 'an ACM codec',
}  # fmt: skip
_OGG = {
  b'\x7fFLAC\1\0\0': 'FLAC in Ogg', b'\x7fFLAC\1\0\1': 'FLAC in Ogg',
  b'Speex   ': 'Speex in Ogg', b'\x80theora': 'Theora video in Ogg', b'fishead\0': 'Ogg Skeleton',
  b'CELT    ': 'CELT in Ogg', b'OggMIDI\0': 'MIDI in Ogg', b'PCM     ': 'PCM in Ogg',
}  # fmt: skip
_AIFC = {
  b'QDM2': 'QDesign Music 2', b'QDMC': 'QDesign Music', b'MAC3': 'MACE 3:1', b'MAC6': 'MACE 6:1',
  b'Qclp': 'Qualcomm PureVoice', b'G722': 'G.722', b'G728': 'G.728', b'SDX2': 'SDX2',
}  # fmt: skip
_CAF = {
  b'alac': 'ALAC', b'aac ': 'AAC', b'ilbc': 'iLBC', b'opus': 'Opus', b'ac-3': 'AC-3',
  b'.mp3': 'MP3', b'samr': 'AMR-NB', b'QDM2': 'QDesign Music 2', b'ec-3': 'E-AC-3', b'flac': 'FLAC',
}  # fmt: skip
_MAGIC = (
  (b'#!AMR-WB', 'AMR-WB'), (b'#!AMR', 'AMR-NB'), (b'#!EVC', 'EVS'), (b'#!SILK', 'SILK'),
  (b'\x02#!SILK', 'SILK'), (b'ADIF', 'AAC (ADIF)'), (b'MAC ', "Monkey's Audio"),
  (b'wvpk', 'WavPack'), (b'MPCK', 'Musepack'), (b'MP+', 'Musepack'), (b'TTA', 'TTA'),
  (b'OFR ', 'OptimFROG'), (b'LA0', 'Lossless Audio'), (b'ajkg', 'Shorten'), (b'tBaK', 'TAK'),
  (b'DSD ', 'DSD'), (b'FRM8', 'DSD'), (b'.RMF', 'RealAudio'), (b'.ra\xfd', 'RealAudio'),
  (b'FLV\1', 'FLV'), (b'\x0bw', 'AC-3'), (b'\x7f\xfe\x80\x01', 'DTS'), (b'MThd', 'MIDI'),
  (b'\x00\x00\x01\xba', 'an MPEG program stream'), (b'OpusHead', 'Opus'),
)  # fmt: skip
_ASF = bytes.fromhex('3026b2758e66cf11a6d900aa0062ce6c')
_HEAD = 2**16


def foreign(raw: Raw) -> str | None:
  """The codec and container of a file, if it is one that libsndfile does not know; else None.

  A WAV, AIFF, CAF, AU or Ogg file is known to it, though the codec in it may not be: see `inside`.
  """
  head = raw.read(0, _HEAD)
  if head[4:8] == b'ftyp' or head[4:8] in (b'moov', b'wide', b'mdat'):
    return f'{_mp4(raw, head)} in MP4/M4A'
  if head.startswith(b'\x1aE\xdf\xa3'):
    kind = 'WebM' if b'webm' in head[:64] else 'Matroska'
    return f'{_among(head, _MATROSKA, "audio")} in {kind}'
  if head.startswith(_ASF):
    return 'WMA'
  if head[:4] == b'RIFF' and head[8:12] == b'AVI ':
    return 'video in AVI'
  for magic, name in _MAGIC:
    if head.startswith(magic):
      return name
  at = 0
  if head[:3] == b'ID3' and len(head) > 10:
    at = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
  sync = raw.read(at, 2)
  if len(sync) == 2 and sync[0] == 0xFF and sync[1] & 0xF6 == 0xF0:
    return 'AAC (ADTS)'
  if len(sync) == 2 and sync[0] == 0x56 and sync[1] & 0xE0 == 0xE0:
    return 'AAC (LATM)'
  if head[:1] == b'G' and head[188:189] == b'G' and head[376:377] == b'G':
    return 'an MPEG transport stream'
  return None


def inside(raw: Raw) -> str | None:
  """The codec in a WAV, AIFF, CAF, AU or Ogg file that libsndfile refused; None if it knows it."""
  head = raw.read(0, _HEAD)
  if head[:4] in (b'RIFF', b'RF64', b'BW64', b'riff'):
    at = head.find(b'fmt ')
    skip = 24 if head[:4] == b'riff' else 8
    tag = struct.unpack_from('<H', head, at + skip)[0] if 0 <= at < len(head) - 34 else None
    if tag == 0xFFFE and at + skip + 26 <= len(head):
      tag = struct.unpack_from('<H', head, at + skip + 24)[0]
    if tag in (None, 1, 3, 6, 7, 2, 0x11, 0x31):  # libsndfile reads these: the file is damaged.
      return None
    return f'{_WAV.get(tag, f"the codec with format tag 0x{tag:04X}")} in WAV'
  if head[:4] == b'FORM' and head[8:12] == b'AIFC':
    at = head.find(b'COMM')
    kind = head[at + 26 : at + 30] if at >= 0 else b''
    known = kind in (
      b'NONE',
      b'sowt',
      b'twos',
      b'fl32',
      b'FL32',
      b'fl64',
      b'ulaw',
      b'alaw',
      b'ima4',
    )
    return None if known or not kind else f'{_AIFC.get(kind, _shown(kind))} in AIFF'
  if head[:4] == b'caff':
    at = head.find(b'desc')
    kind = head[at + 20 : at + 24] if at >= 0 else b''
    known = kind in (b'lpcm', b'ulaw', b'alaw')
    return None if known or not kind else f'{_CAF.get(kind, _shown(kind))} in CAF'
  if head[:4] == b'.snd':
    code = int.from_bytes(head[12:16], 'big')
    return None if code in range(1, 8) or code in (23, 25, 26, 27) else f'AU encoding {code}'
  if head[:4] == b'OggS':
    start = head[28 : 28 + 8]
    known = start[:7] in (b'\x01vorbis', b'OpusHea')
    return None if known else _OGG.get(start, f'the stream that begins with {start!r} in Ogg')
  return None


def _mp4(raw: Raw, head: bytes) -> str:
  """The codec by its sample entry; the index may lie at the end of the file."""
  tail = raw.read(max(_HEAD, raw.size - 2**20), 2**20)
  for part in (head, tail):
    at = part.find(b'stsd')
    if at >= 0:
      return _among(part[at : at + 64], _MP4, 'audio')
  return 'AAC or ALAC'


def _among(data: bytes, names: dict[bytes, str], other: str) -> str:
  return next((name for key, name in names.items() if key in data), other)


def _shown(kind: bytes) -> str:
  return f'the codec {kind.decode("latin-1")!r}'
