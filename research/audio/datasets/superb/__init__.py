"""The data of SUPERB (arXiv 2105.01051) and SUPERB-SG (arXiv 2203.06849) as published, with the
splits and classes of s3prl's downstream code. `table.SUPERB` is the list.

Every data set has a column `split` with train, valid and test. Effects of SoX: `gain -3` is applied
where s3prl applies it, as a factor of the samples; `silence` (verification) by a recipe that writes
the clips without pauses, `mixtures/pauses.py`.
"""
