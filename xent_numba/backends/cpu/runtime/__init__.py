"""How kernels are run.

threads       the threading policy: whether a call runs in parallel, and with how many threads
parallel_for  the parallel loop that all kernels share
"""
