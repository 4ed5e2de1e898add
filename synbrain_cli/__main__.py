"""``python -m synbrain_cli``: the command line, as ``accelerate launch -m synbrain_cli`` needs it."""

from synbrain_cli.cli import main

if __name__ == "__main__":
    main()
