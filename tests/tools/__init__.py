"""Programs for those who change the code; pytest collects nothing here.

fingerprints   a hash of every bit of some thousand results, to show that a refactoring changes none of them
smoke          every dtype, kind of target and regime of the cpu backend, with few kernels
arm64.sh       the smoke test on an emulated ARM processor
"""
