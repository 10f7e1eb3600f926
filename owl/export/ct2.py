"""A Whisper folder for CTranslate2: writing one, and greedy decoding of one with ctranslate2 alone.

`model.bin` holds float16, or int8 per output row beside float16; a CPU computes in float32, or int8
and float32. faster-whisper loads the folder too, but always pads to 30 s (the features, with zeros:
its text may differ from ours) and takes a model for multilingual where its vocabulary has the empty
token, as OpenAI's multilingual one has; where it cannot use a folder, `loads_in` says so.
CTranslate2 keeps its own `config.json`; the Whisper's lies beside it as `whisper_config.json`.
"""

import copy
import logging
import tempfile
from pathlib import Path

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from owl.errors import ModelError, UnsupportedFormat
from owl.export.huggingface import save_settings
from owl.model.decoding import (
    AT_ONCE_ON_CPU,
    Decoded,
    Decoder,
    runtime_decoder,
    suppressed,
    text_tokens,
    token_cap,
)
from owl.model.loading import empty_whisper
from owl.model.whisper import Whisper, prompt_tokens
from owl.model.windows import Window

CONFIG = "whisper_config.json"
FILES = ("model.bin", "config.json", "vocabulary.json", "generation_config.json", CONFIG)
STORED = {False: "float16", True: "int8_float16"}  # by int8 or not
STOCK_END = 50257  # the end token of OpenAI's multilingual vocabulary, which has the token ""
STOCK_FRAMES = 1500  # encoder frames of 30 s


def export_ct2(asr: Whisper, folder: Path, *, int8: bool = False) -> None:
    """Write the model into `folder`; it stays as it is. UnsupportedFormat for a Whisper that
    CTranslate2 has no place for.
    """
    _check(asr)
    # a copy of its own: the converter scales weights in place
    plain = copy.deepcopy(asr.model).to("cpu", torch.float32).eval()
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        plain.config.save_pretrained(aside)
        _InMemory(asr._replace(model=plain), aside).convert(
            str(folder), quantization=STORED[int8], force=True
        )
        config = (folder / "config.json").read_bytes()
        save_settings(asr._replace(model=plain), folder, dtype=torch.float16)
    (folder / "config.json").replace(folder / CONFIG)
    (folder / "config.json").write_bytes(config)


def loads_in(model: WhisperForConditionalGeneration) -> str:
    """What loads the folder of such a model."""
    multilingual = getattr(model.generation_config, "is_multilingual", False)
    if model.config.max_source_positions != STOCK_FRAMES:
        return "ctranslate2 (not faster-whisper: window below 30 s)"
    if multilingual and model.generation_config.eos_token_id != STOCK_END:
        return 'ctranslate2 (not faster-whisper: multilingual vocabulary without the token "")'
    return "faster-whisper, ctranslate2"


class _InMemory(TransformersConverter):
    """CTranslate2's converter, given the model instead of loading it once more."""

    def __init__(self, asr: Whisper, folder: str):
        super().__init__(folder)
        self._given = asr.model, asr.processor.tokenizer

    def load_model(self, model_class, model_name_or_path, **kwargs):
        return self._given[0]

    def load_tokenizer(self, tokenizer_class, model_name_or_path, **kwargs):
        return self._given[1]


def _check(asr: Whisper) -> None:
    """UnsupportedFormat where CTranslate2 would refuse the model, or compute something else without
    a word.
    """
    config = asr.model.config
    if hasattr(config, "owl_ranks"):
        raise UnsupportedFormat("CTranslate2 has one matrix a linear; some of the model's have two")
    for stack, layers in (
        ("encoder", asr.model.model.encoder.layers),
        ("decoder", asr.model.model.decoder.layers),
    ):
        attentions = [
            part
            for layer in layers
            for name, part in layer.named_children()
            if name.endswith("attn")
        ]
        heads = getattr(config, f"{stack}_attention_heads")
        if any(
            one.q_proj.out_features != config.d_model or one.num_heads != heads
            for one in attentions
        ):
            raise UnsupportedFormat(
                f"CTranslate2 has one number of heads per stack, and heads of d/{heads}; the "
                f"{stack} has lost some"
            )
    if len(asr.processor.tokenizer) > config.vocab_size:
        raise UnsupportedFormat(
            f"the tokenizer knows {len(asr.processor.tokenizer)} tokens, the model's "
            f"vocabulary has {config.vocab_size}"
        )


class Ct2Whisper:
    """A CTranslate2 folder, ready to decode on the CPU with `threads` (default: as many as PyTorch
    uses). ModelError if incomplete.
    """

    def __init__(self, folder: Path, threads: int | None = None):
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"'{folder}' is no complete CTranslate2 Whisper: {', '.join(missing)} missing; "
                "export it again with FORMATS=ct2"
            )
        self.settings = empty_whisper(folder / CONFIG, folder)
        options = {
            "device": "cpu",
            "inter_threads": 1,
            "intra_threads": threads or torch.get_num_threads(),
        }
        # that a CPU computes in float32 what is stored as float16 is what we want
        ctranslate2.set_log_level(logging.ERROR)
        try:
            self._model = ctranslate2.models.Whisper(str(folder), **options)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"ctranslate2 cannot load '{folder}': {error}\nExport the folder again with "
                "FORMATS=ct2"
            ) from error

    def encode(self, features: Tensor) -> Tensor:
        """Log-mel features (clips, mel bins, 2·frames) → the encoder's output (clips, frames, d),
        for windows of any length.
        """
        parts = [
            ctranslate2.StorageView.from_array(part.contiguous().numpy())
            for part in features.float().split(AT_ONCE_ON_CPU)
        ]
        return torch.cat([torch.from_numpy(np.array(self._model.encode(part))) for part in parts])

    def greedy(
        self,
        encoder_output: Tensor,
        *,
        prompt: list[int],
        end: int,
        suppress: list[int],
        max_new_tokens: int,
    ) -> list[Decoded]:
        """The likeliest token at each step, as `owl.model.decoding.greedy`; the folder's own list
        holds what is never said first. CTranslate2 asks nobody between two tokens: what loops is
        said up to the cap, and cut afterwards.
        """
        states = ctranslate2.StorageView.from_array(encoder_output.contiguous().numpy())
        # ctranslate2 stops after min(length / 2, length − prompt + 1) new tokens
        length = max(2 * max_new_tokens, max_new_tokens + len(prompt) - 1)
        greedily = {
            "beam_size": 1,
            "suppress_blank": True,
            "suppress_tokens": suppress,
            "max_length": length,
        }
        said = self._model.generate(states, [prompt] * len(encoder_output), **greedily)
        rows = [one.sequences_ids[0] for one in said]
        ended = [row + [end] * (max_new_tokens - len(row)) for row in rows]
        return text_tokens(torch.tensor(ended), end)


def ct2_decoder(
    whisper: Ct2Whisper | Path,
    processor,
    *,
    language: str | None = None,
    max_new_tokens: int | None = None,
    threads: int | None = None,
    window: Window = "full",
) -> Decoder:
    """How ctranslate2 turns a batch of waveforms into text tokens; settings as in
    `owl.model.decoding.torch_decoder`. A folder is loaded first.
    """
    whisper = Ct2Whisper(whisper, threads) if isinstance(whisper, Path) else whisper
    settings = whisper.settings
    fixed = {
        "prompt": prompt_tokens(settings, language),
        "end": settings.config.eos_token_id,
        "suppress": suppressed(settings),
        "max_new_tokens": token_cap(settings, max_new_tokens, language),
    }
    return runtime_decoder(whisper, processor, fixed, window)
