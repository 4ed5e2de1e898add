"""Settings: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from synbrain_cli.config import (
    PRESETS,
    CoreConfig,
    LossConfig,
    MapperConfig,
    Speed,
    StageConfig,
    VAEConfig,
)
from synbrain_cli.errors import InputError

STAGE = StageConfig(3, 8, 1e-3, 0.0)
RECORDS = (VAEConfig(), MapperConfig(), CoreConfig(), STAGE, LossConfig(), Speed())


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_json_and_back(record):
    written = json.dumps(record.to_dict(), allow_nan=False)
    assert type(record).from_dict(json.loads(written)) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_settings_do_not_change(record):
    name = record.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(record, name, getattr(record, name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 2}, "StageConfig: .*unknown field `depth`"),
        ({"epochs": "many"}, r"StageConfig: Expected `int`, got `str` - at `\$.epochs`"),
        ({"betas": [0.9]}, r"StageConfig: .*length 2.* - at `\$.betas`"),
        ({"epochs": 0}, "StageConfig: expected at least one epoch, found 0"),
    ],
)
def test_a_wrong_setting_is_named(change, message):
    with pytest.raises(InputError, match=message):
        StageConfig.from_dict(STAGE.to_dict() | change)


@pytest.mark.parametrize("name", ["epochs", "patience"])
def test_a_missing_setting_is_named(name):
    """Those with a default, too: today's default need not be the one it was trained with."""
    settings = STAGE.to_dict()
    del settings[name]
    with pytest.raises(InputError, match=f"StageConfig: missing {name}: .*another version"):
        StageConfig.from_dict(settings)


def test_settings_of_another_form_are_an_error():
    with pytest.raises(InputError, match="StageConfig: Expected `object`, got `array`"):
        StageConfig.from_dict([1, 2])


@pytest.mark.parametrize(
    ("record", "change", "message"),
    [
        (STAGE, {"batch_size": 0}, "a batch of at least one, found 0"),
        (STAGE, {"learning_rate": 0.0}, "a learning rate above 0"),
        (STAGE, {"weight_decay": -0.1}, "a weight decay of 0 or more, found -0.1"),
        (STAGE, {"clip_norm": -1.0}, "a clip_norm of 0 or more"),
        (STAGE, {"ema_decay": 1.0}, "an ema_decay from 0 to below 1, found 1.0"),
        (STAGE, {"patience": 0}, "a patience of at least one epoch"),
        (CoreConfig(), {"dropout": 1.0}, "a dropout from 0 to below 1"),
        (CoreConfig(), {"exponent": 0.0}, "an exponent above 0, up to 1, found 0.0"),
        (CoreConfig(), {"shapes": ((50, 3),)}, "tokens on a square grid, found 50"),
        (CoreConfig(), {"shapes": ((256, 48), (16, 3))}, "a shape for every band, found 2"),
        (LossConfig(), {"temperature": 0.0}, "a temperature above 0"),
        (LossConfig(), {"response_every": 0}, "response_every of 1 or more"),
        (Speed(), {"precision": "fp8"}, "precision float32 or bf16, found fp8"),
        (Speed(), {"micro_batch": 0}, "a micro-batch of 1 or more, found 0"),
    ],
)
def test_a_value_out_of_range_is_an_error(record, change, message):
    with pytest.raises(InputError, match=message):
        replace(record, **change)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_take_the_shape_of_the_tokens(name):
    vae, mapper = PRESETS[name].networks(64, 48)
    assert (vae.n_tokens, vae.n_dims) == (mapper.n_tokens, mapper.n_dims) == (64, 48)
    assert 48 % mapper.n_heads == 0
    assert vae.channels == PRESETS[name].vae.channels
    assert mapper.depth == PRESETS[name].mapper.depth
