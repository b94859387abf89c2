"""Messages as PyTorch, cuDNN, cuBLAS, cuFFT, NCCL and Triton write them, by their cure."""

import pytest
import torch

from speechmill.pipeline import device_errors
from speechmill.pipeline.device_errors import broken_device, device_works, is_broken, is_full
from speechmill.pipeline.errors import DeviceBroken

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
]
BROKEN = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel …"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuFFT error: CUFFT_EXEC_FAILED"),
    torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:1275, unhandled"),
]
OF_THE_PROGRAM = [
    RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    KeyError("CUDA error"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_an_error_of_memory_splits_the_batch(error: Exception) -> None:
    assert is_full(error)
    assert not is_broken(error)
    with pytest.raises(type(error)), broken_device():
        raise error


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_an_error_of_the_device_breaks_it_unless_a_kernel_still_runs(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_broken(error)
    monkeypatch.setattr(device_errors, "device_works", lambda device: False)
    with pytest.raises(DeviceBroken, match=type(error).__name__), broken_device():
        raise error
    monkeypatch.setattr(device_errors, "device_works", lambda device: True)
    with pytest.raises(type(error)), broken_device():
        raise error


@pytest.mark.parametrize("error", OF_THE_PROGRAM, ids=str)
def test_an_error_of_the_program_is_neither(error: Exception) -> None:
    assert not is_full(error)
    assert not is_broken(error)


def test_a_device_works_if_it_exists() -> None:
    assert device_works() == torch.cuda.is_available()
