"""The emulated CUDA kernels, in the place of ``rankone._native.cuda``."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch


class EmulatedKernels:
    """Called like the CPU kernels, with a thread count; runs the CUDA functions on host memory."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, function):
        launch = getattr(self.module, function)
        workspace_size = getattr(self.module, f"{function}_workspace", None)

        def call(*arguments):
            *arguments, _num_threads = arguments
            stream = 0
            if workspace_size is None:
                launch(*arguments, stream)
                return
            # Bytes of 0xFF read as NaN: what a kernel has not written shows.
            workspace = torch.full((workspace_size(*arguments),), 255, dtype=torch.uint8)
            launch(*arguments, workspace.data_ptr(), stream)

        return call


@pytest.fixture(scope="session")
def emulation_module():
    build = os.environ.get("RANKONE_BUILD_DIR")
    if build is None:
        pytest.skip("RANKONE_BUILD_DIR names no build tree; `make test` sets it")
    (path,) = Path(build, "tests", "emulation").glob("rankone_emulation*.so")
    spec = importlib.util.spec_from_file_location("rankone_emulation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def emulated(emulation_module, monkeypatch):
    """Makes rankone.ops run CPU tensors on the emulated CUDA kernels."""
    from rankone.ops import _library

    kernels = EmulatedKernels(emulation_module)
    monkeypatch.setattr(_library, "native_for", lambda op, device, dtype: kernels)
    yield emulation_module
    emulation_module.set_schedule_seed(0)
