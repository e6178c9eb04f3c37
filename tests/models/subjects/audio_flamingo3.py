"""Audio Flamingo 3 with the turn of Music Flamingo, as one program for all layers."""

from tests.models.subjects.qwen2_audio import subject

SUBJECTS = {
  'audio_flamingo3': subject(
    'audio_flamingo3', 30, audio_width=20, time_rotary_base=1200.0, scan_layers=True
  ),
}
