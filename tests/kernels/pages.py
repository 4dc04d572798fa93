"""Memory between two pages that may not be touched; the standard library only."""

import ctypes
import mmap

PAGE = mmap.PAGESIZE
_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)


def between_guards(size: int, at_end: bool) -> tuple[mmap.mmap, int]:
    """Memory and an offset: `size` bytes that end right before, or start right after, a guard."""
    pages = -(-size // PAGE)
    region = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    for page in (0, pages + 1):
        if _libc.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    return region, PAGE + (pages * PAGE - size if at_end else 0)
