"""Audio Flamingo 2, as one program for all layers."""

from tests.models.subjects.audio_flamingo import SMALL, subject

OWN = dict(
  clap_width=32, audio_width=64, audio_heads=1, text_kv_heads=2, hop_seconds=0.1, max_windows=2
)
SMALL2 = SMALL | OWN
SUBJECTS = {'audio_flamingo2': subject('audio_flamingo2', **OWN, scan_layers=True)}
