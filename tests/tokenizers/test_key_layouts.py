"""Weights of taming-transformers and LlamaGen; a plain twin of that network, under their names, is the reference."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from anyglot.errors import AnyglotError
from anyglot.tokenizers.image import to_pictures, to_tensor
from anyglot.tokenizers.key_layouts import config_of, from_llamagen, from_taming
from anyglot.tokenizers.pretrained_image import PretrainedImageConfig, adopt

BASE, MULTIPLIERS, BLOCKS, LATENT, WIDTH, CODES = 32, (1, 1, 2), 2, 24, 8, 50


class Names(nn.Module):
    """A module that is a bag of named modules."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def norm(x, layer):
    return F.group_norm(x, 32, layer.weight, layer.bias, 1e-6)


def residual_block(a, b):
    block = Names(norm1=nn.GroupNorm(32, a), conv1=nn.Conv2d(a, b, 3, 1, 1))
    block.norm2, block.conv2 = nn.GroupNorm(32, b), nn.Conv2d(b, b, 3, 1, 1)
    if a != b:
        block.nin_shortcut = nn.Conv2d(a, b, 1)
    return block


def attention(a):
    return Names(norm=nn.GroupNorm(32, a), **{name: nn.Conv2d(a, a, 1) for name in ("q", "k", "v", "proj_out")})


def run_block(x, block):
    h = block.conv1(F.silu(norm(x, block.norm1)))
    h = block.conv2(F.silu(norm(h, block.norm2)))
    return h + (block.nin_shortcut(x) if hasattr(block, "nin_shortcut") else x)


def run_attention(x, block):
    h = norm(x, block.norm)
    q, k, v = (layer(h).flatten(2) for layer in (block.q, block.k, block.v))
    weights = torch.einsum("bci,bcj->bij", q, k).mul(x.shape[1] ** -0.5).softmax(-1)
    return x + block.proj_out(torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))


class Twin(nn.Module):
    """The VQGAN with levels, blocks and middle under either project's names."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        levels = len(MULTIPLIERS)
        widths = [BASE * m for m in MULTIPLIERS]
        down, channels = [], BASE
        for level, width in enumerate(widths):
            blocks = []
            for _ in range(BLOCKS):
                blocks.append(residual_block(channels, width))
                channels = width
            down.append(self.level(blocks, channels, level == levels - 1, "downsample", level < levels - 1, 2))
        up = []
        for level in reversed(range(levels)):
            blocks = []
            for _ in range(BLOCKS + 1):
                blocks.append(residual_block(channels, widths[level]))
                channels = widths[level]
            up.append(self.level(blocks, channels, level == levels - 1, "upsample", level > 0, 1))
        names = ("down", "up") if style == "taming" else ("conv_blocks", "conv_blocks")
        self.encoder = Names(conv_in=nn.Conv2d(3, BASE, 3, 1, 1), mid=self.middle(widths[-1]))
        self.encoder.add_module(names[0], nn.ModuleList(down))
        self.encoder.norm_out, self.encoder.conv_out = (
            nn.GroupNorm(32, widths[-1]),
            nn.Conv2d(widths[-1], LATENT, 3, 1, 1),
        )
        self.decoder = Names(conv_in=nn.Conv2d(LATENT, widths[-1], 3, 1, 1), mid=self.middle(widths[-1]))
        self.decoder.add_module(names[1], nn.ModuleList(up[::-1] if style == "taming" else up))
        self.decoder.norm_out, self.decoder.conv_out = nn.GroupNorm(32, BASE), nn.Conv2d(BASE, 3, 3, 1, 1)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(LATENT, WIDTH, 1), nn.Conv2d(WIDTH, LATENT, 1)
        self.quantize = Names(embedding=nn.Embedding(CODES, WIDTH))
        self.loss = Names(discriminator=nn.Conv2d(3, 3, 3))  # what a training checkpoint also holds

    def level(self, blocks, channels, attended, resample, resampled, stride):
        inner = "block" if self.style == "taming" else "res"
        level = Names(attn=nn.ModuleList([attention(channels) for _ in blocks] if attended else []))
        level.add_module(inner, nn.ModuleList(blocks))
        if resampled:
            padding = 0 if stride == 2 else 1
            level.add_module(resample, Names(conv=nn.Conv2d(channels, channels, 3, stride, padding)))
        return level

    def middle(self, channels):
        parts = [residual_block(channels, channels), attention(channels), residual_block(channels, channels)]
        if self.style == "llamagen":
            return nn.ModuleList(parts)
        return Names(block_1=parts[0], attn_1=parts[1], block_2=parts[2])

    def run_level(self, x, level):
        blocks = level.block if self.style == "taming" else level.res
        for index, block in enumerate(blocks):
            x = run_block(x, block)
            if len(level.attn):
                x = run_attention(x, level.attn[index])
        return x

    def run_middle(self, x, middle):
        one, two, three = middle.children()
        return run_block(run_attention(run_block(x, one), two), three)

    @torch.no_grad()
    def encode(self, pixels):
        down = self.encoder.down if self.style == "taming" else self.encoder.conv_blocks
        x = self.encoder.conv_in(pixels)
        for level in down:
            x = self.run_level(x, level)
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        x = self.run_middle(x, self.encoder.mid)
        z = self.quant_conv(self.encoder.conv_out(F.silu(norm(x, self.encoder.norm_out)))).permute(0, 2, 3, 1)
        book = self.quantize.embedding.weight
        if self.style == "llamagen":
            z, book = F.normalize(z, dim=-1), F.normalize(book, dim=-1)
        return (z[..., None, :] - book).square().sum(-1).argmin(-1)

    @torch.no_grad()
    def decode(self, codes):
        book = self.quantize.embedding.weight
        vectors = (F.normalize(book, dim=-1) if self.style == "llamagen" else book)[codes]
        x = self.decoder.conv_in(self.post_quant_conv(vectors.permute(0, 3, 1, 2)))
        x = self.run_middle(x, self.decoder.mid)
        for level in reversed(self.decoder.up) if self.style == "taming" else self.decoder.conv_blocks:
            x = self.run_level(x, level)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.decoder.conv_out(F.silu(norm(x, self.decoder.norm_out)))


@pytest.mark.parametrize("style", ["taming", "llamagen"])
def test_codes_and_pictures_equal_the_twin_s(style, tmp_path):
    torch.manual_seed(0)
    twin = Twin(style)
    save_file(twin.state_dict(), tmp_path / "w.safetensors")
    tokenizer = adopt(PretrainedImageConfig(style), str(tmp_path / "w.safetensors"))
    assert tokenizer.stride == 4
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    ids = twin.encode(to_tensor(picture[None]))
    (codes,) = tokenizer.encode([picture])
    assert len(ids.unique()) > 3
    assert torch.equal(codes[..., 0], ids[0])
    expected = to_pictures(twin.decode(ids))[0].astype(int)
    assert np.abs(tokenizer.decode([codes])[0].astype(int) - expected).max() <= 1


def test_what_is_no_vqgan_is_named(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        AnyglotError, match=r"other.safetensors: not the weights of a VQGAN: there is no 'encoder.conv_in"
    ):
        adopt(PretrainedImageConfig("taming"), str(tmp_path / "other.safetensors"))
    torch.save(Twin("taming").state_dict(), tmp_path / "last.ckpt")
    with pytest.raises(AnyglotError, match="never opened"):
        adopt(PretrainedImageConfig("taming"), str(tmp_path / "last.ckpt"))
    with pytest.raises(AnyglotError, match="never opened"):
        adopt(PretrainedImageConfig("llamagen"), str(tmp_path / "absent.safetensors"))


def test_attention_elsewhere_is_refused():
    weights = from_taming(Twin("taming").state_dict())
    assert config_of(weights)["channel_multiplier"] == [1, 1, 2]
    assert config_of(from_llamagen(Twin("llamagen").state_dict())) == config_of(weights)
    weights["encoder.down.1.attn.0.q.weight"] = torch.zeros(1)
    with pytest.raises(AnyglotError, match=r"attention at levels \[1, 2\] of 3"):
        config_of(weights)
