"""Settings shared by all tests."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    """CUDA tests are skipped, visibly, where there is no device or no CUDA build."""
    from rankone.ops._library import native_module

    native = native_module()
    if not torch.cuda.is_available():
        reason = "no CUDA device"
    elif native is None or not native.has_cuda:
        reason = "rankone was built without CUDA"
    else:
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def threads():
    """Restores torch's thread count after a test that changes it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
