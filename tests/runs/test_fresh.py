import dataclasses

from vitmem.models.config import ModelConfig
from vitmem.runs.fresh import _identity
from vitmem.training.config import TrainConfig, TrainerConfig


def test_options_that_joined_later_do_not_change_which_shadow_models_are_meant():
    for options, later in (
        (TrainerConfig(), {"loggers", "online"}),
        (ModelConfig(), {"options"}),
        (TrainConfig(), {"log_losses", "keep_every", "optimiser", "sam"}),
    ):
        assert _identity(options).keys() == dataclasses.asdict(options).keys() - later
    assert _identity(ModelConfig(name="flat", options={"hidden": 3}))["options"] == {"hidden": 3}
