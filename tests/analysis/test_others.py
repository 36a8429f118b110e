import dataclasses

import pytest
import torch

from vitmem.analysis.others import at, others


def test_patterns_choose_models_once_and_never_the_analysed_one(known, model, start):
    data = dataclasses.replace(
        known,
        epochs=lambda: {epoch: lambda: start for epoch in (5, 10, 15)},
        seeds=lambda: {4: model},
        reference=lambda of: None if of in ("clean", "scale-factor1") else model,
    )

    def names(patterns, **changes):
        return [name for name, _ in others(patterns, model, dataclasses.replace(data, **changes))]

    assert names("base, retrain,clean,retrain,initial,seeds") == ["retrain", "clean", "initial", "seed4"]
    assert names("epoch1*,epoch10,epochs") == ["epoch10", "epoch15", "epoch5"]
    assert names("scale") == names("scale-*") == ["scale-factor0.5", "scale-factor1"]
    assert names("base,scale", subject="scale-factor1") == ["base", "scale-factor0.5"]
    found = dict(others("clean,scale-factor1,epoch5", model, data))
    assert (found["clean"], found["scale-factor1"]) == (
        "there is no such model beside it",
        "its weights are not at hand",
    )
    assert all(torch.equal(value, start[name]) for name, value in found["epoch5"].state_dict().items())
    with pytest.raises(ValueError, match="there is no other model 'epoch7'"):
        names("epoch7")


def test_weights_of_another_model_are_refused(model):
    state = dict(model.state_dict())
    state["head.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"the weights are another model's: head\.weight"):
        at(model, state)
