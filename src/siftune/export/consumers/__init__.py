"""Scripts that let a trainer load an export and write what it made of it.

Each runs by itself, with the Python that the trainer is installed in: it imports the trainer and the standard library
and nothing of siftune. :mod:`siftune.export.check` runs them and compares.
"""
