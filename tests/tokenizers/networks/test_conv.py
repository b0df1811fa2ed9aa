import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.conv import AttentionBlock, ConvConfig, Decoder, Encoder, ResidualBlock
from anyglot.tokenizers.networks.discriminator import PatchDiscriminator

SHAPES = [
    ConvConfig(patch=1, channels=[8, 8, 16], blocks=1, decoder_blocks=2, attention=True, groups=4),
    ConvConfig(patch=2, channels=[8, 16], blocks=2, decoder_blocks=1, attention=False, groups=1),
    ConvConfig(patch=4, channels=[16], blocks=1, decoder_blocks=1, attention=True, groups=8),
]


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 5), (3, 1)])
def test_a_grid_of_codes_per_picture_and_back(config, rows, columns):
    assert config.stride == 4
    pictures = torch.randn(2, 3, rows * 4, columns * 4)
    latents = Encoder(config, 5)(pictures)
    assert latents.shape == (2, rows, columns, 5)
    assert Decoder(config, 5)(latents).shape == pictures.shape


@pytest.mark.parametrize("config", SHAPES)
def test_every_parameter_learns(config):
    torch.manual_seed(0)
    encoder, decoder = Encoder(config, 5), Decoder(config, 5)
    pictures = torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], 0.1)
    for _ in range(3):  # zero-initialised layers block what lies before them at first
        optimizer.zero_grad()
        decoder(encoder(pictures)).sub(pictures).square().mean().backward()
        optimizer.step()
    still = [n for net in (encoder, decoder) for n, p in net.named_parameters() if not p.grad.abs().sum() > 0]
    assert still == []


def test_neighbours_in_the_batch_do_not_matter():
    torch.manual_seed(0)
    encoder = Encoder(SHAPES[0], 5)
    pictures = torch.randn(3, 3, 8, 12)
    torch.testing.assert_close(encoder(pictures)[1:2], encoder(pictures[1:2]), rtol=1e-5, atol=1e-6)


def test_blocks_start_as_the_identity():
    x = torch.randn(2, 64, 3, 4)
    torch.testing.assert_close(ResidualBlock(64, 8)(x), x, atol=0.05, rtol=0)  # but for a small bias
    torch.testing.assert_close(AttentionBlock(64, 8)(x), x, atol=0.2, rtol=0)


def test_attention_equals_a_slow_twin():
    torch.manual_seed(0)
    block = AttentionBlock(128, 8)
    torch.nn.init.normal_(block.out.weight, std=0.1)
    x = torch.randn(1, 128, 2, 3)
    qkv = (
        torch.einsum("oc,bchw->bohw", block.qkv.weight[:, :, 0, 0], block.norm(x)) + block.qkv.bias[None, :, None, None]
    )
    mixed = torch.zeros(1, 128, 2, 3)
    for head in range(2):
        q, k, v = (qkv[0, 128 * i + 64 * head : 128 * i + 64 * head + 64].reshape(64, 6) for i in range(3))
        weights = torch.softmax(q.T @ k / 8.0, dim=1)
        mixed[0, 64 * head : 64 * head + 64] = (weights @ v.T).T.reshape(64, 2, 3)
    torch.testing.assert_close(block(x), x + block.out(mixed), rtol=1e-4, atol=1e-5)


def test_impossible_shapes_are_refused():
    with pytest.raises(ConfigError, match=r"48 is not a multiple of network.groups \(32\)"):
        ConvConfig(channels=[48, 96])
    with pytest.raises(ConfigError, match="channels not empty"):
        ConvConfig(channels=[])


def test_the_discriminator_judges_patches():
    torch.manual_seed(0)
    judge = PatchDiscriminator(8, 2)
    pictures = torch.randn(2, 3, 32, 64)
    logits = judge(pictures)
    assert logits.shape == (2, 1, 8, 16)
    torch.testing.assert_close(judge(pictures[:1]), logits[:1], rtol=1e-4, atol=1e-5)
