"""``python -m synbrain_cli``, and what ``accelerate launch -m synbrain_cli`` runs."""

from synbrain_cli.cli import main

if __name__ == "__main__":
    main()
