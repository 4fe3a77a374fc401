"""The device, its memory, and checks that are read later.

device      whether a GPU can be used, and if not, why; what it is
memory      allocation, scratch memory of a stream, copies from and to the host
deferred    `deferred_checks`: calls that never wait for the device
"""
