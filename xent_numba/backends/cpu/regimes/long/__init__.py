"""Long rows whose classes lie side by side: each is computed along its classes, a vector of them at a time.

rows         one row after the other: the loss, and the gradient that is written while the next row is read
statistics   the statistics of a row in one pass
order        argmax and rank, found block by block meanwhile
block        the sums of some classes of it
measures     the sums of `row.measures`, if they are asked for
rescale      sums relative to another shift
outputs      where one output of a row is written, or two at once
gradient     its gradient, or an output of another formula, each element written once
pending      what is written while the next row is read
saved        the gradient from a saved log-sum-exp
epilogue     from statistics to losses and gradient scalars
split        the kernels for one very long row, its segments in parallel
softmax      softmax, log_softmax and logsumexp of a row
"""
