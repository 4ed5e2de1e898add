"""One recipe per command; each returns a result object that the command prints.

Every recipe takes a `synbrain_cli.run.RunContext`; its parts that only log take the progress alone.
"""
