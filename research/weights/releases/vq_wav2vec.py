"""vq-wav2vec under fairseq's names: the same class as wav2vec's there and here."""

from research.weights.releases.wav2vec import RELEASE

__all__ = ['MARKS', 'RELEASE']

# By what it is recognised, see `weights/detect.py`.
MARKS = (('vector_quantizer.', 'feature_aggregator.', 'feature_extractor.'),)
