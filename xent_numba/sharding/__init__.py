"""Shards of the classes: what `shards` and `parts`, the public modules, do.  They import this folder when it is needed.

state      what a part of a loss is
build      parts made from a shard, from two other parts, or from numbers
checks     whether parts belong together, and whether all classes and labels are there
coverage   which classes a part has
merging    the mathematics: the sums of rows merged, and the losses and factors of gradients that follow from them
outcome    the loss, the logsumexp, and the gradient of a shard

What a backend does with a shard is in `backends.protocol`: `Shard`, `ShardStatistics` and `ShardCoefficients`.
"""
