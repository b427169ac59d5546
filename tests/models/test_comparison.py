"""Of models that rows cannot tell apart, the smallest is taken; near-duplicates count as one."""

import torch

from bifocal.models.comparison import Candidate, compare, smallest_near_best, standard_error

N = 2000
LABELS = torch.arange(N) % 2
IDS = [str(i) for i in range(N)]


def said(strength, seed):
    """Logits that tell the label with a given strength."""
    z = strength * (2.0 * LABELS - 1) + torch.randn(N, generator=torch.Generator().manual_seed(seed))
    return torch.stack([-z, z], dim=1)


def test_a_model_that_repeats_another_with_more_numbers_is_not_taken():
    large = said(1.0, 0)
    logits = {"large": large, "small": large + torch.randn(N, 2, generator=torch.Generator().manual_seed(2)) * 0.01}
    found = compare(logits, LABELS, IDS, {"large": 1000, "small": 10})
    assert smallest_near_best(found).name == "small"


def test_a_small_model_that_is_clearly_worse_is_not_taken():
    found = compare({"large": said(1.0, 0), "small": said(0.5, 1)}, LABELS, IDS, {"large": 1000, "small": 0})
    large, small = found
    assert (large.name, large.behind, large.error) == ("large", 0.0, 0.0)
    assert small.behind > 5 * small.error and smallest_near_best(found) is large


def test_a_loud_model_is_judged_at_its_own_temperature():
    quiet = said(1.0, 0)
    a, b = compare({"quiet": quiet, "loud": quiet * 7}, LABELS, IDS, {"quiet": 1, "loud": 1})
    assert abs(a.loss - b.loss) < 1e-3


def test_of_equally_small_models_the_one_of_less_loss_is_taken():
    found = [
        Candidate("a", 0.50, 0.0, 0.0, 5),
        Candidate("b", 0.51, 0.01, 0.02, 0),
        Candidate("c", 0.515, 0.015, 0.02, 0),
    ]
    assert smallest_near_best(found).name == "b"


def test_rows_of_one_group_count_as_one():
    differences = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    alone = standard_error(differences, [str(i) for i in range(100)])
    assert abs(alone - float(differences.std() / 10)) < 1e-9
    twice = torch.cat([differences, differences])
    assert abs(standard_error(twice, [str(i % 100) for i in range(200)]) - alone) < 1e-9
