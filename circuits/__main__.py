"""`python -m circuits` is the command `circuits`."""

import sys

from circuits.cli import main

sys.exit(main())
