"""A Whisper of a few thousand weights and clips of noise: everything real but the size, made in
milliseconds, nothing downloaded.
"""

from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from demo.model import make_processor as learn_tokenizer
from owl.data.load import Clip
from owl.model.whisper import SAMPLES_PER_FRAME

END, START = 0, 1


def make_model(seed: int = 0, **changes) -> WhisperForConditionalGeneration:
    """2 + 2 blocks, d = 16, window 0.4 s (20 encoder frames), vocabulary 40 with two timestamp-like
    ids at its end.
    """
    torch.manual_seed(seed)
    special = dict(
        pad_token_id=END, bos_token_id=END, eos_token_id=END, decoder_start_token_id=START
    )
    sizes = dict(
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )
    sizes |= dict(
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=20,
        max_target_positions=24,
        vocab_size=40,
        num_mel_bins=8,
    )
    settings = (
        sizes
        | dict(suppress_tokens=None, begin_suppress_tokens=None, init_std=0.2)
        | special
        | changes
    )
    model = WhisperForConditionalGeneration(WhisperConfig(**settings))
    model.generation_config = GenerationConfig(
        is_multilingual=False, no_timestamps_token_id=37, return_timestamps=False, **special
    )
    return model.eval()


def make_clips(count: int, seed: int = 0) -> list[Clip]:
    """Noise of 0.1 to 0.4 s."""
    draw = np.random.default_rng(seed)
    sounds = [
        (0.1 * draw.standard_normal(draw.integers(1600, 6400))).astype(np.float32)
        for _ in range(count)
    ]
    return [
        Clip(f"clip{index}", audio, f"text {index}", None, f"{seed}/{index}")
        for index, audio in enumerate(sounds)
    ]


def make_extractor(window_frames: int = 20, mel_bins: int = 8) -> WhisperFeatureExtractor:
    """For `make_model`'s window; what a saved one says of it survives loading."""
    samples = window_frames * SAMPLES_PER_FRAME
    extractor = WhisperFeatureExtractor(
        feature_size=mel_bins, chunk_length=samples // 16_000 or samples / 16_000
    )
    extractor.n_samples, extractor.nb_max_frames = samples, 2 * window_frames
    return extractor


@cache
def make_processor(window_frames: int = 20, mel_bins: int = 8) -> WhisperProcessor:
    """A real processor for `make_model`'s window; its tokenizer knows bytes, and its ids mean
    nothing to the model.
    """
    return WhisperProcessor(
        make_extractor(window_frames, mel_bins), learn_tokenizer(["text"]).tokenizer
    )


@cache
def fitting_processor(window_frames: int = 20) -> WhisperProcessor:
    """The processor of a model folder whose parts agree: `make_model`'s 40 tokens, letters, the
    digits to 7 and a space.
    """
    end, start, quiet = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
    tokens = [end, start, *"abcdefghijklmnopqrstuvwxyz01234567Ġ", quiet, "<|0.00|>", "<|0.02|>"]
    tokenizer = WhisperTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        pad_token=end,
        extra_special_tokens=[start, quiet],
    )
    return WhisperProcessor(make_extractor(window_frames), tokenizer)


def save(folder: Path, count: int = 8) -> None:
    """A model whose parts agree in `folder`/model, and `count` noise clips with text
    in each of `folder`/calibration and `folder`/evaluation.
    """
    # one second: what a saved extractor says of its window survives loading
    make_model(max_source_positions=50).save_pretrained(folder / "model")
    fitting_processor(50).save_pretrained(folder / "model")
    for split in ("calibration", "evaluation"):
        (folder / split).mkdir()
        lines = ["file_name,text"]
        for index, clip in enumerate(make_clips(count, seed=len(split))):
            soundfile.write(folder / split / f"{index}.wav", clip.audio, 16_000)
            lines.append(f"{index}.wav,text {index}")
        (folder / split / "metadata.csv").write_text("\n".join(lines) + "\n")
