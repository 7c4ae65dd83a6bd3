"""Disk: one module a stage, and what the stages share.

Importing the package pins the instruction set, because bits change with it and the pins must be
in place before torch is imported, whichever stage is started.
"""

import os

os.environ.update(
    MKL_CBWR="AVX2,STRICT",
    ONEDNN_MAX_CPU_ISA="AVX2",
    ATEN_CPU_CAPABILITY="avx2",
)
