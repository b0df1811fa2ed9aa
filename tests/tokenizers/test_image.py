import numpy as np
import pytest
import torch

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer, pad_to, to_pictures, to_tensor

NETWORK = {"patch": 2, "channels": [8, 16], "blocks": 1, "decoder_blocks": 1, "groups": 4}
QUANTIZERS = {
    "fsq": {"type": "fsq", "sizes": [8, 5, 5]},
    "vq": {"type": "vq", "size": 32, "kmeans_init": False},
    "residual": {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 16, "kmeans_init": False}},
}


def make(quantizer="fsq", **fields):
    torch.manual_seed(0)
    mapping = {"network": NETWORK, "dim": 6, "quantizer": QUANTIZERS[quantizer], "max_side": 64, **fields}
    return ImageTokenizer(typed(ImageConfig, mapping)).eval()


def pictures(*sizes):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_unequal_sizes_give_the_same_codes_as_one_at_a_time(quantizer):
    tokenizer = make(quantizer)
    assert isinstance(tokenizer, ModalityTokenizer)
    media = pictures((8, 8), (5, 9), (8, 8), (1, 1), (64, 4), (7, 6), (8, 8))
    codes = tokenizer.encode(media)
    assert [tuple(code.shape[:2]) for code in codes] == [(2, 2), (2, 3), (2, 2), (1, 1), (16, 1), (2, 2), (2, 2)]
    for picture, code in zip(media, codes, strict=True):
        assert code.dtype == torch.int64
        assert code.shape[2] == len(tokenizer.spec.levels)
        assert torch.equal(code, tokenizer.encode([picture])[0])
    for code, decoded in zip(codes, tokenizer.decode(codes), strict=True):
        single = tokenizer.decode([code])[0]
        assert np.abs(decoded.astype(int) - single.astype(int)).max() <= 1


def test_batches_are_cut_by_pixels():
    whole, cut = make(), make(batch_pixels=100)
    media = pictures(*[(8, 8)] * 5)
    assert all(torch.equal(a, b) for a, b in zip(whole.encode(media), cut.encode(media), strict=True))


def test_decoded_sizes_round_up_to_the_stride_unless_they_are_told():
    tokenizer = make()
    media = pictures((5, 9), (8, 4))
    codes = tokenizer.encode(media)
    assert [picture.shape for picture in tokenizer.decode(codes)] == [(8, 12, 3), (8, 4, 3)]
    exact = tokenizer.decode(codes, [(5, 9), (8, 4)])
    assert [picture.shape for picture in exact] == [(5, 9, 3), (8, 4, 3)]
    assert all(picture.dtype == np.uint8 for picture in exact)


def test_padding_repeats_the_edge():
    tokenizer = make()
    (odd,) = pictures((5, 9))
    padded = pad_to(odd, 8, 12)
    assert (padded[5:, :9] == odd[4]).all()
    assert torch.equal(tokenizer.encode([odd])[0], tokenizer.encode([padded])[0])


def test_decode_of_encode_is_what_training_sees():
    tokenizer = make("vq")
    media = pictures((8, 8), (8, 8))
    with torch.no_grad():
        seen = to_pictures(tokenizer(to_tensor(np.stack(media))).output)
    decoded = np.stack(tokenizer.decode(tokenizer.encode(media)))
    assert np.abs(seen.astype(int) - decoded.astype(int)).max() <= 1


def test_codes_do_not_depend_on_an_autocast_around_them():
    tokenizer = make()
    media = pictures((64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        under = tokenizer.encode(media)
    assert torch.equal(under[0], tokenizer.encode(media)[0])


def test_pixels_and_tensors_are_inverse():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    assert to_tensor(levels).min() == -1
    assert to_tensor(levels).max() == 1
    np.testing.assert_array_equal(to_pictures(to_tensor(levels)), levels)


def test_spec_says_what_a_header_must():
    spec = make("residual", max_side=30).spec
    assert spec.levels == (16, 16)
    assert [(axis.name, axis.length, axis.size, axis.units) for axis in spec.axes] == [
        ("height", "sized", 8, 4),
        ("width", "sized", 8, 4),
    ]


def test_saved_and_loaded_it_codes_alike(tmp_path):
    tokenizer = make("residual")
    tokenizer.save_pretrained(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert loaded.fingerprint == tokenizer.fingerprint != ""
    assert loaded.spec == tokenizer.spec
    media = pictures((16, 12))
    codes = tokenizer.encode(media)
    assert torch.equal(codes[0], loaded.encode(media)[0])
    np.testing.assert_array_equal(tokenizer.decode(codes)[0], loaded.decode(codes)[0])


def test_written_files_are_read_back(tmp_path):
    tokenizer = make()
    (picture,) = pictures((5, 7))
    tokenizer.write(picture, tmp_path / "p.png")
    np.testing.assert_array_equal(tokenizer.read(tmp_path / "p.png"), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_what_is_no_picture_is_refused_by_name():
    tokenizer = make()
    good = pictures((4, 4))[0]
    for bad in (good.astype(np.float32), good[..., 0], good[:0], np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(MediaError, match="picture 1: expected uint8"):
            tokenizer.encode([good, bad])
    with pytest.raises(MediaError, match="picture 0: 4 x 65 pixels, more than max_side=64"):
        tokenizer.encode(pictures((65, 4)))


def test_what_are_no_codes_is_refused():
    tokenizer = make()
    with pytest.raises(AnyglotError, match=r"must be \[rows, columns, levels\], got \[4\]"):
        tokenizer.decode([torch.zeros(4, dtype=torch.int64)])
    with pytest.raises(AnyglotError, match="codebook"):
        tokenizer.decode([torch.full((2, 2, 1), 200)])


def test_training_sides_must_fit_the_stride():
    with pytest.raises(AnyglotError, match="multiple of the stride 4"):
        make()(torch.zeros(1, 3, 6, 8))


def test_a_config_without_quantizer_is_refused():
    with pytest.raises(ConfigError, match="quantizer"):
        ImageTokenizer(ImageConfig())
