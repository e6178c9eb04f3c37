"""`launch.transcribe` with the toy CTC model added to the known models."""

from launch import command, transcribe
from research import models

models.ELSEWHERE['toy_ctc'] = 'tests.inference.toy_ctc:ToyCTC'

if __name__ == '__main__':
  command.run(transcribe.main)
