"""What commands share. Knows no command."""

from __future__ import annotations

import argparse

USER_ERRORS = (ValueError, OSError, ImportError)    # what a user can mend: printed as one message, without a traceback
Commands = argparse._SubParsersAction               # argparse has no public name for it
