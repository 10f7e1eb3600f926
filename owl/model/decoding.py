"""Greedy transcription of one batch, with the same fixed settings for every model that is compared.

Traps this file exists for: without timestamps nothing stops `generate` from emitting timestamp
tokens, and its long-form seeking can then loop forever on an over-pruned model; so all timestamp
ids are suppressed, one unique `generate` call is forced, and it is bounded. Text that certainly
loops (`owl.kernels.loops`) ends there in every runtime.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from owl.kernels.loops import loop_ends
from owl.model.whisper import (
    Whisper,
    encode_audio,
    language_of,
    prompt_tokens,
    task_of,
    window_samples,
)
from owl.model.windows import Listener, Window, listener

MOST_BYTES = (
    512e6  # that one model's outputs may take; what comes later is not kept and is encoded again
)


class States:
    """Encoder outputs (frames, d) by waveform: the very array, not an equal one."""

    def __init__(self, most_bytes: float = MOST_BYTES):
        self._kept: dict[
            int, tuple[np.ndarray, Tensor]
        ] = {}  # the array is held too, so that its id stays its own
        self._room = most_bytes

    def keep(self, audio: Sequence[np.ndarray], outputs: Tensor) -> None:
        """Remember one batch, outputs (clips, frames, d) in the order of `audio`, as long as there
        is room.
        """
        for waveform, output in zip(audio, outputs, strict=True):
            if id(waveform) not in self._kept and output.nbytes <= self._room:
                self._kept[id(waveform)] = waveform, output
                self._room -= output.nbytes

    def recall(self, audio: Sequence[np.ndarray]) -> Tensor | None:
        """The outputs (clips, frames, d) of these waveforms, None unless all were kept."""
        if any(id(waveform) not in self._kept for waveform in audio):
            return None
        return torch.stack([self._kept[id(waveform)][1] for waveform in audio])


USUAL_CAP = 224  # tokens, openai/whisper's own default (half its text context)
AT_ONCE_ON_CPU = (
    4  # windows: a larger encoder batch falls out of the caches and takes longer per clip
)
# new tokens between two looks for loops: a look may take milliseconds, like a small decoder's step,
# and what is said meanwhile is cut
LOOK_EVERY = 16

# how text ends, from good to bad: with the end token, at the token cap, where it certainly loops
Ending = Literal["end", "cap", "loop"]


class Decoded(NamedTuple):
    """Text tokens of one window, without prompt and end token, and how they end."""

    tokens: list[int]
    ended: Ending


class Looping(StoppingCriteria):
    """Stops the rows that loop behind a prompt of so many tokens."""

    def __init__(self, prompt: int):
        self._prompt = prompt

    def __call__(self, input_ids: Tensor, scores, **kwargs) -> Tensor:
        """Token ids (rows, tokens) → which rows are done (rows,)."""
        said = input_ids[:, self._prompt :]
        if said.shape[1] % LOOK_EVERY:
            return torch.zeros(len(said), dtype=torch.bool, device=said.device)
        return loop_ends(said) > 0


def input_features(asr: Whisper, audio: Sequence) -> Tensor:
    """`log_mel` on the model's device and in its precision."""
    return log_mel(asr.processor, audio).to(next(asr.model.parameters()))


def log_mel(processor, audio: Sequence) -> Tensor:
    """Log-mel features (clips, mel bins, 2·frames), each clip (samples,) cut or padded to the
    window.
    """
    extractor = processor.feature_extractor
    cut = [samples[: window_samples(processor)] for samples in audio]
    return torch.cat(
        [
            extractor(
                samples, sampling_rate=extractor.sampling_rate, return_tensors="pt"
            ).input_features
            for samples in cut
        ]
    )


def token_cap(model, wanted: int | None, language: str | None = None) -> int:
    """Most new tokens per window: `wanted`, by default 224, never more than the decoder has
    positions for.
    """
    return min(
        wanted or USUAL_CAP, model.config.max_target_positions - len(prompt_tokens(model, language))
    )


@torch.inference_mode()
def encode(model, features: Tensor) -> Tensor:
    """(clips, mel bins, 2·frames) → the encoder's output (clips, frames, d), for windows of any
    length.
    """
    parts = features.split(at_once(features.device, len(features)))
    if features.shape[2] < 2 * model.config.max_source_positions:
        return torch.cat([encode_audio(model, part) for part in parts])
    return torch.cat([model.model.encoder(part).last_hidden_state for part in parts])


def encode_silence(model, silence: Tensor | None) -> Tensor | None:
    """The encoder's output (frames, d) for a silent window, from its features (1, mel bins,
    2·frames), without a gradient. None without `silence`.
    """
    if silence is None:
        return None
    (output,) = encode(model, silence.to(next(model.parameters())))
    return output.clone()  # autograd may keep no tensor of inference mode


def at_once(device: torch.device, wanted: int) -> int:
    """How many of `wanted` windows an encoder best takes together."""
    return min(wanted, AT_ONCE_ON_CPU) if device.type == "cpu" else wanted


@torch.inference_mode()
def greedy(
    model, encoder_output: Tensor, *, language: str | None, max_new_tokens: int | None
) -> list[Decoded]:
    """Greedy text tokens of every clip of an encoder output (clips, frames, d)."""
    prompt, states = prompt_tokens(model, language), BaseModelOutput(encoder_output)
    sequences = model.generate(
        encoder_outputs=states, **generate_settings(model, language, max_new_tokens)
    )
    return text_tokens(sequences[:, len(prompt) :], model.config.eos_token_id)


def generate_settings(model, language: str | None, max_new_tokens: int | None) -> dict:
    """The fixed arguments of `generate`, whatever it is given to listen to."""
    multilingual = getattr(model.generation_config, "is_multilingual", False)
    return {
        "force_unique_generate_call": True,
        "return_timestamps": False,
        "num_beams": 1,
        "do_sample": False,
        "max_length": None,
        "max_new_tokens": token_cap(model, max_new_tokens, language),
        "suppress_tokens": suppressed(model),
        "stopping_criteria": StoppingCriteriaList([Looping(len(prompt_tokens(model, language)))]),
        **(
            {"language": f"<|{language_of(model, language)}|>", "task": task_of(model)}
            if multilingual
            else {}
        ),
    }


def torch_listener(asr: Whisper, window: Window) -> Listener:
    """How PyTorch hears a batch of waveforms, as `owl.model.windows.listener`."""
    return listener(partial(input_features, asr), partial(encode, asr.model), window)


# waveforms of at most one window → their text tokens, in order
Decoder = Callable[[Sequence[np.ndarray]], list[Decoded]]


def torch_decoder(
    asr: Whisper,
    *,
    language: str | None = None,
    max_new_tokens: int | None = None,
    states: States | None = None,
    window: Window = "full",
) -> Decoder:
    """How PyTorch turns a batch of waveforms into text tokens: features, encoder, greedy decoding.
    `states` keeps the encoder's outputs of full windows.
    """
    listen = torch_listener(asr, window)

    def decode(audio: Sequence[np.ndarray]) -> list[Decoded]:
        encoded = listen(audio)
        if states is not None and window == "full":
            states.keep(audio, encoded)
        return greedy(asr.model, encoded, language=language, max_new_tokens=max_new_tokens)

    return decode


def runtime_decoder(whisper, processor, fixed: dict, window: Window) -> Decoder:
    """How another runtime's `whisper` turns a batch of waveforms into text tokens: its `encode`
    takes log-mel features, its `greedy` what comes of them and the `fixed` settings.
    """
    listen = listener(partial(log_mel, processor), whisper.encode, window)
    return lambda audio: whisper.greedy(listen(audio), **fixed)


def suppressed(model) -> list[int]:
    """Tokens that are never said: the model's own list and all timestamps, which are behind
    <|notimestamps|>; words that a fine-tune added behind them are said.
    """
    settings = model.generation_config
    behind = range(settings.no_timestamps_token_id + 1, model.config.vocab_size)
    words = set(getattr(settings, "added_token_ids", None) or [])
    return [*(settings.suppress_tokens or []), *(one for one in behind if one not in words)]


def text_tokens(rows: Tensor, end: int) -> list[Decoded]:
    """Of each row of generated tokens (rows, tokens) what comes before its first `end`, or up to
    where it certainly loops.
    """
    found = []
    for row, loop in zip(rows.tolist(), loop_ends(rows).tolist()):
        length = row.index(end) if end in row else len(row)
        if 0 < loop <= length:
            found.append(Decoded(row[:loop], "loop"))
        else:
            found.append(Decoded(row[:length], "end" if end in row else "cap"))
    return found
