"""What travels inside an exported model: contract, operating point, and an image with its answer.

Flat text in ONNX metadata, the same in the sidecars of files that cannot carry any. Whoever loads the file has the
class names, the preprocessing, the thresholds, and a way to test the whole path without a film.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from harness.core.contract import Contract
from harness.core.operating_point import OperatingPoint
from harness.core.variants import Variant

PREFIX = "cxr_harness."


class GoldenPair(BaseModel):
    """A made-up image, as the PNG of pixels_hwc (uint8) in base64, and the checkpoint's logits for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    png_base64: str
    logits: tuple[float, ...]

    def pixels_hwc(self) -> npt.NDArray[np.uint8]:
        """Decode the image."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(base64.b64decode(self.png_base64))), dtype=np.uint8)


def golden_pair(pixels_hwc: npt.NDArray[np.uint8], logits_c: npt.NDArray[np.float32]) -> GoldenPair:
    """Return the pair in the form that fits into text."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels_hwc).save(stream, format="PNG", optimize=True)
    return GoldenPair(
        png_base64=base64.b64encode(stream.getvalue()).decode(), logits=tuple(float(each) for each in logits_c)
    )


class Passport(BaseModel):
    """Everything a loader of an exported model needs to know, and can check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: Contract
    checkpoint_sha256: str
    operating_point: OperatingPoint
    pair: GoldenPair

    def metadata(self, variant: Variant) -> dict[str, str]:
        """Return the flat text form for one variant."""
        own = {
            "checkpoint_sha256": self.checkpoint_sha256,
            "variant": variant.name,
            "operating_point": json.dumps(self.operating_point.model_dump(mode="json"), sort_keys=True),
            "golden_pair": json.dumps(self.pair.model_dump(mode="json"), sort_keys=True),
        }
        return self.contract.metadata() | {PREFIX + key: value for key, value in own.items()}

    def problems(self, metadata: Mapping[str, str] | None, variant: Variant) -> list[str]:
        """Return in words where the text inside a file differs from this; None: the runtime cannot read any."""
        if metadata is None:
            return []
        found = []
        for key, value in self.metadata(variant).items():
            theirs = metadata.get(key)
            if theirs != value:
                name, shown = key.removeprefix(PREFIX), [_short(theirs), _short(value)]
                found.append(f"the file's own {name} is {shown[0]}, the run's is {shown[1]}")
        return found


def _short(value: str | None) -> str:
    if value is None:
        return "missing"
    return value if len(value) <= 200 else f"{value[:60]}... ({len(value)} characters)"
