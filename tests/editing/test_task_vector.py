import torch
from closed_form import DATA, MODEL, apply, before
from torch.nn import functional as F

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing import parameters as shared
from vitmem.editing.data import EditData
from vitmem.editing.task_vector import TaskVector


class TestTaskVector:
    def test_a_step_against_the_mean_of_the_fine_tunings(self, monkeypatch):
        """A fine-tuning that adds 1, then one that adds 3: tau is 2."""
        added = iter([1.0, 3.0])

        def add(loader, loss, optimiser, epochs):
            amount = next(added)
            with torch.no_grad():
                for parameter in optimiser.param_groups[0]["params"]:
                    parameter.add_(amount)

        monkeypatch.setattr("vitmem.editing.task_vector.descend", add)
        state = apply(TaskVector(scale=0.5)).state_dict
        for name, _ in MODEL.named_parameters():
            torch.testing.assert_close(state[name], before(name) - 1.0, atol=1e-6, rtol=0)

    def test_every_label_of_the_proxy_is_wrong_and_half_of_the_validation_set_stays_unseen(self):
        data = EditData(DATA, frozenset({"validation"}))
        proxies = [TaskVector().proxy_set(data, 10, keyed_generator(seed)) for seed in (0, 1)]
        examples = [proxy.examples for proxy in proxies]
        assert examples[0].is_noisy.all()
        assert (examples[0].index % 2 == 0).all()
        counts = (examples[0].given_label - examples[0].true_label).remainder(10).bincount(minlength=10)
        assert counts[0] == 0
        assert counts[1:].min() > 0
        assert not torch.equal(examples[0].given_label, examples[1].given_label)

    def test_going_back_forgets_what_the_proxy_teaches(self):
        """Steps towards the wrong labels lower their loss, so the step back raises it."""
        batches = list(EditData(DATA, frozenset({"forget"})).forget(64))
        twin = shared.working_copy(MODEL)

        def loss(state):
            twin.load_state_dict(state)
            with torch.no_grad():
                return sum(float(F.cross_entropy(twin(b.image), b.given_label)) for b in batches)

        assert loss(apply(TaskVector(proxy="forget", epochs=2, draws=1)).state_dict) > loss(MODEL.state_dict())
