"""Qwen-Audio: a clip between its tags."""

from tests.models.subjects.qwen2_audio import subject

SUBJECTS = {
  'qwen_audio': subject(
    'qwen_audio', [28, 30, 30, 30, 30, 29], audio_start=28, head_dim=4, seq_length=8
  ),
}
