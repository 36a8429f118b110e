import torch
from attacked import generator
from families import family, images

import vitmem
from vitmem.attacks.contract import AttackData
from vitmem.attacks.scoring import score, scoring_sets
from vitmem.attacks.sequential import Sequential
from vitmem.editing.contract import EditDiverged
from vitmem.models.build import with_weights


def test_an_edit_is_repeated_on_its_own_result_and_a_reference_stays(data, model, known, tmp_path):
    rows = Sequential(rounds=2).apply(model, known, generator()).rows
    quarter = with_weights(model, {key: value / 4 for key, value in model.state_dict().items()})
    assert rows[2] == {"round": 2, **score(quarter, scoring_sets(data, 1000))}
    reference = AttackData(data, "base", lambda name: None, tmp_path)
    first, *rest = Sequential(rounds=2).apply(model, reference, generator()).rows
    assert [row | {"round": 0} for row in rest] == [first] * 2


def test_each_round_draws_anew():
    adopted = vitmem.adopt(family("plain CNN"), images(), images(30, seed=1)[:2])
    noise = vitmem.edit(adopted, "weight_distortion", std=0.02)
    found = []

    class Told(Sequential):
        def apply(self, model, data, generator):
            states = [data.again(model, number).state_dict for number in (1, 1, 2)]
            found.extend(next(iter(state.values())) for state in states)
            return super().apply(model, data, generator)

    vitmem.attack(adopted, Told(rounds=1), noise)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    first = next(iter(adopted.model.state_dict().values()))
    assert not torch.allclose(found[0] - first, next(iter(noise.state_dict.values())) - first, rtol=0.1)


def test_a_repeated_edit_that_diverges_stops(data, model, tmp_path):
    def diverges(model, number):
        raise EditDiverged("the loss is nan")

    result = Sequential(rounds=2).apply(
        model, AttackData(data, "e", lambda n: None, tmp_path, 0, diverges), generator()
    )
    assert [row["round"] for row in result.rows] == [0]
    assert result.report["stopped"] == "round 1: the loss is nan"
