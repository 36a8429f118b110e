import torch
from unlearning import MODEL, apply, kinds

from vitmem.editing.distill import SCRUB


def test_scrub_passes_over_what_is_wrong_in_its_first_epochs():
    edit = SCRUB(epochs=3, max_epochs=1, batch_size=3, forget_batch_size=3)
    number, _, order = kinds(edit, forget=3, retain=2, number=9)
    assert number == 3 + 2 + 2 + 2
    assert order == "FFFRR" + "RR" + "RR"


def test_scrub_without_ascent_and_labels_stays_where_it_is():
    edit = SCRUB(max_epochs=0, gamma=0.0, alpha=1.0, weight_decay=0.0, optimiser="sgd", lr=0.1, steps=6)
    found = apply(edit).state_dict
    assert all(torch.allclose(found[name], p, atol=1e-12) for name, p in MODEL.named_parameters())
