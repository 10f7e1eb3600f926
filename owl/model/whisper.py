"""Load a Whisper, and the only file that knows its layout: blocks in order, linears of a block,
tied weights, prompt tokens.

Any `openai/whisper-*`, fine-tune or local folder whose config says `model_type: whisper`;
safetensors only, no remote code. `proj_out` is the token embedding seen from the other side (tied):
it is no block's linear, so nothing here can ever offer it for pruning.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    GenerationConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from owl.errors import ConfigError, ModelError
from owl.model import agreement, folders
from owl.model.generation import language_code, meant, saved_settings, whole_settings
from owl.model.shapes import kind_of

SAMPLES_PER_FRAME = 320  # audio samples per encoder frame: hop 160, then a convolution of stride 2
SELF_INPUTS, ENCODER_INPUTS = ("q_proj", "k_proj", "v_proj"), ("k_proj", "v_proj")


class Whisper(NamedTuple):
    """A model in eval mode and its processor, which always travel together."""

    model: WhisperForConditionalGeneration
    processor: WhisperProcessor


@dataclass(frozen=True)
class Linear:
    """One weight matrix of a block. `name` as in "decoder.0.encoder_attn.q_proj"; linears of one
    `inputs` name see the same input.
    """

    name: str
    path: str  # in the model, as in "model.decoder.layers.0.encoder_attn.q_proj"
    module: nn.Linear

    @property
    def kind(self) -> str:
        """The name without the block: "encoder_attn.q_proj", "fc1"."""
        return self.name.split(".", 2)[2]

    @property
    def sees_audio(self) -> bool:
        """Are its rows encoder frames? Text tokens else."""
        crossed = tuple(f"encoder_attn.{name}" for name in ENCODER_INPUTS)
        return self.name.startswith("encoder.") or self.kind.startswith(crossed)

    @property
    def inputs(self) -> str:
        """Which input it sees: q/k/v of a self-attention share one; cross-attention k/v of *all*
        decoder blocks share the encoder's output.
        """
        attention, _, projection = self.kind.rpartition(".")
        if attention == "encoder_attn" and projection in ENCODER_INPUTS:
            return "encoder output"
        return "self_attn" if attention == "self_attn" and projection in SELF_INPUTS else self.kind


@dataclass(frozen=True)
class Block:
    """One encoder or decoder layer, "encoder.3", with the linears in it that are targeted (all of
    them from `blocks`).
    """

    name: str
    module: nn.Module
    linears: tuple[Linear, ...]

    @property
    def in_decoder(self) -> bool:
        return self.name.startswith("decoder")

    @cached_property
    def weight_count(self) -> int:
        return sum(linear.module.weight.numel() for linear in self.linears)


def load(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cache_dir: str | None = None,
) -> Whisper:
    """The model on `device`, with its processor. Raises ModelError for whatever is missing,
    broken or no Whisper.
    """
    folders.check(name)
    try:
        config = AutoConfig.from_pretrained(name, cache_dir=cache_dir, trust_remote_code=False)
        if config.model_type != "whisper":
            raise ModelError(
                f"'{name}' is a '{config.model_type}' model, not a Whisper; this tool prunes "
                "Whisper models only"
            )
        saved = saved_settings(name, cache_dir)
        model, info = kind_of(config).from_pretrained(
            name,
            dtype=dtype,
            cache_dir=cache_dir,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        processor = WhisperProcessor.from_pretrained(name, cache_dir=cache_dir)
        settle(name, model, processor, saved, info)
    except ModelError:
        raise
    # transformers raises OSError, ValueError, SafetensorError and more for a folder that is not
    # right
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"cannot load the model '{name}': {reason}\nGive a folder with config.json, "
            "model.safetensors and the processor's files, "
            "or a Hub id such as openai/whisper-tiny (needs a network, or HF_HOME with it "
            "downloaded)"
        ) from error
    return Whisper(model.to(device).eval(), processor)


def settle(
    name: str,
    model: WhisperForConditionalGeneration,
    processor,
    saved: GenerationConfig | None,
    info=None,
) -> None:
    """Check that the parts of a loaded model agree, and put whole generation settings in place of
    the `saved` ones (None: there is no generation_config.json), with what the config says of
    prompts in them. ModelError where that cannot be.
    """
    vocabulary = processor.tokenizer.get_vocab()
    try:
        model.generation_config = saved or model.generation_config
        agreement.check(name, model, processor, vocabulary, info)
        model.generation_config = whole_settings(
            model.generation_config, model.config, processor.tokenizer, vocabulary
        )
    except ValueError as error:
        raise ModelError(f"cannot load the model '{name}': {error}") from error
    model.config.eos_token_id = model.generation_config.eos_token_id
    model.config.forced_decoder_ids = None


def choose_device(wanted: str, use_mps: bool = True) -> torch.device:
    """ "auto" prefers CUDA, then Apple MPS (unless `use_mps` is false), then the CPU. ConfigError
    for a device that is not here.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if cuda else "mps" if mps and use_mps else "cpu")
    device = torch.device(wanted)
    there = {
        "cuda": cuda and (device.index or 0) < torch.cuda.device_count(),
        "mps": mps,
        "cpu": True,
    }[device.type]
    if not there:
        raise ConfigError(
            f"hardware.device: '{wanted}' was asked for, but PyTorch sees no such device; use "
            "DEVICE=auto or DEVICE=cpu"
        )
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The floating-point type for `precision`; half precision on a CPU is slow and partly missing,
    so there it is float32.
    """
    return torch.float32 if device.type == "cpu" else getattr(torch, precision)


def blocks(model: WhisperForConditionalGeneration) -> list[Block]:
    """Every block in the order the data flows: encoder blocks, then decoder blocks, each with all
    its linears.
    """
    return list(_blocks(model))


def _blocks(model: WhisperForConditionalGeneration) -> Iterator[Block]:
    for stack in ("encoder", "decoder"):
        for index, module in enumerate(getattr(model.model, stack).layers):
            name, path = f"{stack}.{index}", f"model.{stack}.layers.{index}"
            linears = [
                (inner, linear)
                for inner, linear in module.named_modules()
                if isinstance(linear, nn.Linear)
            ]
            yield Block(
                name,
                module,
                tuple(
                    Linear(f"{name}.{inner}", f"{path}.{inner}", linear)
                    for inner, linear in linears
                ),
            )


def select(
    every: Sequence[Block], targets: Sequence[str], excluded: Sequence[str]
) -> tuple[list[Block], list[str]]:
    """(all blocks with only their targeted linears, warnings). Names are dot-bounded prefixes, with
    or without the leading "model.".

    ConfigError for a target that matches nothing, or when nothing is left; a warning for an
    exclusion that matches no linear.
    """
    linears = [linear for block in every for linear in block.linears]
    for target in targets:
        if not any(_covers(target, linear) for linear in linears):
            known = sorted(
                {linear.path.removeprefix("model.").rsplit(".", 3)[0] for linear in linears}
            )[:4]
            raise ConfigError(
                f"pruning.target_modules: '{target}' matches no linear of the model; names look "
                f"like {', '.join(known)}"
            )
    warnings = [
        f"pruning.excluded_modules: '{name}' matches no linear"
        for name in excluded
        if not any(_covers(name, one) for one in linears)
    ]
    wanted = {
        linear.name
        for linear in linears
        if any(_covers(target, linear) for target in targets)
        and not any(_covers(name, linear) for name in excluded)
    }
    if not wanted:
        raise ConfigError(
            "pruning: target_modules minus excluded_modules leave no linear to prune; loosen one "
            "of them"
        )
    kept = [
        Block(block.name, block.module, tuple(one for one in block.linears if one.name in wanted))
        for block in every
    ]
    return kept, warnings


def _covers(prefix: str, linear: Linear) -> bool:
    return (linear.path.removeprefix("model.") + ".").startswith(
        prefix.removeprefix("model.") + "."
    )


def weight_counts(
    model: WhisperForConditionalGeneration, targeted: Sequence[Block]
) -> tuple[int, int]:
    """(prunable weights, all parameters of the model; tied ones counted once)."""
    return sum(block.weight_count for block in targeted), sum(
        parameter.numel() for parameter in model.parameters()
    )


def prompt_tokens(model: WhisperForConditionalGeneration, language: str | None = None) -> list[int]:
    """The decoder's start: start of transcript; language and task if multilingual; no timestamps.

    `language` is a code, name or token, "de", "German", "<|de|>" (default: the model's own, else
    English); ModelError for one that the model does not know.
    """
    settings, code = model.generation_config, language_of(model, language)
    start, no_timestamps = model.config.decoder_start_token_id, settings.no_timestamps_token_id
    if not getattr(settings, "is_multilingual", False):
        return [start, no_timestamps]
    spoken, task = settings.lang_to_id[f"<|{code}|>"], settings.task_to_id[task_of(model)]
    return [start, spoken, task, no_timestamps]


def language_of(model: WhisperForConditionalGeneration, language: str | None) -> str:
    """The language code that transcription uses: the one asked for, else the model's own setting,
    else English. ModelError for one that the model does not know.
    """
    settings = model.generation_config
    asked = language or getattr(settings, "language", None) or "en"
    code = language_code(asked)
    if not getattr(settings, "is_multilingual", False):
        if code != "en":
            raise ModelError(
                f"the language '{asked}' was asked for, but the model is English-only; set "
                'language to null or "en", or take a multilingual model'
            )
    elif f"<|{code}|>" not in settings.lang_to_id:
        raise ModelError(
            f"the model knows no language '{asked}'; it knows "
            f"{', '.join(sorted(settings.lang_to_id)[:8])} …{meant(asked)}"
        )
    return code


def task_of(model: WhisperForConditionalGeneration) -> str:
    """What the model was saved to do: "transcribe", or "translate" into English."""
    return getattr(model.generation_config, "task", None) or "transcribe"


def text_language(model: WhisperForConditionalGeneration, language: str | None) -> str:
    """The language code of the text that comes out: `language_of`, English from a translator."""
    return "en" if task_of(model) == "translate" else language_of(model, language)


def spoken(model: WhisperForConditionalGeneration, language: str | None = None) -> str:
    """What a report says of `language_of` and `task_of`: "de, transcribe (the model's own
    setting)".
    """
    own = getattr(model.generation_config, "language", None)
    if not getattr(model.generation_config, "is_multilingual", False):
        why = "English-only"
    else:
        why = "asked for" if language else "the model's own setting" if own else "nobody says"
    return f"{language_of(model, language)}, {task_of(model)} ({why})"


def window_samples(processor: WhisperProcessor) -> int:
    """Audio samples in the model's window (480,000 = 30 s for the stock models)."""
    return processor.feature_extractor.n_samples


def valid_frames(samples: int, model: WhisperForConditionalGeneration) -> int:
    """Encoder frames that carry a clip's audio: ceil(samples / 320), at most the window; the rest
    is padding.
    """
    return min(-(-samples // SAMPLES_PER_FRAME), model.config.max_source_positions)


def embed_audio(model: WhisperForConditionalGeneration, features: Tensor) -> Tensor:
    """What the first encoder block sees: (clips, mel bins, 2·frames) → (clips, frames, d); fewer
    frames than the window are its start.
    """
    encoder = model.model.encoder
    states = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2)
    return states + encoder.embed_positions.weight[: states.shape[1]]


def encode_audio(model: WhisperForConditionalGeneration, features: Tensor) -> Tensor:
    """The encoder's output; unlike the model's own forward for any even number of mel frames up to
    the window's: (clips, mel bins, 2·frames) → (clips, frames, d).
    """
    states = embed_audio(model, features)
    for layer in model.model.encoder.layers:
        states = layer(states, None)
    return finish_encoder(model, states)


def embed_text(model: WhisperForConditionalGeneration, tokens: Tensor) -> Tensor:
    """What the first decoder block sees: (clips, tokens) → (clips, tokens, d)."""
    decoder = model.model.decoder
    return decoder.embed_tokens(tokens) + decoder.embed_positions.weight[: tokens.shape[1]]


def run_block(block: Block, states: Tensor, encoder_output: Tensor | None = None) -> Tensor:
    """One block forward, (clips, rows, d) → the same shape; a decoder block attends causally and to
    `encoder_output`.
    """
    if not block.in_decoder:
        return block.module(states, None)
    rows = states.shape[1]
    causal = torch.full(
        (rows, rows), torch.finfo(states.dtype).min, dtype=states.dtype, device=states.device
    ).triu(1)
    return block.module(states, causal[None, None], encoder_output, use_cache=False)


def finish_encoder(model: WhisperForConditionalGeneration, states: Tensor) -> Tensor:
    """What the decoder attends to, from the last encoder block's output: (clips, frames, d) → the
    same shape.
    """
    return model.model.encoder.layer_norm(states)


def followed(audio: Tensor, behind: Tensor) -> Tensor:
    """An encoder's output (clips, frames, d) with `behind` (frames, d) behind each clip's, itself
    where there is nothing to put there.
    """
    if not len(behind):
        return audio
    return torch.cat([audio, behind.expand(len(audio), -1, -1)], dim=1)


def finish_decoder(model: WhisperForConditionalGeneration, states: Tensor) -> Tensor:
    """Next-token logits from the last decoder block's output: (clips, tokens, d) → (clips, tokens,
    vocabulary).
    """
    return model.proj_out(model.model.decoder.layer_norm(states))


def teacher_forced(
    model: WhisperForConditionalGeneration,
    features: Tensor,
    tokens: Tensor,
    behind: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """(states, logits (clips, tokens, vocabulary)), with gradients; unlike the model's own forward
    for any even number of mel frames. `behind` (frames, d): what the decoder attends to behind the
    encoder's output.

    `states`: what each block puts out, by the block's name, and the two stacks' normed outputs
    "encoder" and "decoder", (clips, rows, d).
    """
    audio, text, states = embed_audio(model, features), embed_text(model, tokens), {}
    every = blocks(model)
    for block in every:
        if not block.in_decoder:
            states[block.name] = audio = run_block(block, audio)
    states["encoder"] = audio = finish_encoder(model, audio)
    if behind is not None:
        audio = followed(audio, behind)
    for block in every:
        if block.in_decoder:
            states[block.name] = text = run_block(block, text, audio)
    states["decoder"] = text = model.model.decoder.layer_norm(text)
    return states, model.proj_out(text)


@contextmanager
def frozen(model, but: Sequence[nn.Parameter] = ()) -> Iterator[None]:
    """Meanwhile no parameter collects a gradient of its own, `but` these."""
    kept = {id(one) for one in but}
    trainable = [one for one in model.parameters() if one.requires_grad and id(one) not in kept]
    for one in trainable:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in trainable:
            one.requires_grad_(True)
