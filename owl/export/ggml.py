"""One file for whisper.cpp: writing a Whisper as float16 or rounded to ggml's blocks.

A block is 32 weights of a row under one float16 scale, to 8, 5 or 4 bits; the rounding is gguf's,
which is ggml's own. Zero is a level of all of these grids, so that a pruned weight stays zero.
whisper.cpp goes through audio by 30 s and knows special tokens by their place in OpenAI's
vocabularies alone; its layers all have OpenAI's proportions. What is otherwise is refused.
"""

import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch
from gguf import quants
from torch import nn
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from owl.config.formats import short_folder
from owl.data.load import RATE
from owl.errors import UnsupportedFormat
from owl.export.ggml_file import (
    BLOCK,
    F32,
    FREQUENCIES,
    GRIDS,
    Sizes,
    file_type,
    layout,
    openai_name,
    read,
    turn,
    write_head,
    write_tensor,
)
from owl.kernels.byte_letters import BYTE_OF
from owl.model.generation import END, NO_TIMESTAMPS, START
from owl.model.whisper import SAMPLES_PER_FRAME, Whisper
from owl.model.windows import SECOND
from owl.run.files import whole_file, whole_folder

FILE, SILENCE = "ggml-model.bin", "silence.wav"
POSITIONS = 1500  # encoder frames of 30 s
WORDS = 50_257  # tokens that a file spells out: GPT-2's, of which the last is its end token or ""
ENGLISH_ONLY = 51_864  # rows of the embedding up to which whisper.cpp takes it for English-only


def export_ggml(asr: Whisper, folder: Path, *, grid: str = "f16") -> None:
    """Write `folder`/ggml-model.bin, whole or not at all; `grid` is one of GRIDS. UnsupportedFormat
    for a model that whisper.cpp has no place for, with the reason.
    """
    sizes = _sizes(asr.model, grid)
    _check_tokens(asr)
    words, wanted = _words(asr), layout(sizes)
    # a tied tensor once
    weights = {openai_name(name): one for name, one in asr.model.named_parameters()}
    _check_weights(weights, wanted)
    filters = np.asarray(asr.processor.feature_extractor.mel_filters).T
    if filters.shape != (sizes.mel_bins, FREQUENCIES):
        raise UnsupportedFormat(
            f"whisper.cpp has {FREQUENCIES} frequencies in a mel filter, the model's feature "
            f"extractor {filters.shape[1]}"
        )
    with whole_file(folder / FILE) as path, path.open("wb") as file:
        write_head(file, sizes, filters, words)
        for name, tensor in wanted.items():
            values = weights[name].detach().to("cpu", torch.float32).numpy().reshape(tensor.shape)
            if tensor.bytes < values.nbytes:  # whisper.cpp's tools round a float16 file
                values = values.astype(np.float16).astype(np.float32)
            write_tensor(file, name, tensor, quants.quantize(values, tensor.type))


def export_short(folder: Path) -> None:
    """Write `short_folder(folder)`, whole or not at all: the file in `folder` for windows as short
    as the speech (whisper.cpp's `audio_ctx`), and a second of silence to put before it.

    A decoder stops where it sees a window end in silence (`owl.model.windows`), and whisper.cpp
    can hand it nothing but its own encoder's output. But attention knows no order beside the
    positions: those of the window's last second stand first here, so that silence before the speech
    is the end of the window behind it.
    """
    with whole_folder(short_folder(folder)) as target:
        shutil.copyfile(folder / FILE, target / FILE)
        turn(target / FILE, "encoder.positional_embedding", SECOND)
        soundfile.write(target / SILENCE, np.zeros(SECOND * SAMPLES_PER_FRAME, np.int16), RATE)


def load_ggml(folder: Path, settings: Whisper) -> Whisper:
    """What `folder`/ggml-model.bin holds, in PyTorch; the file has no settings, so they are those
    of `settings`, whose weights are replaced. ModelError for a file that is not whole.
    """
    held, model = dict(read(folder / FILE)), settings.model
    for name, empty in list(model.named_parameters()):
        owner, _, last = name.rpartition(".")
        values = torch.tensor(held[openai_name(name)]).view(empty.shape)
        setattr(model.get_submodule(owner), last, nn.Parameter(values, requires_grad=False))
    model.tie_weights()
    return settings


def _sizes(model, grid: str) -> Sizes:
    config = model.config
    if hasattr(config, "owl_ranks"):
        raise UnsupportedFormat("whisper.cpp has one matrix a linear; some of the model's have two")
    if grid not in GRIDS:
        raise UnsupportedFormat(f"unknown grid '{grid}': whisper.cpp's are {', '.join(GRIDS)} here")
    if config.max_source_positions != POSITIONS:
        raise UnsupportedFormat(
            "whisper.cpp goes through audio by 30 s; the model's window is "
            f"{config.max_source_positions / 50:g} s"
        )
    if grid != "f16" and config.d_model % BLOCK:
        raise UnsupportedFormat(
            f"ggml packs rows by {BLOCK} weights; the model's have {config.d_model}"
        )
    if config.activation_function != "gelu" or config.scale_embedding:
        raise UnsupportedFormat(
            "whisper.cpp computes gelu and plain embeddings; the model's config says "
            f"activation_function '{config.activation_function}', scale_embedding "
            f"{str(config.scale_embedding).lower()}"
        )
    return Sizes(
        vocabulary=config.vocab_size,
        audio_positions=config.max_source_positions,
        audio_width=config.d_model,
        audio_heads=config.encoder_attention_heads,
        audio_layers=config.encoder_layers,
        text_positions=config.max_target_positions,
        text_width=config.d_model,
        text_heads=config.decoder_attention_heads,
        text_layers=config.decoder_layers,
        mel_bins=config.num_mel_bins,
        file_type=file_type(grid),
    )


def _check_weights(weights: dict, wanted: dict) -> None:
    """UnsupportedFormat where a tensor is not as whisper.cpp has it, or beyond float16."""
    if odd := sorted(wanted.keys() ^ weights.keys()):
        raise UnsupportedFormat(f"whisper.cpp and the model do not both have the tensor {odd[0]}")
    for name, tensor in wanted.items():
        shape = tuple(weights[name].shape)
        if shape != tensor.shape and shape != tensor.shape[:1]:  # a convolution's bias
            what = "heads" if "attn" in name else "feed-forward neurons"
            raise UnsupportedFormat(
                f"whisper.cpp has all heads and four times as many neurons as the width in every "
                f"block; the model has lost {what}: {name} is {' × '.join(map(str, shape))}, not "
                f"{' × '.join(map(str, tensor.shape))}"
            )
        stored = weights[name] if tensor.type == F32 else weights[name].half()
        if not torch.isfinite(stored).all():
            raise UnsupportedFormat(f"{name} has a value beyond float16, or one that is no number")


def _check_tokens(asr: Whisper) -> None:
    """UnsupportedFormat where whisper.cpp, which counts from the rows of the embedding, would take
    other tokens for the special ones.
    """
    rows, settings = asr.model.config.vocab_size, asr.model.generation_config
    multilingual = rows > ENGLISH_ONLY
    if multilingual != settings.is_multilingual:
        raise UnsupportedFormat(
            f"whisper.cpp takes a vocabulary of {rows:,} for "
            f"{'multilingual' if multilingual else 'English-only'}, and the model's is not"
        )
    start, languages = WORDS + multilingual, rows - 51_765 - multilingual
    taken = {END: start - 1, START: start, NO_TIMESTAMPS: start + languages + 6}
    needed = [*taken]
    if multilingual:
        taken |= {f"<|{code}|>": start + 1 + place for place, code in enumerate(LANGUAGES)}
        taken |= {"<|translate|>": start + languages + 1, "<|transcribe|>": start + languages + 2}
        needed += [*settings.lang_to_id, *(f"<|{task}|>" for task in settings.task_to_id)]
    known = asr.processor.tokenizer.get_vocab()
    for token in needed:
        if taken.get(token) != known[token]:
            raise UnsupportedFormat(
                "whisper.cpp knows special tokens by their places in OpenAI's vocabularies; in one "
                f"of {rows:,} it has {token} at {taken.get(token)}, and the model at {known[token]}"
            )


def _words(asr: Whisper) -> list[bytes]:
    """The bytes of the tokens that a file spells out, in order."""
    known = {place: token for token, place in asr.processor.tokenizer.get_vocab().items()}
    words = []
    for place in range(WORDS):
        token = known.get(place)
        if token is None or not set(token) <= BYTE_OF.keys():
            raise UnsupportedFormat(
                f"whisper.cpp needs a byte-level vocabulary; token {place} is {token!r}"
            )
        words.append(bytes(BYTE_OF[letter] for letter in token))
    if b" " not in words:
        raise UnsupportedFormat("whisper.cpp needs the space as a token of its own")
    return words
