"""The CPU's kernels in C++: linear layers, attention over blocks, and what lies between them, in float32.

Compiled once for the machine (library.py); where that cannot be, the layers go on with torch's operators, which are the
reference that tests compare with. A process has them after `library.use()`, which runner/load.py calls.
"""
