"""How weights are held: in which dtype, on which device or devices, in how few bits.

The trap: a model over several devices, or in few bits, is no module like others: what replaces or copies its parts
loses what accelerate and bitsandbytes have attached to them. So such a model stays as it is, on the plain backend.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import torch
from transformers import BitsAndBytesConfig

Form: TypeAlias = Literal["safetensors", "bin"]
DeviceMap: TypeAlias = str | dict[str, int | str]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""The device maps that accelerate makes by itself."""


@dataclass(frozen=True)
class Holding:
    """How weights are held: in which dtype, on which device or devices, in how few bits, read from which files."""

    dtype: torch.dtype | None = None
    device: str | torch.device | None = None
    device_map: DeviceMap | None = None
    bits: Literal[4, 8] | None = None
    form: Form = "safetensors"

    def require_possible(self) -> None:
        """Refuse what is no dtype or no place here, what excludes itself, and bits where nothing computes with them."""
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"got dtype={self.dtype!r}, expected one of {', '.join(map(str, DTYPES))}")
        if self.device is not None:
            _require_place("device", self.device)
        _require_places(self.device_map)
        if self.form not in ("safetensors", "bin"):
            raise ValueError(f'got weights={self.form!r}, expected "safetensors" or "bin"')
        if self.device is not None and self.device_map is not None:
            raise ValueError(
                "got device= and device_map=: the map says where everything goes, leave device out"
            )
        if self.bits is None:
            return
        if self.bits not in (4, 8):
            raise ValueError(
                f"got bits={self.bits!r}, expected 4 or 8: None keeps every number as dtype says"
            )
        if not torch.cuda.is_available():
            raise ValueError(
                f"got bits={self.bits}, and there is no GPU that could compute with them: load without, "
                "dtype=torch.bfloat16 halves the memory of float32"
            )
        if find_spec("bitsandbytes") is None:
            raise ImportError(
                f"bits={self.bits} needs bitsandbytes: pip install 'inferaligner-workbench[bits]', or load without"
            )

    def settings(self) -> dict[str, Any]:
        """What transformers is asked for. A GPU is filled as the files are read, without a copy beside it."""
        told: dict[str, Any] = {"dtype": self.dtype or (torch.bfloat16 if self.bits else torch.float32)}
        place = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device_map is not None or self.bits or place.type != "cpu":
            told["device_map"] = self.device_map or {"": place}
        if self.bits:
            told["quantization_config"] = BitsAndBytesConfig(
                load_in_8bit=self.bits == 8,
                load_in_4bit=self.bits == 4,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=told["dtype"],
            )
        return told


def _require_places(device_map: DeviceMap | None) -> None:
    if isinstance(device_map, dict):
        for part, place in device_map.items():
            if place != "disk":
                _require_place(f"device_map[{part!r}]", place)
    elif device_map is not None and device_map not in SPREADS:
        words = ", ".join(f'"{word}"' for word in SPREADS)
        _require_place("device_map", device_map, f"{words}, a dict from modules to devices, or ")


def _require_place(option: str, place: object, else_expected: str = "") -> None:
    """Refuse what is no device of this machine: "meta" is one of torch's, where weights are left out."""
    try:
        there = torch.empty(0, device=place).device.type != "meta"  # type: ignore[call-overload]
    except (AssertionError, NotImplementedError, RuntimeError, TypeError):  # every kind of device has its own
        there = False
    if not there:
        raise ValueError(
            f"got {option}={place!r}, expected {else_expected}a device of this machine: {_devices()}"
        )


def _devices() -> str:
    """The devices that there are here, in torch's words."""
    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return ", ".join([*names, *["mps"] * torch.backends.mps.is_available()])


def holding_of(model: torch.nn.Module) -> Holding:
    """How a loaded model holds its weights."""
    weight = next(model.parameters())
    dtype = next((w.dtype for w in model.parameters() if w.dtype.is_floating_point), weight.dtype)
    bits: Literal[4, 8] | None = None
    if getattr(model, "is_loaded_in_4bit", False):
        bits = 4
    elif getattr(model, "is_loaded_in_8bit", False):
        bits = 8
    # Over several devices it is spread anew: another model may need another map.
    return (
        Holding(dtype, None, "auto", bits) if is_spread(model) else Holding(dtype, weight.device, None, bits)
    )


def is_spread(model: torch.nn.Module) -> bool:
    """Whether accelerate has put a model's layers on several devices, or on the disk."""
    places = set(getattr(model, "hf_device_map", {}).values())
    return len(places) > 1 or "disk" in places
