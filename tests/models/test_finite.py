import math

import torch

from vitmem.models.finite import NOTHING, answers, broken


def test_logits_that_are_not_finite_name_no_class():
    logits = torch.tensor([[0.0, 2.0, 1.0]] * 5)
    for row, (column, value) in enumerate([(0, math.nan), (1, math.inf), (2, -math.inf), (1, math.nan)], 1):
        logits[row, column] = value
    assert answers(logits).tolist() == [1, *[NOTHING] * 4]
    assert answers(torch.full((2, 3), math.nan)).tolist() == [NOTHING] * 2
    assert answers(logits.bfloat16()[:1]).tolist() == [1]


def test_the_first_broken_tensor_is_named():
    state = {
        "a": torch.zeros(2),
        "number": torch.tensor(3),
        "b": torch.tensor([0.0, math.inf]),
        "c": torch.tensor(math.nan),
    }
    assert broken(state) == "b"
    assert broken({"a": torch.zeros(2), "number": torch.tensor(3)}) is None
