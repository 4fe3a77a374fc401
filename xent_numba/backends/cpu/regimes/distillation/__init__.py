"""The divergence of a student from its teacher, KL(p ‖ q) with p = softmax(t/τ), q = softmax(s/τ), and its gradient.

terms    the mathematics: the terms of a vector of classes, and from their sums to losses and factors of the gradient
passes   the loops over the classes of a part of the rows: maxima; sums; the last sum and the gradient
lanes    a vector of rows, one in each lane
long     rows along their classes, a batch of them at a time
batch    the sums of a batch: of several rows, or of the parts of one
outcome  what these tell of the rows
output   the gradient of long rows, written while the next ones are summed
entry    the kernels

With o = max t − max s, the first two passes find S_t = Σ e_t, S_s = Σ e_s and Σ e_t (t − s − o), from which

    KL = (⟨p, t − s⟩ − o) / τ + log S_s − log S_t

is exact enough where it is not small.  Elsewhere the third pass sums, with δ_j = (t_j − s_j − c)/τ, c = ⟨p, t − s⟩,

    H = Σ p (exp(−δ) − 1 + δ),   KL = log1p(H)

in which every term is ≥ 0 and nothing cancels: a KL of 1e-30 has all its digits.  An error ε of c, in units of τ, has a
relative effect of ε.  Rows that are equal, or differ by a constant, have δ = 0 exactly.  For this t − s is not rounded
in δ, but is a pair of numbers, and not in c where the KL may be tiny (`needs_care`).

The third pass also writes the gradient, factor · (q − p).  Both arrays are read from memory once, or twice where a row
does not fit in a cache; nothing of their size is stored, but each thread keeps the exponentials of a tile, or of a
batch of long rows, from the second pass to the third.

Both regimes use the same functions.  In `lanes`, the lanes of a vector are the rows, whose classes follow one another
in a tile.  In `long` they are neighbouring classes of one row at first, whose sums are then added across the lanes; but
what follows from these sums is computed for as many rows as there are lanes, or from as many parts of one row.
"""
