"""An engine that can be loaded, and the doubles below it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.backends.cuda_memory import CudaMemory
from bench.backends.device_memory import DeviceMemory
from bench.backends.interface import LoadRequest
from bench.backends.tensorrt_engine import TensorrtEngine
from tests.stand_ins.cuda import CudaStandIn
from tests.stand_ins.tensorrt import CLASSES, PX, EngineStandIn, TensorrtStandIn

BATCH = 2
SHAPE = (BATCH, 3, PX, PX)


class Setting:
    """A backend that can be loaded, and the stand-ins below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cuda = CudaStandIn()
        self.engine = EngineStandIn(self.cuda, ("FLOAT", "FLOAT"))

    def load(
        self,
        *,
        name: str = "fp32.tensorrt.engine",
        variant: str = "",
        plan: bytes = b"plan",
        batch_size: int = BATCH,
        version_compatible: bool = False,
        graph: bool = False,
        open_memory: Callable[[], DeviceMemory] | None = None,
    ) -> TensorrtEngine:
        path = self.folder / name
        path.write_bytes(plan)
        return TensorrtEngine(
            request_for(path, variant=variant or name.partition(".")[0], batch_size=batch_size),
            "rtx" if name.endswith(".rtx.engine") else "tensorrt",
            tensorrt=TensorrtStandIn(self.engine),
            open_memory=open_memory or (lambda: CudaMemory(self.cuda)),
            version_compatible=version_compatible,
            graph=graph,
        )

    def images(self, seed: int = 0) -> npt.NDArray[np.float32]:
        return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)

    def expected(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return images.reshape(BATCH, -1) @ self.engine.weights

    def assert_all_released(self) -> None:
        assert self.cuda.memory == {}
        assert self.cuda.streams == set()
        assert self.cuda.events == {}
        assert self.cuda.graphs == self.cuda.executables == {}


def request_for(
    artifact: Path,
    *,
    variant: str = "fp32",
    batch_size: int = BATCH,
    image_px: int = PX,
    class_count: int = CLASSES,
) -> LoadRequest:
    return LoadRequest(
        artifact=artifact,
        case="any",
        batch_size=batch_size,
        image_px=image_px,
        class_count=class_count,
        threads=1,
        variant=variant,
    )
