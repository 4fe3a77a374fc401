"""What a row can tell: log-probability, entropy, argmax, rank and logsumexp, from the statistics of the losses.

operands   the arguments of a call, and what its fields need
fields     from the statistics of a vector of rows to their fields
long       long rows
packed     rows of a few dozen to a few hundred classes; packed_row: one of them
lanes      short rows, and rows whose classes are apart
entry      the kernels
"""
