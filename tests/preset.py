"""A preset for tests: every step of a training, in seconds.

Apart from ``conftest``, whose imports a command's start should not wait for.
"""

from __future__ import annotations

import sys

from synbrain_cli import config
from synbrain_cli.config import PRESETS, MapperConfig, Preset, StageConfig, VAEConfig

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
# Of the response network, which every model but linear ones has: as users train it, and shorter.
WHOLE_CORE_STAGE = config.CORE_STAGE
CORE_STAGE = StageConfig(2, 32, 4e-3, 0.0, warmup_steps=5, clip_norm=0.0)


def use() -> None:
    """Make the preset known in this process, and the response network's training as short."""
    PRESETS["test"] = TEST_PRESET
    config.CORE_STAGE = CORE_STAGE
    loaded = sys.modules.get("synbrain_cli.training.shared_core")
    if loaded is not None:
        loaded.CORE_STAGE = CORE_STAGE
