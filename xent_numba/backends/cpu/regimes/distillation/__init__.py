"""The divergence of a student from its teacher, KL(p ‖ q) with p = softmax(t/τ), q = softmax(s/τ), and its gradient.

terms    the mathematics: the terms of a vector of classes, and from their sums to losses and factors of the gradient
passes   the loops over the classes of a part of the rows: maxima; sums; the last sum and the gradient
long     one row at a time, along its classes
lanes    a vector of rows, one in each lane
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
segment of a long row, from the second pass to the third.

Both regimes use the same functions: in `long` the lanes of a vector are neighbouring classes of one row, whose sums are
then added across the lanes; in `lanes` they are the rows, whose classes follow one another in a tile.  The values of a
row are a vector of one lane in `long`.
"""
