"""wav2vec and vq-wav2vec on the way out: the configuration beside the arrays, and back."""

import pytest

from research import models
from research.errors import InputError
from research.weights import Pretrained, conversion
from research.weights.releases.wav2vec import describe
from tests.weights.fairseq_files_test import check_there_and_back
from tests.weights.toy import filled

# Nothing here is the default of its model.
COMMON = dict(
  size='base', channels=12, encoder_layers=6, kernels=(3, 2), skip=False, residual_scale=0.3,
  conv_bias=False, zero_pad=True, log_compression=True, activation='gelu', steps=5, offset=2,
  negatives=7, dropout=0.11, input_dropout=0.12, context_dropout=0.13, gamma=0.4,
  temperature_start=1.5, temperature_end=0.25, temperature_decay=0.99,
  frontend={'normalise': True},
)  # fmt: skip
BOOK = dict(groups=3, codebook_size=4, combine_groups=True)
KINDS = {
  'wav2vec': ('wav2vec', dict(vq_type='none')),
  'gumbel': ('vq_wav2vec', dict(vq_type='gumbel', head_depth=3, **BOOK)),
  'k-means': ('vq_wav2vec', dict(vq_type='kmeans', **BOOK)),
}


def unusual(kind):
  release, own = KINDS[kind]
  model = models.get('wav2vec')(**COMMON, **own)
  return release, Pretrained('wav2vec', model, filled(model), 'a test')


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_is_lost(tmp_path, kind):
  check_there_and_back(*unusual(kind), tmp_path / 'model.safetensors')


def test_the_section_is_that_of_the_original_code():
  model = unusual('k-means')[1].model
  cfg = conversion.get('vq_wav2vec').compose(model)['cfg']
  section = cfg['model']
  assert section['_name'] == 'wav2vec' and cfg['task']['_name'] == 'audio_pretraining'
  frames = '[(12, 10, 5), (12, 8, 4), (12, 4, 2), (12, 4, 2), (12, 4, 2), (12, 1, 1)]'
  assert section['conv_feature_layers'] == frames
  assert section['conv_aggregator_layers'] == '[(12, 3, 1), (12, 2, 1)]'
  # fairseq's offset is a text.
  assert section['offset'] == '2' and describe({'cfg': cfg}).facts['offset'].value == 2
  auto = conversion.get('wav2vec').compose(models.get('wav2vec')(size='base'))['cfg']
  assert auto['model']['offset'] == 'auto' and 'offset' not in describe({'cfg': auto}).facts


def test_a_value_that_cannot_be_is_refused():
  with pytest.raises(InputError, match=r"cfg says num_negatives='many', which cannot be"):
    describe({'cfg': {'model': {'num_negatives': 'many'}}})
