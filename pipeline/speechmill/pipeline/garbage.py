"""Python's search for reference cycles, which costs a quarter of a short command's time."""

import atexit
import gc

_OBJECTS = 5_000  # new ones until Python looks among them, in place of 700


def search_less() -> None:
    """Search for cycles less often, and not at the end of this process.

    The libraries of a run make hundreds of thousands of objects when they are imported, and none of
    them is garbage. At the end, Python would look at them all once more.
    """
    gc.set_threshold(_OBJECTS)
    atexit.register(gc.freeze)
