"""Compiler options that halve the time to compile, for programs that run once; the HLO has the same operations."""

import jax

QUICK = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # newer versions do not know the option
    QUICK["xla_cpu_use_fusion_emitters"] = False
