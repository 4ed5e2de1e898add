"""Kill a command at a chosen moment, for the tests of what survives.

``python tests/killing.py N ARGUMENTS…`` runs ``synbrain ARGUMENTS`` and sends itself SIGKILL when
it is about to give the Nth file or folder its final name: every commit point can be hit, and
what was being written then is lost, as when the power goes.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys


def main() -> None:
    # A shell that starts the tests in the background makes them ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    left = int(sys.argv[1])
    replace = os.replace

    def dying_replace(*arguments, **options):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(*arguments, **options)

    os.replace = dying_replace
    pathlib.os.replace = dying_replace

    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from preset import TEST_PRESET

    from synbrain_cli import cli
    from synbrain_cli.config import PRESETS

    PRESETS["test"] = TEST_PRESET
    sys.argv = ["synbrain", *sys.argv[2:]]
    cli.main()


if __name__ == "__main__":
    main()
