"""Which devices a graph computes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from rankone.cayley.errors import CayleyError, check, check_range


@dataclass(frozen=True)
class DeviceConfig:
    """Devices, the main one first.

    Example:
        >>> DeviceConfig.create("cpu").device
        device(type='cpu')
    """

    devices: tuple[torch.device, ...]

    @staticmethod
    def create(
        device: str = "auto",
        num_gpus: int | None = None,
        specific_devices: Sequence[int | str | torch.device] | None = None,
    ) -> DeviceConfig:
        """Choose devices.

        Args:
            device: "cpu", "cuda", "cuda:1", ..., or "auto": a GPU where there is one.
            num_gpus: how many GPUs at most; 0 means the CPU.
            specific_devices: exactly these GPUs.

        Raises:
            CayleyError: for a device that does not exist here.
        """
        available = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if specific_devices is not None:
            devices = tuple(_cuda_device(entry) for entry in specific_devices)
            check(devices, "specific_devices must not be empty")
            check(
                len(set(devices)) == len(devices),
                f"specific_devices must be different, got {list(specific_devices)}",
            )
        else:
            if num_gpus is not None:
                check_range("num_gpus", num_gpus, 0)
            if device == "auto":
                device = "cuda" if available and num_gpus != 0 else "cpu"
            try:
                first = torch.device(device)
            except (RuntimeError, TypeError):
                raise CayleyError(f"device must be auto, cpu or cuda, got {device!r}") from None
            if first.type != "cuda":
                return DeviceConfig((first,))
            if first.index is not None:
                devices = (first,)
            else:
                wanted = available if num_gpus is None else num_gpus
                check(
                    1 <= wanted <= available,
                    f"device 'cuda' with num_gpus={num_gpus} cannot be used here: "
                    f"{available} GPUs found",
                )
                devices = tuple(torch.device("cuda", index) for index in range(wanted))
        for entry in devices:
            check(
                (entry.index or 0) < available,
                f"device '{entry}' cannot be used here: {available} GPUs found",
            )
        return DeviceConfig(devices)

    @cached_property
    def device(self) -> torch.device:
        """The main device."""
        return self.devices[0]

    @cached_property
    def gpu_devices(self) -> list[torch.device]:
        """The GPUs among the devices."""
        return [device for device in self.devices if device.type == "cuda"]

    @cached_property
    def num_gpus(self) -> int:
        """How many GPUs there are."""
        return len(self.gpu_devices)


def _cuda_device(entry: int | str | torch.device) -> torch.device:
    device = torch.device("cuda", entry) if isinstance(entry, int) else torch.device(entry)
    check(device.type == "cuda", f"specific_devices must be GPUs, got {entry!r}")
    return device if device.index is not None else torch.device("cuda", 0)
