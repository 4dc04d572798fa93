"""Python as on a machine with little more than torch: other installed packages are not found."""

import sys
from importlib.machinery import PathFinder

# What has to be there, and what that cannot do without.
THERE = {"torch", "triton", "numpy", "safetensors", "pybind11", "pytest", "setuptools"} | {
    "_distutils_hack",
    "_pytest",
    "filelock",
    "fsspec",
    "functorch",
    "iniconfig",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
    "packaging",
    "pluggy",
    "py",
    "pygments",
    "sympy",
    "torchgen",
    "typing_extensions",
}


class OnlyThese:
    """The usual finder, blind to the other packages of site-packages."""

    invalidate_caches = staticmethod(PathFinder.invalidate_caches)

    @staticmethod
    def find_spec(name, path=None, target=None):
        found = PathFinder.find_spec(name, path, target)
        if found is None or path is not None or name in THERE:
            return found
        places = [found.origin or "", *(found.submodule_search_locations or [])]
        return None if any("site-packages" in place for place in places) else found


sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyThese
