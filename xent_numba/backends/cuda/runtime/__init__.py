"""The device and its memory.

device      whether a GPU can be used, and if not, why; what it is
memory      allocation, scratch memory of a stream, copies from and to the host
"""
