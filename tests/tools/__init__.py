"""Programs for those who change the code; pytest collects nothing here.

fingerprints   a hash of every bit of some thousand results, to show that a refactoring changes none of them
"""
