"""The variables that make numerical libraries on this machine compute as an older processor would."""


def old_processor():
    """Environment for a kernel: one thread, and only the oldest instructions of ATen, oneDNN, MKL, OpenBLAS and NumPy."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    newer = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    return {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": " ".join(newer),
    }
