"""Greedy decoding of a ggml file with whisper.cpp alone, through pywhispercpp's plain bindings.

whisper.cpp makes its own log-mel features from the waveform. It is told to do as our other runtimes
do: no timestamps, one segment, temperature 0 and no other after it, nothing dropped for being
improbable. Of tokens that are never said it knows one list, OpenAI's non-speech tokens, of those
never said first the blank and the end: each is used where the model has such a list. At most half
its text positions less four (220) are decoded in a window. Windows as short as the speech are read
with the file of `owl.export.ggml.export_short`, behind a second of silence.
"""

import weakref
from collections.abc import Sequence
from pathlib import Path

import _pywhispercpp as pw
import numpy as np
import torch

from owl.config.formats import short_folder
from owl.errors import ModelError
from owl.export.ggml import FILE, POSITIONS
from owl.export.ggml_file import check
from owl.model.decoding import Decoded, Decoder, text_tokens, token_cap
from owl.model.whisper import SAMPLES_PER_FRAME, Whisper, language_of, task_of, window_samples
from owl.model.windows import MARGIN, SECOND, Window

GREEDY = pw.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY
ERROR = 4  # a level of ggml's log
SHORTEST = 3200  # samples; whisper.cpp does not listen to what is shorter than 0.1 s
PADDED = 256  # frames; its attention reads whole multiples, zeros where there are none
LEAST = 512  # frames; in half of it whisper-base says clips of less than three seconds twice


class CppWhisper:
    """The ggml file in `folder`, ready to decode on the CPU with `threads` (default: as many as
    PyTorch uses). The file has no generation settings: `settings` is the model that it was made
    from, its weights unused. ModelError for a file that is not whole.

    `window` "speech": the file beside it, of `owl.export.ggml.export_short`; the full one is opened
    by the first clip that is too long for it, more than 24 s.
    """

    def __init__(
        self, folder: Path, settings: Whisper, threads: int | None = None, window: Window = "full"
    ):
        self.settings = settings
        self.threads = threads or torch.get_num_threads()
        self._files = {"full": folder / FILE, "speech": short_folder(folder) / FILE}
        self._opened: dict[Window, object] = {}
        self._window = window
        self._context(window)

    def _context(self, window: Window):
        """whisper.cpp's context of the file for such windows, opened when first needed."""
        if window not in self._opened:
            self._opened[window] = _load(self._files[window])
            weakref.finalize(self, pw.whisper_free, self._opened[window])
        return self._opened[window]

    def greedy(self, audio: np.ndarray, *, language: str | None, max_new_tokens: int) -> Decoded:
        """The likeliest token at each step of one window (samples,). What loops is said up to the
        cap, and cut afterwards.
        """
        model = self.settings.model
        settings = model.generation_config
        params = pw.whisper_full_default_params(GREEDY)
        params.n_threads, params.print_progress = self.threads, False
        params.no_timestamps = params.single_segment = params.no_context = True
        params.temperature_inc, params.logprob_thold = 0.0, -float("inf")
        params.language, params.translate = language, task_of(model) == "translate"
        params.suppress_nst = bool(settings.suppress_tokens)
        params.suppress_blank = bool(settings.begin_suppress_tokens)
        # it stops after the token at this place, from 0 on; 0 means no limit
        params.max_tokens = max(max_new_tokens - 1, 1)
        audio = np.pad(audio, (0, max(0, SHORTEST - len(audio)))).astype(np.float32)
        frames = short_frames(len(audio))
        short = self._window == "speech" and frames <= POSITIONS
        context = self._context("speech" if short else "full")
        if short:
            params.audio_ctx, audio = frames, np.pad(audio, (SECOND * SAMPLES_PER_FRAME, 0))
        if failed := pw.whisper_full(context, params, audio, len(audio)):
            raise RuntimeError(f"whisper.cpp failed to decode: error {failed}")
        said = [
            pw.whisper_full_get_token_id(context, segment, place)
            for segment in range(pw.whisper_full_n_segments(context))
            for place in range(pw.whisper_full_n_tokens(context, segment))
        ]
        end = settings.eos_token_id
        (decoded,) = text_tokens(torch.tensor([said[:max_new_tokens] or [end]]), end)
        return decoded


def short_frames(samples: int) -> int:
    """Encoder frames for speech of so many samples behind a second of silence."""
    needed = SECOND - (-samples // SAMPLES_PER_FRAME) + MARGIN
    return max(-(-needed // PADDED) * PADDED, LEAST)


def _load(file: Path):
    """whisper.cpp's context. ModelError for a file that is not whole."""
    check(file)
    options = pw.whisper_context_default_params()
    options.use_gpu = False
    errors: list[str] = []  # a context that could not be made looks like any other
    pw.whisper_log_set(lambda level, text: errors.append(text) if level == ERROR else None)
    try:
        context = pw.whisper_init_from_file_with_params(str(file), options)
    finally:
        pw.whisper_log_set(None)  # whisper.cpp would call it after Python's end
    if errors:
        raise ModelError(f"whisper.cpp cannot load '{file}': {''.join(errors)}")
    return context


def cpp_decoder(
    whisper: CppWhisper,
    processor,
    *,
    language: str | None = None,
    max_new_tokens: int | None = None,
) -> Decoder:
    """How whisper.cpp turns a batch of waveforms into text tokens, one after the other; settings as
    in `owl.model.decoding.torch_decoder`.
    """
    model, most = whisper.settings.model, window_samples(processor)
    fixed = {
        "language": language_of(model, language),
        "max_new_tokens": token_cap(model, max_new_tokens, language),
    }

    def decode(audio: Sequence[np.ndarray]) -> list[Decoded]:
        return [whisper.greedy(one[:most], **fixed) for one in audio]

    return decode
