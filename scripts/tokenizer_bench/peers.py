"""Peers behind the two verbs that are measured."""

from typing import Any

import numpy as np
import torch
import transformers
from scipy.fft import dct, idct
from torch import Tensor, nn

from anyglot.tokenizers.action import ActionTokenizer

FIRST = 0x4E00  # of 20,000 characters in a row without gaps, enough for any alphabet of ours


class Emu3(nn.Module):
    """transformers' Emu3 video tokenizer: clips uint8 [frames, height, width, 3], frames a multiple of 4."""

    def __init__(self, base: int) -> None:
        super().__init__()
        config = transformers.Emu3VQVAEConfig(base_channels=base, hidden_size=4 * base)
        self.model = transformers.Emu3VQVAE(config).eval()

    def encode(self, media: list[np.ndarray]) -> list[Tensor]:
        found = []
        for clip in media:
            pixels = torch.from_numpy(clip).permute(0, 3, 1, 2).float()[None] / 127.5 - 1
            found.append(self.model.encode(pixels, image_sizes=torch.tensor([clip.shape[1:3]])).image_tokens[0])
        return found

    def decode(self, codes: list[Tensor]) -> list[np.ndarray]:
        frames = [self.model.decode(code[None])[0] for code in codes]
        return [
            ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            for x in frames
        ]


class RustFast:
    """FAST as others have it: integers as characters, merged by the library `tokenizers`, with our merges."""

    def __init__(self, ours: ActionTokenizer) -> None:
        from tokenizers import Tokenizer, models

        self.ours, bpe = ours, ours._bpe
        words = ["".join(chr(FIRST + symbol) for symbol in expansion) for expansion in bpe.expansions]
        vocabulary = {word: token for token, word in enumerate(words)}
        merges = [(words[left], words[right]) for left, right in bpe.merges]
        # No cache: the same chunks come again in every turn, which they do not in use.
        self.model: Any = Tokenizer(models.BPE(vocabulary, merges, cache_capacity=0))
        self.words = words

    def encode(self, media: list[np.ndarray]) -> list[Tensor]:
        config, found = self.ours.config, []
        low, half = self.ours._smallest, self.ours.half_range
        for steps in media:
            normalised = (steps - self.ours.middle) / half
            texts = []
            for start in range(0, len(steps), config.chunk):
                part = dct(normalised[start : start + config.chunk], axis=0, norm="ortho") * config.scale
                symbols = np.rint(part).astype(np.int64).ravel() - low
                assert 0 <= symbols.min() <= symbols.max() < self.ours._span
                texts.append("".join(map(chr, (symbols + FIRST).tolist())))
            codes = [token for text in texts for token in self.model.encode(text).ids]
            found.append(torch.tensor(codes)[:, None])
        return found

    def decode(self, codes: list[Tensor]) -> list[np.ndarray]:
        config, found = self.ours.config, []
        for code in codes:
            text = "".join(self.words[token] for token in code[:, 0].tolist())
            integers = np.array([ord(character) for character in text]) - FIRST + self.ours._smallest
            rows = integers.reshape(-1, config.features) / config.scale
            parts = [idct(rows[i : i + config.chunk], axis=0, norm="ortho") for i in range(0, len(rows), config.chunk)]
            found.append((np.concatenate(parts) * self.ours.half_range + self.ours.middle).astype(np.float32))
        return found


class Vectors(nn.Module):
    """A quantizer of ours over lists of vectors [n, dim]."""

    def __init__(self, quantizer: Any) -> None:
        super().__init__()
        self.quantizer = quantizer

    def encode(self, media: list[Tensor]) -> list[Tensor]:
        return [self.quantizer.encode(vectors) for vectors in media]

    def decode(self, codes: list[Tensor]) -> list[Tensor]:
        return [self.quantizer.decode(code) for code in codes]


class Faiss:
    """faiss' ResidualQuantizer with the codebooks of ours."""

    def __init__(self, quantizer: Any) -> None:
        import faiss

        from anyglot.tokenizers.quantizers.base import codebooks

        faiss.omp_set_num_threads(1)
        books = torch.stack(codebooks(quantizer)).numpy()  # [levels, size, dim]
        levels, size, dim = books.shape
        self.quantizer = faiss.ResidualQuantizer(dim, levels, int(np.log2(size)))
        faiss.copy_array_to_vector(np.ascontiguousarray(books).ravel(), self.quantizer.codebooks)
        self.quantizer.is_trained, self.quantizer.max_beam_size = True, 1

    def encode(self, media: list[Tensor]) -> list[Tensor]:
        return [torch.from_numpy(self.quantizer.compute_codes(vectors.numpy()).astype(np.int64)) for vectors in media]

    def decode(self, codes: list[Tensor]) -> list[Tensor]:
        return [torch.from_numpy(self.quantizer.decode(code.to(torch.uint8).numpy())) for code in codes]
