"""A Whisper folder for ONNX runtimes: writing one, and greedy decoding of one with onnxruntime
alone.

The graphs are those of `owl.export.onnx_graphs`, named as optimum names them, so that other
runtimes load the folder as it is. float32 on disk; pruned weights are stored zeros.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from owl.errors import ModelError
from owl.export.huggingface import float_copy, save_settings
from owl.export.onnx_graphs import DECODER, ENCODER, WITH_PAST, write_graphs
from owl.kernels.loops import loop_ends
from owl.model.decoding import (
    AT_ONCE_ON_CPU,
    LOOK_EVERY,
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

SETTINGS = ("config.json", "generation_config.json")


def export_onnx(asr: Whisper, folder: Path, *, int8: bool = False) -> list[Path]:
    """Write graphs, configs and the processor's files into `folder`; `model` stays as it is,
    `int8` rounds the weights of the graphs. Returns their paths.
    """
    plain = float_copy(asr.model)
    # plain matrix products and a softmax, which every runtime fuses as it likes
    plain.set_attn_implementation("eager")
    write_graphs(plain, folder)
    save_settings(asr._replace(model=plain), folder, dtype=torch.float32)
    if int8:
        # the quantiser takes a second to import, and a fresh process that loads a folder needs none
        from owl.export.onnx_int8 import quantise_folder

        quantise_folder(folder)
    return sorted(folder.glob("*.onnx*"))


class OnnxWhisper:
    """An exported folder, ready to decode on the CPU with `threads` (default: as many as PyTorch
    uses). ModelError if incomplete.

    `settings` is the Whisper without its weights: the configs that prompt and token cap depend on.
    """

    def __init__(self, folder: Path, threads: int | None = None):
        missing = [
            name
            for name in (ENCODER, DECODER, WITH_PAST, *SETTINGS)
            if not (folder / name).is_file()
        ]
        if missing:
            names = ", ".join(missing)
            raise ModelError(
                f"'{folder}' is no complete ONNX Whisper: {names} missing; export it again with "
                "FORMATS=onnx"
            )
        self.settings = empty_whisper(folder / "config.json", folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = (
            threads or torch.get_num_threads(),
            3,
        )
        # three sessions and PyTorch take turns on the same cores: idle threads that spin would hold
        # up the one that works
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._encoder, self._first, self._later = (
            _session(folder / name, options) for name in (ENCODER, DECODER, WITH_PAST)
        )

    def encode(self, features: Tensor) -> Tensor:
        """Log-mel features (clips, mel bins, 2·frames) → the encoder's output (clips, frames, d),
        for windows of any length.
        """
        # attention over whole windows: memory grows with the batch
        run = lambda part: self._encoder.run(None, {"input_features": part.numpy()})[0]
        parts = features.float().cpu().split(AT_ONCE_ON_CPU)
        return torch.cat([torch.from_numpy(run(part)) for part in parts])

    def predictions(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Log probabilities of what follows each of `tokens` (clips, tokens), (clips, tokens,
        vocabulary).
        """
        states = self.encode(features).numpy()
        feeds = {"input_ids": tokens.numpy(), "encoder_hidden_states": states}
        (logits,) = self._first.run(["logits"], feeds)
        return torch.from_numpy(logits).log_softmax(-1)

    def greedy(
        self,
        encoder_output: Tensor,
        *,
        prompt: list[int],
        end: int,
        suppress: list[int],
        begin_suppress: list[int],
        max_new_tokens: int,
    ) -> list[Decoded]:
        """The likeliest token at each step, as `owl.model.decoding.greedy`; never one of
        `suppress`, nor first of `begin_suppress`. Ends where all clips have ended or loop.
        """
        states = encoder_output.numpy()
        tokens, ended, session = (
            np.tile(np.int64(prompt), (len(states), 1)),
            np.zeros(len(states), bool),
            self._first,
        )
        feeds, said = {"encoder_hidden_states": _value(states)}, []
        while len(said) < max_new_tokens and not ended.all():
            logits, present = _run(session, feeds | {"input_ids": _value(tokens)})
            logits[:, suppress if said else [*suppress, *begin_suppress]] = -np.inf
            tokens = np.where(ended, end, logits.argmax(-1))[:, None]
            ended |= tokens[:, 0] == end
            said.append(tokens[:, 0])
            if len(said) % LOOK_EVERY == 0:
                ended |= (loop_ends(torch.tensor(np.stack(said, axis=1))) > 0).numpy()
            feeds = {
                name: value for name, value in feeds.items() if name.startswith("past")
            } | present
            session = self._later
        return text_tokens(torch.tensor(np.stack(said, axis=1)), end)


def onnx_decoder(
    whisper: OnnxWhisper | Path,
    processor,
    *,
    language: str | None = None,
    max_new_tokens: int | None = None,
    threads: int | None = None,
    window: Window = "full",
) -> Decoder:
    """How onnxruntime turns a batch of waveforms into text tokens; settings as in
    `owl.model.decoding.torch_decoder`. A folder is loaded first.
    """
    whisper = OnnxWhisper(whisper, threads) if isinstance(whisper, Path) else whisper
    settings = whisper.settings
    fixed = {
        "prompt": prompt_tokens(settings, language),
        "end": settings.config.eos_token_id,
        "suppress": suppressed(settings),
        "begin_suppress": list(settings.generation_config.begin_suppress_tokens or []),
        "max_new_tokens": token_cap(settings, max_new_tokens, language),
    }
    return runtime_decoder(whisper, processor, fixed, window)


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise ModelError(
            f"onnxruntime cannot load '{path}': {error}\nExport the folder again with FORMATS=onnx"
        ) from error


def _value(array: np.ndarray) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _run(session: onnxruntime.InferenceSession, feeds: dict) -> tuple[np.ndarray, dict]:
    """(logits of the last position (clips, vocabulary), the caches, never copied, under the names
    that the next step reads).
    """
    names = [one.name for one in session.get_outputs()]
    logits, *cache = session.run_with_ort_values(names, feeds)
    later = [name.replace("present", "past_key_values") for name in names[1:]]
    return logits.numpy()[:, -1].copy(), dict(zip(later, cache))
