"""Arrays as text that the page unpacks: base64 of little-endian numbers."""

import base64

import numpy as np

UNKNOWN = -1  # a label that is not known, or an answer that is not finite; the page sees the largest code


def text(array: np.ndarray) -> str:
    """Return the bytes of an array, little-endian, in base64."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(little.tobytes()).decode()


def code_type(num_classes: int) -> type:
    """Return the smallest type that holds every class and one code more."""
    return np.uint8 if num_classes < 255 else np.uint16 if num_classes < 65535 else np.uint32


def codes(labels: np.ndarray, num_classes: int) -> str:
    """Return labels as text; ``UNKNOWN`` becomes the largest number of their type."""
    kind = code_type(num_classes)
    return text(np.where(labels < 0, np.iinfo(kind).max, labels).astype(kind))


def uri(content: bytes, media_type: str) -> str:
    """Return a file as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


class Space:
    """Characters that parts of a page may still take.

    Args:
        left: how many.
    """

    def __init__(self, left: int):
        self.left = left

    def takes(self, size: int) -> bool:
        """Give so many characters to a part, if they are left."""
        if size > self.left:
            return False
        self.left -= size
        return True
