"""SIFT-LLM, silence behind a clip heard and not."""

from tests.models.subjects.qwen2_audio import subject

SUBJECTS = {
  'sift_llm': subject('sift_llm', 30),
  'sift_llm, without silence': subject('sift_llm', 30, whole_windows=False, scan_layers=True),
}
