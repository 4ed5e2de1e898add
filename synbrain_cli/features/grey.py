"""Grey images of more than 8 bits → 8 bits, decided by their values.

Files do not say which range their numbers have: programs store 0 to 255, 10 or 12 bits of a camera,
and 16 bits in the same kinds of file. Taken for another range, an image is nearly black.
"""

from __future__ import annotations

import numpy as np

from synbrain_cli.errors import InputError

TOP = 65535
# Largest value below this: as likely 10, 12 or 14 bits as a dark image of 16 bits (ours).
LEAST_16_BIT = 1 << 14
ADVICE = "rescale it, or save it as 8-bit PNG"


def grey_to_8_bits(values: np.ndarray, mode: str, name: str) -> np.ndarray:
    """Convert grey values to 8 bits (ours).

    - Whole numbers of at most 255: as they are; floating-point ones, too, where some are above 1.
    - Whole numbers of at most 65535 that reach 16384, or are all multiples of 257 or of 256, as 8
      bits stored in 16 are: divided by 257, so that 65535 becomes 255.
    - Whole numbers between: refused, as their range may be one of 10, 12, 14 or 16 bits.
    - Floating-point numbers in [0, 1]: times 255.

    Parameters
    ----------
    values : array of shape (h, w)
    mode : str
        Pillow's: "I", "I;16", …, or "F" for floating-point numbers.
    name : str
        Of the image, for messages.

    Returns
    -------
    array of shape (h, w), uint8

    Raises
    ------
    InputError
        When values are of none of these kinds.
    """
    values = np.asarray(values, np.float64)
    is_float = mode == "F"
    low, high = values.min(), values.max()
    if is_float and low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    whole = bool(np.isfinite(values).all() and low >= 0 and (values % 1 == 0).all())
    if whole and high <= 255:
        return values.astype(np.uint8)
    if is_float or not whole or high > TOP:
        expected = "0 to 1, or whole numbers from 0 to 255," if is_float else f"0 to {TOP}"
        raise InputError(
            f"{name}: expected values from {expected} in mode {mode}, found {low:g} to {high:g}: "
            f"{ADVICE}"
        )
    if high < LEAST_16_BIT and (values % 257 != 0).any() and (values % 256 != 0).any():
        raise InputError(
            f"{name}: expected grey values of 8 or 16 bits, found a largest value of "
            f"{high:g} in mode {mode}, which may be of 10, 12, 14 or 16 bits: {ADVICE}"
        )
    return np.rint(values / 257).astype(np.uint8)
