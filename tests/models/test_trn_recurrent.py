"""TRN-recurrent beyond the laws: its size, its start, and the loop through the imagined future."""

import pytest
import torch
import torch.nn.functional as F

from vidact.models.trn_recurrent import (
    TRNRecurrent,
    from_trn_recurrent,
    shift_tokens,
    trn_recurrent,
    trn_recurrent_small,
)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_published_size():
    with torch.device("meta"):
        assert count(trn_recurrent(22)) == 357_828_630
        # HDD has 79,518,232 with its camera: a convolution and 1,280 of the 1,300 inputs, without which these remain.
        sensors = trn_recurrent(12, feature_dim=8, embedding_dim=20, hidden_dim=2000, decoder_steps=6)
        camera = (1536 * 20 + 20) + 8000 * 2 * 1280 + (2000 + 1) * 1280
        assert count(sensors) == 79_518_232 - camera
        assert count(trn_recurrent_small(22)) < 10_000_000


@torch.no_grad()
def test_the_start_is_the_papers():
    torch.manual_seed(0)
    network = trn_recurrent(7, feature_dim=24, hidden_dim=64)
    assert network.embed.weight.std() == pytest.approx(0.001, rel=0.2)
    for cell in (network.encoder, network.decoder):
        for weight in (cell.weight_ih, cell.weight_hh):  # taller than wide: orthogonal columns
            torch.testing.assert_close(weight.T @ weight, torch.eye(weight.shape[1]), rtol=0, atol=1e-5)
        assert cell.bias_ih.std() == pytest.approx(1, rel=0.2)
    assert network.start_hidden.bias.std() == pytest.approx(1, rel=0.4)


@torch.no_grad()
def test_the_equations():
    """Three tokens by hand, from the equations of the paper."""
    torch.manual_seed(0)
    network = TRNRecurrent(num_classes=3, feature_dim=6, hidden_dim=5, decoder_steps=2, embedding_dim=4).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)

    def cell(lstm, x, h, c):
        gates = lstm.weight_ih @ x + lstm.bias_ih + lstm.weight_hh @ h + lstm.bias_hh
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    features = torch.randn(1, 3, 6)
    output = network(features)
    h, c, future = torch.zeros(5), torch.zeros(5), torch.zeros(4)
    for t, feature in enumerate(features[0]):
        h, c = cell(network.encoder, torch.cat([network.embed(feature).relu(), future]), h, c)
        torch.testing.assert_close(output.logits[0, t], network.classifier(h))
        dh, dc, u, vectors = network.start_hidden(h).relu(), network.start_cell(c).relu(), torch.zeros(5), []
        for j in range(2):
            dh, dc = cell(network.decoder, u, dh, dc)
            torch.testing.assert_close(output.future[0, t, j], network.classifier(dh))
            u = F.relu(network.embed_logits(network.classifier(dh)))
            vectors.append(network.embed_future(dh).relu())
        future = sum(vectors) / 2


def test_offsets_begin_with_the_present():
    assert trn_recurrent_small(3, feature_dim=4, decoder_steps=8).future_offsets == tuple(range(8))


def test_published_names_with_other_sizes_are_refused():
    names = {"classifier.weight": torch.zeros(7, 32)}
    with pytest.raises(ValueError, match=r"trn_recurrent state dict does not fit TRNRecurrent: .* missing"):
        from_trn_recurrent(names, num_classes=7, feature_dims=[16, 8], hidden_size=32)
    with pytest.raises(ValueError, match="decoder_steps is 0; the decoder imagines at least one token"):
        trn_recurrent_small(3, decoder_steps=0)


def test_shifted_tokens_come_back():
    tokens = torch.arange(10.0).reshape(2, 5, 1)
    start = torch.tensor([0, 2])
    moved = shift_tokens(tokens, start)
    assert moved[:, :, 0].tolist() == [[0, 1, 2, 3, 4], [7, 8, 9, 9, 9]]
    assert shift_tokens(moved, -start)[:, :, 0].tolist() == [[0, 1, 2, 3, 4], [7, 7, 7, 8, 9]]
