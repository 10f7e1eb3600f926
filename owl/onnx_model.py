"""A Whisper folder for ONNX runtimes: writing one, and greedy decoding of one with onnxruntime alone.

The graphs are those of `owl.onnx_graphs`, named as optimum names them, so that other runtimes load the folder as it is. float32
on disk; pruned weights are stored zeros.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from owl.decoding import Decoded, Decoder, token_cap
from owl.onnx_graphs import DECODER, ENCODER, WITH_PAST, write_graphs
from owl.whisper import ModelError, prompt_tokens, window_samples

SETTINGS = ("config.json", "generation_config.json")


def export_onnx(model: WhisperForConditionalGeneration, processor, folder: Path) -> list[Path]:
    """Write graphs, configs and the processor's files into `folder`; `model` stays as it is. Returns the paths of the graphs."""
    plain = _float_copy(model)
    write_graphs(plain, folder)
    plain.config.save_pretrained(folder)
    plain.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)  # other runtimes look for preprocessor_config.json
    return sorted(folder.glob("*.onnx*"))


def _float_copy(model):
    """The model in float32 on the CPU, eval mode, no gradients; weights that are so already are shared, not copied."""
    weights = {id(one): nn.Parameter(one.detach().to("cpu", torch.float32), requires_grad=False) for one in model.parameters()}
    plain = copy.deepcopy(model, weights).to("cpu", torch.float32).eval()
    plain.set_attn_implementation("eager")  # plain matrix products and a softmax, which every runtime fuses as it likes
    plain.config.dtype = torch.float32
    return plain


class OnnxWhisper:
    """An exported folder, ready to decode on the CPU with `threads` (default: as many as PyTorch uses). ModelError if incomplete.

    `settings` is the Whisper without its weights: the configs that prompt and token cap depend on.
    """

    def __init__(self, folder: Path, threads: int | None = None):
        missing = [name for name in (ENCODER, DECODER, WITH_PAST, *SETTINGS) if not (folder / name).is_file()]
        if missing:
            names = ", ".join(missing)
            raise ModelError(f"'{folder}' is no complete ONNX Whisper: {names} missing; export it again with FORMATS=onnx")
        with torch.device("meta"):
            self.settings = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(folder))
        self.settings.generation_config = GenerationConfig.from_pretrained(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads or torch.get_num_threads(), 3
        self._encoder, self._first, self._later = (_session(folder / name, options) for name in (ENCODER, DECODER, WITH_PAST))

    def encode(self, features: np.ndarray | Tensor) -> np.ndarray:
        """Log-mel features (clips, mel bins, 2·frames) → the encoder's output (clips, frames, d)."""
        array = np.ascontiguousarray(torch.as_tensor(features).float().cpu().numpy())
        return self._encoder.run(["last_hidden_state"], {"input_features": array})[0]

    def greedy(
        self,
        features: np.ndarray | Tensor,
        *,
        prompt: list[int],
        end: int,
        suppress: list[int],
        begin_suppress: list[int],
        max_new_tokens: int,
    ) -> list[Decoded]:
        """The likeliest token at each step, as `owl.decoding.greedy`; never one of `suppress`, nor first of `begin_suppress`."""
        states = self.encode(features)
        tokens, ended, session = np.tile(np.int64(prompt), (len(states), 1)), np.zeros(len(states), bool), self._first
        feeds, said = {"encoder_hidden_states": _value(states)}, []
        while len(said) < max_new_tokens and not ended.all():
            logits, present = _run(session, feeds | {"input_ids": _value(tokens)})
            logits[:, suppress if said else [*suppress, *begin_suppress]] = -np.inf
            tokens = np.where(ended, end, logits.argmax(-1))[:, None]
            ended |= tokens[:, 0] == end
            said.append(tokens[:, 0])
            feeds = {name: value for name, value in feeds.items() if name.startswith("past")} | present
            session = self._later
        rows = np.stack(said, axis=1).tolist()
        return [Decoded(row[: row.index(end)], False) if end in row else Decoded(row, True) for row in rows]


def onnx_decoder(
    folder: Path, processor, *, language: str | None = None, max_new_tokens: int | None = None, threads: int | None = None
) -> Decoder:
    """How onnxruntime turns a batch of waveforms into text tokens; settings as in `owl.decoding.torch_decoder`."""
    whisper = OnnxWhisper(folder, threads)
    settings, config = whisper.settings.generation_config, whisper.settings.config
    fixed = {
        "prompt": prompt_tokens(whisper.settings, language),
        "end": config.eos_token_id,
        "suppress": [*(settings.suppress_tokens or []), *range(settings.no_timestamps_token_id + 1, config.vocab_size)],
        "begin_suppress": list(settings.begin_suppress_tokens or []),
        "max_new_tokens": token_cap(whisper.settings, max_new_tokens, language),
    }

    def decode(audio: Sequence[np.ndarray]) -> list[Decoded]:
        extractor, window = processor.feature_extractor, window_samples(processor)
        cut = [samples[:window] for samples in audio]
        features = extractor(cut, sampling_rate=extractor.sampling_rate, return_tensors="np").input_features
        return whisper.greedy(features, **fixed)

    return decode


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise ModelError(f"onnxruntime cannot load '{path}': {error}\nExport the folder again with FORMATS=onnx") from error


def _value(array: np.ndarray) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _run(session: onnxruntime.InferenceSession, feeds: dict) -> tuple[np.ndarray, dict]:
    """(logits of the last position (clips, vocabulary), the caches, never copied, under the names that the next step reads)."""
    names = [one.name for one in session.get_outputs()]
    logits, *cache = session.run_with_ort_values(names, feeds)
    later = [name.replace("present", "past_key_values") for name in names[1:]]
    return logits.numpy()[:, -1].copy(), dict(zip(later, cache))
