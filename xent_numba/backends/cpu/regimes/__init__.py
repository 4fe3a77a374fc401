"""The regimes: the loops over rows, one for each kind of shape.  `cpu.plan` chooses among them.

    regime   rows that it computes                                        work item
    long     more than TILE_CLASSES classes side by side                  one row, along its classes
    split    fewer than SPLIT_ROWS rows of more than SEGMENT_CLASSES      one row, its segments in parallel
             classes side by side
    packed   PACKED_CLASSES to TILE_CLASSES classes side by side,         a vector of rows, each along its classes
             labels, float32 arithmetic
    lanes    all others: few classes, classes that are apart in           a vector of rows, one row in each lane
             memory, or float64, distributions and softmax up to
             TILE_CLASSES

The files in reading order:

entry           the kernel of each regime of losses; how work items are shared among threads
work_items      which rows a work item is
long/           rows that are computed one at a time, or one by all threads
lanes/          a vector of rows, one in each lane
packed/         a vector of rows, each along its classes
item_epilogue   from the statistics of a vector of rows to losses and gradient factors, for lanes and packed
staging         full cache lines for non-temporal stores
row_statistics/ what a row can tell: its kernels, and its rows in each regime
curvature/      Hessian-vector products, and the diagonal of the Hessian: in long, lanes and packed
softmax         softmax, log_softmax and logsumexp: their kernels, and their rows in lanes
shards          statistics and gradients of some of the classes, in long and lanes
distillation/   the divergence of a student from its teacher: long rows, and a vector of rows
label_scan      one pass over the labels, before any of these

A regime of losses is a function compute_rows(operands, start, stop, group, partials), described in `entry`.  To add
one: write that function, make its kernel in `entry`, name the kernel in `backend._KERNELS`, and let `plan` choose it.
Results must not depend on `start` and `stop`, since they depend on the number of threads.
"""
