"""A small vector language for kernels, compiled by Numba: each operation is an intrinsic or an inline function.

    vector         the type `Vector`; what `vtype` means
                   operators   + - * / & | > < ==
                   making      zero_vector, zero_float64_vector, minus_ones, splat, iota, one_lane; lanes_of
                   lane-wise   fma, polynomial, select, maximum, is_nan, shift_left, shift_right
                   scalars     opaque
    load_store     addresses   pointer, stride, advance, stack_buffer
                   scalars     load_scalar, store_scalar
                   vectors     load, load_n, load_part, gather, store, store_n, store_if_wanted; first_n_or
    cache_control  prefetch_l1, prefetch_l2, prefetch_ahead; stream (a non-temporal store), elements_to_alignment
    cast           values      promote, demote, demote_to_float32, truncate_integers, convert_to_float
                   bits        bitcast_to_int, bitcast_to_float
    reduce         one vector  reduce_add, reduce_max, any_true, all_true, first_true, first_true_of_four, extract_lane
                   many        reduce_add_each, reduce_max_each
    transpose      load_transposed, store_transposed, load_four_columns, store_four_columns
    math           exp         exp, exp_scaled and unscale, exp_adjusted, exp_scaled_adjusted, clamp_exp_arg
                   others      log1p, log_of_rounded, tanh, divide, compensated_add, with_error, apply_scale,
                               has_guard_digits
    exp_shifted    exp(x − c) for sums over a row, without the error of rounding x − c; and for products with a factor
    exp_avx512     exp of sixteen float32 on processors with AVX-512
    storage        dtypes in memory: decode, encode, masks; used by load_store, cache_control and transpose
    half           float16 where the processor cannot convert it; used by storage

Names are those of Google Highway, xsimd or LLVM where they fit, and _n means the first n lanes only.

To add an operation: if it can be written in terms of others, write an `@inline` function (or a `@specialize` one, to
choose by type) in the module of its kind, as `tanh` is.  If it needs an instruction of its own, write an `@intrinsic`:
it receives the types of its arguments, and returns a signature and a `codegen` that builds LLVM IR for vectors of any
dtype and number of lanes, as `fma` does.  Never use fast-math flags: the compiler could then change the order of a
sum.

To add a storage dtype, as float16 and bfloat16 are: choose a Numba dtype of the same size as its tag and add it to
`storage._STORED`; convert in `storage.decode` to float32 (or float64) and in `storage.encode` back, rounded once, to
nearest even.  Every load and store of vectors goes through these two, except `gather`.  Then let `arguments.native`
pass such arrays under the tag.
"""
