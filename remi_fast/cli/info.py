"""Print versions, hardware and what each backend can do here."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(arguments: Any) -> int:
    """Print them."""
    from remi_fast.kernels.native import C
    from remi_fast.training.run_folder import environment

    facts = environment() | {
        "extension": C.__file__,
        "backends": {
            "triton": "training of ComiRec-SA and ComiRec-DR, and the library's operations, on "
            "a GPU; not yet run on one",
            "native": "the default: C++ and tiled PyTorch, float32 training on the CPU",
            "reference": "plain autograd formulas: the specification, slow",
        },
    }
    del facts["command"]
    if arguments.json:
        print(json.dumps(facts))
        return 0
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, text in value.items():
                print(f"  {key:<12}{text}")
        else:
            print(f"{name:<12}{'none' if value is None else value}")
    return 0
