"""IDN beyond the laws: its cell, its window and its losses, against slow versions of the paper's equations."""

import pytest
import torch
import torch.nn.functional as F

from vidact.models.idn import IDN, contrastive_loss, hard_sigmoid, idn


@torch.no_grad()
def test_the_cell():
    """One window of five tokens by hand."""
    torch.manual_seed(0)
    network = IDN(num_classes=3, feature_dim=6, hidden_dim=4, window=5).eval()
    torch.nn.init.normal_(network.kernels)
    features = torch.randn(1, 9, 6)
    e = network.embed(features[0, -5:]).relu()
    k, h = network.kernels, torch.zeros(4)
    for past in e:
        r = (0.2 * (h @ k[0] + e[-1] @ k[1]) + 0.5).clamp(0, 1)
        z = (0.2 * (past @ k[2] + e[-1] @ k[3]) + 0.5).clamp(0, 1)
        h = (1 - z) * h + z * (past @ k[4] + (r * h) @ k[5]).tanh()
    torch.testing.assert_close(network(features).logits[0, -1], network.classifier(network.head(h).relu()))


@torch.no_grad()
def test_before_the_window_is_full_the_first_token_repeats():
    network = IDN(num_classes=3, feature_dim=6, hidden_dim=4, window=5).eval()
    features = torch.randn(2, 3, 6)
    filled = torch.cat([features[:, :1].expand(-1, 2, -1), features], 1)
    torch.testing.assert_close(network(features).logits[:, -1], network(filled).logits[:, -1])


def test_sizes():
    with torch.device("meta"):
        network = idn(21)
    assert network.kernels.shape == (6, 512, 512)
    assert network.window == 16
    kernels = IDN(3, 6, hidden_dim=8).kernels
    torch.testing.assert_close(kernels @ kernels.mT, torch.eye(8).expand(6, -1, -1), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="window is 0; it holds at least the newest token"):
        idn(3, window=0)


def test_hard_sigmoid_is_keras():
    values = torch.tensor([-3.0, -2.5, -1.0, 0.0, 2.5, 9.0])
    assert hard_sigmoid(values).tolist() == pytest.approx([0, 0, 0.3, 0.5, 1, 1])


def test_contrastive_loss_equals_the_pairs_of_the_paper():
    torch.manual_seed(0)
    embedded = torch.rand(2, 11, 4)
    targets = F.one_hot(torch.randint(3, (2, 11)), 3).float()
    targets[0, 2:6, :2] = 1  # two labels at once
    ignore = torch.rand(2, 11) < 0.2
    losses = []
    for b in range(2):
        for t in range(11):
            for past in range(max(0, t - 3), t):
                if ignore[b, t] or ignore[b, past]:
                    continue
                squared = float((embedded[b, t] - embedded[b, past]).square().sum())
                agree = bool((targets[b, t] * targets[b, past]).any())
                losses.append(squared if agree else max(0.0, 1.0 - squared))
    assert len(losses) > 20
    assert float(contrastive_loss(embedded, targets, ignore, window=4)) == pytest.approx(
        sum(losses) / len(losses), rel=1e-5
    )
    nothing = contrastive_loss(embedded, targets, torch.ones_like(ignore), window=4)
    assert nothing == 0


def test_own_losses():
    torch.manual_seed(0)
    network = idn(5, feature_dim=6, hidden_dim=8, window=4)
    features = torch.randn(2, 9, 6)
    targets = F.one_hot(torch.randint(4, (2, 9)), 4).float()  # the fifth output is the ambiguous one of published files
    ignore = torch.zeros(2, 9, dtype=torch.bool)
    ignore[:, :3] = True
    output = network(features, targets=targets, ignore=ignore)
    embedded = network.embed(features).relu()
    early = F.cross_entropy(
        network.early_classifier(embedded[:, 3:]).flatten(0, 1), targets[:, 3:].argmax(-1).flatten()
    )
    torch.testing.assert_close(output.losses["early"], 0.3 * early)
    contrast = contrastive_loss(embedded, targets, ignore, window=4)
    torch.testing.assert_close(output.losses["contrastive"], 0.3 * contrast)
    # What is ignored teaches nothing, whatever stands there.
    wrong = targets.clone()
    wrong[:, :3] = 1 - wrong[:, :3]
    same = network(features, targets=wrong, ignore=ignore)
    assert same.losses == output.losses
    torch.testing.assert_close(same.logits, network(features).logits)
    assert network(features).losses == {}
    with pytest.raises(ValueError, match=r"\(2, 5, 4\) for features of \(2, 9\) tokens.*set their ignore"):
        network(features, targets=targets[:, 4:])
