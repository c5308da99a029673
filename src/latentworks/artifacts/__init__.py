"""The files between stages: one module, with `write_x` and `read_x`, for each kind of file.

A file or folder is written under a temporary name, flushed to disk and renamed, so that a reader
finds it complete or not at all. No file holds a time, a host or a path: equal inputs give equal
bytes.
"""
