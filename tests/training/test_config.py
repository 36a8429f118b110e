import math

import pytest

from vitmem.training.config import TrainConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "train.epochs is 0; it must be at least 1"),
        ({"lr": -1.0}, "train.lr is -1.0; it must be positive"),
        ({"lr": math.inf}, "finite"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0; it must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must not be negative"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tied_fixed": 0.0}, r"train.tied_fixed is 0.0; it must be in \(0, 1\]"),
        ({"tied_fixed": 1.1}, "train.tied_fixed is 1.1"),
        ({"tied_memory": 1.0}, "train.tied_memory is 1.0"),
    ],
)
def test_options_of_tied_dropout_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
