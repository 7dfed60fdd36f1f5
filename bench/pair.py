"""The made-up image of a model's passport: whoever loads the model must get the answer that travels with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.core.operating_point import scaled_probabilities
from harness.core.passport import Passport
from harness.core.variants import Variant

# float32 differs by rounding only. The others are judged on the test split; here they must only be the same model,
# and one image that lies between two classes may move far.
_LARGEST_DP = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1, "int8": 0.3, "int8-u8s8": 0.3}


def pair_problems(passport: Passport, variant: Variant, outputs_bc: npt.NDArray[np.float32]) -> list[str]:
    """Return in words where the outputs for the pair's image, in every row of a batch, are not the pair's answer."""
    label_mode = passport.contract.label_mode
    temperature = passport.operating_point.temperature if variant.probabilities else None
    wanted_bc = scaled_probabilities(np.array([passport.pair.logits]), label_mode, temperature)
    found_bc = outputs_bc if variant.probabilities else scaled_probabilities(outputs_bc, label_mode, temperature)
    if found_bc.shape[1:] != wanted_bc.shape[1:]:
        return []  # Told as a wrong shape already.
    difference = float(np.nan_to_num(np.abs(found_bc - wanted_bc), nan=np.inf).max())
    if difference <= _LARGEST_DP[variant.precision]:
        return []
    return [f"the model answers the image of its own passport with probabilities that are off by {difference:.3g}"]
