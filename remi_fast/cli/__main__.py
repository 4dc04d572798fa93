"""`python -m remi_fast.cli`: the same as `remi-fast`."""

import sys

from remi_fast.cli import main

sys.exit(main())
