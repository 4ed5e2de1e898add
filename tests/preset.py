"""A preset for tests: every step of a training, in seconds.

Apart from ``conftest``, whose imports a command's start should not wait for.
"""

from __future__ import annotations

from synbrain_cli.config import MapperConfig, Preset, StageConfig, VAEConfig

# Minutes of training are for the demo; here it is enough that every step is taken.
_STAGE = StageConfig(2, 24, 2e-3, 0.01, warmup_steps=5, patience=5)
TEST_PRESET = Preset(
    "test",
    vae=VAEConfig(
        channels=32,
        multipliers=(1,),
        n_res_blocks=1,
        ada_length=64,
        projector_width=32,
    ),
    mapper=MapperConfig(depth=1),
    head_size=16,
    vae_stage=_STAGE,
    mapper_stage=StageConfig(2, 24, 2e-3, 0.0, ema_decay=0.9, patience=5),
    adapt_vae_stage=_STAGE,
    adapt_mapper_stage=StageConfig(2, 24, 2e-3, 0.0, ema_decay=0.9, patience=5),
)
