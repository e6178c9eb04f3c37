"""The contract (tests/contract.py) on every model."""

import pytest

from research import models
from tests import contract
from tests.models import subjects

SUBJECTS = subjects.every()
# Takes layers, no audio: cached_layers_test.py.
NAMES = sorted(set(models.names()) - {'cached_layers'})
# One form of every model in every run of the tests; the other forms in `make test-all`.
# The parts of clapcap are those of CLAP and GPT-2; tests/inference/caption_test.py runs it always.
# Those of Jukebox are seen by its own tests; its contract takes minutes to compile.
# VQ-VAE's decoder is a WaveNet; what is before it is seen by tests/inference/vq_vae_test.py.
# Audio language models take minutes too; tests/models/audio_prompts_test.py runs always.
# GCRN's LSTMs and two decoders compile for half a minute; tests/models/separating_test.py runs
# always.
# HuBERT stands for the transformers on waveforms. The others, and EnCodec and CLAP, compile for 20
# to 50 seconds each; their recorded cases (tests/parity) run always.
FIRST = set(NAMES) - {
  'audio_flamingo',
  'audio_flamingo2',
  'audio_flamingo3',
  'byol_a',
  'clap',
  'clapcap',
  'code_bert',
  'encodec',
  'encodec_lm',
  'gcrn',
  'jukebox',
  'jukebox_vqvae',
  'qwen2_audio',
  'qwen_audio',
  'sift_llm',
  'vq_vae',
  'wav2vec2',
  'wavlm',
  'whisper',
}


# One model of spectrograms; tests/train/step_test.py has a step of another on eight devices.
MESHED_QUICKLY = ('audio_mae',)


def marks(what):
  return () if what in FIRST else pytest.mark.slow


SUBJECT = pytest.mark.parametrize(
  'subject', [pytest.param(s, id=what, marks=marks(what)) for what, s in SUBJECTS.items()]
)
NAME = pytest.mark.parametrize('name', NAMES)


def test_every_model_is_here():
  assert {s.name for s in SUBJECTS.values()} == set(NAMES) <= set(SUBJECTS)


@SUBJECT
def test_padding_changes_nothing(subject):
  contract.check_padding(subject)


@pytest.mark.slow
@NAME
def test_jit_changes_nothing(name):
  contract.check_jit(SUBJECTS[name])


@pytest.mark.slow
def test_jit_changes_nothing_under_a_classifier():
  contract.check_jit(SUBJECTS['finetuned, audio_mae, classes'])


@SUBJECT
def test_equal_after_json(subject):
  contract.check_equality(subject)


@SUBJECT
def test_gradients_reach_every_parameter(subject):
  contract.check_gradients(subject)


@pytest.mark.slow
@SUBJECT
def test_bfloat16(subject):
  contract.check_bfloat16(subject)


MESHED = [
  pytest.param(
    subject,
    mesh,
    id=f'{what}-{mesh}',
    marks=() if what in MESHED_QUICKLY and min(mesh.values()) > 1 else pytest.mark.slow,
  )
  for what, subject in SUBJECTS.items()
  for mesh in subject.meshes
]


@pytest.mark.parametrize(('subject', 'mesh'), MESHED)
def test_meshes(subject, mesh):
  contract.check_mesh(subject, mesh)


@pytest.mark.slow
@pytest.mark.parametrize(
  'subject', [pytest.param(s, id=what) for what, s in SUBJECTS.items() if s.embeds]
)
def test_embed_any_length(subject):
  contract.check_embed_lengths(subject)
