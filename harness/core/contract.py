"""What an image must go through before a model, and what comes out: the contract that every artifact carries.

Most accuracy losses "after export" that users report are preprocessing that differed. The value below is small,
canonical and hashed; a checkpoint, a golden, an ONNX file and an engine made with different values never meet.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.core.cases import LabelMode

# Raised whenever the rules of harness/data/decoding.py change, so that old pixels cannot pass for new ones.
DECODING_VERSION = 1


class Preprocessing(BaseModel):
    """Film -> model input: shorter side to `resize_px`, centre crop of `crop_px`, (x / 255 - mean) / std per channel.

    Interpolation is Pillow's bilinear filter, which always antialiases; `antialias` says so to other readers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize_px: int
    crop_px: int
    interpolation: Literal["bilinear"] = "bilinear"
    antialias: Literal[True] = True
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: Literal["RGB"] = "RGB"
    decoding_version: int = DECODING_VERSION

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON form."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


class Contract(BaseModel):
    """Everything a deployed model must agree on with the code around it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    class_names: tuple[str, ...]
    label_mode: LabelMode
    preprocessing: Preprocessing
    synthetic: bool

    def metadata(self) -> dict[str, str]:
        """Return the flat text form that travels in ONNX metadata."""
        return {
            "cxr_harness.case": self.case,
            "cxr_harness.class_names": json.dumps(list(self.class_names)),
            "cxr_harness.label_mode": self.label_mode,
            "cxr_harness.preprocessing": json.dumps(self.preprocessing.model_dump(mode="json"), sort_keys=True),
            "cxr_harness.preprocessing_sha256": self.preprocessing.sha256,
            "cxr_harness.synthetic": json.dumps(self.synthetic),
        }

    def differences(self, other: Contract) -> list[str]:
        """Return in words what differs, empty where the two agree."""
        found = []
        for field, ours in self.model_dump(mode="json").items():
            theirs = other.model_dump(mode="json")[field]
            if ours != theirs:
                found.append(f"{field.replace('_', ' ')}: {ours} against {theirs}")
        return found
