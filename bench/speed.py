"""The precision of matrix products: the fast path where it is exact enough, probed on the machine at hand."""

from __future__ import annotations

import torch

MATMUL_TOLERANCE = 1e-5  # largest relative error at which the fast path still counts as fp32


def probe_matmul() -> float:
    """Relative error of a 256 x 256 x 256 product under the setting "medium" against float64, on this CPU.

    "medium" sends fp32 products through oneDNN. On most CPUs that is still fp32 arithmetic; with AMX it may be bf16.
    """
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    try:
        torch.set_float32_matmul_precision("medium")
        error = (a @ b).double() - a.double() @ b.double()
    finally:
        torch.set_float32_matmul_precision(before)
    return float(error.norm() / (a.double() @ b.double()).norm())


def set_matmul(choice: str, device: str) -> str:
    """Apply `matmul=auto|highest`; returns the precision in force, which belongs to a run's provenance.

    auto on CPU: "medium" where the probe shows it exact to 1e-5, else "highest". On CUDA: always "highest" (no TF32).
    """
    fast = choice == "auto" and device == "cpu" and probe_matmul() <= MATMUL_TOLERANCE
    precision = "medium" if fast else "highest"
    torch.set_float32_matmul_precision(precision)
    return precision
