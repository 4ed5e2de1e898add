"""Results of the evaluation commands: frozen typed records, one module per command.

The records are here, and not in `synbrain_cli.evaluation`, which computes them, because plotting,
below evaluation, reads them too.
"""
