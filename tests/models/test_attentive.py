"""The attentive pooler: transformers' numbers under transformers' names."""

import pytest
import torch

from vidact.models import vjepa2_tiny
from vidact.models.attentive import AttentivePooler


@torch.no_grad()
def randomised(module):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim == 2 else 4
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5 + (parameter.ndim == 1) * 0.5)
    return module.eval()


@pytest.mark.parametrize(("dim", "heads", "layers"), [(32, 2, 3), (48, 8, 0), (64, 1, 1)])
def test_it_is_the_pooler_of_transformers(dim, heads, layers):
    library = pytest.importorskip("transformers.models.vjepa2.modeling_vjepa2")
    config = pytest.importorskip("transformers").VJEPA2Config(
        hidden_size=dim, num_attention_heads=heads, num_pooler_layers=layers
    )
    reference = randomised(library.VJEPA2AttentivePooler(config))
    ours = AttentivePooler(dim, heads, layers).eval()
    ours.load_state_dict(reference.state_dict())
    tokens = torch.randn(3, 40, dim, generator=torch.Generator().manual_seed(1))
    expected = reference(tokens).flatten(1)
    assert expected.std() > 0.3
    torch.testing.assert_close(
        ours(tokens), expected, rtol=0, atol=1e-5 * max(1.0, float(expected.detach().abs().max()))
    )
    # Gradients agree too, so that training is the same.
    expected.square().sum().backward()
    ours(tokens).square().sum().backward()
    largest = max(float(parameter.grad.abs().max()) for parameter in reference.parameters())
    for name, parameter in reference.named_parameters():
        gradient = ours.get_parameter(name).grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6 * largest)


def test_the_order_of_the_tokens_does_not_matter_and_each_token_does():
    pooler = randomised(AttentivePooler(32, 4))
    tokens = torch.randn(1, 9, 32)
    torch.testing.assert_close(pooler(tokens), pooler(tokens[:, torch.randperm(9)]))
    for place in range(9):
        changed = tokens.clone()
        changed[:, place] *= -1  # a constant would be removed by the normalisation
        assert not torch.allclose(pooler(tokens), pooler(changed), atol=1e-6), place


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="dim is 32 and num_heads 5; the heads share the width equally"):
        AttentivePooler(32, 5)


def test_vjepa2_pools_its_tokens_with_it():
    pytest.importorskip("transformers")
    network = vjepa2_tiny(3).eval()
    clip = torch.randn(1, 4, 3, 32, 32)
    tokens = network.tokens(clip)
    assert tokens.shape == (1, 2 * 2 * 2, 32)
    assert isinstance(network.trunk.pooler, AttentivePooler)
    torch.testing.assert_close(network.trunk.pooler(tokens), network.features(clip))
