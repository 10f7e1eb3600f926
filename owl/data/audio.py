"""Audio bytes or files in, 16 kHz mono float32 samples out.

What libsndfile reads (wav, flac, ogg Vorbis and Opus, mp3, aiff, …; integer or float samples; any
rate; any number of channels), else what the FFmpeg inside PyAV reads (m4a, aac, webm, mp4, wma,
amr, 3gp, …), is averaged over channels and resampled with a polyphase filter. Channels in opposite
phase would cancel: then the louder one is used. Silence is a valid input. A wav, ogg or mp3 file
that was cut off reads as the part that exists, as in every player; a flac file that was cut off is
an error, because its decoder notices. Not here: where clips come from (`owl.data.folders`,
`owl.data.hub`), windows and features (`owl.model.whisper`).

Every reason why a clip cannot be used is a kind, then in brackets what is special to this clip.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32

from owl.data.pointers import POINTER_BYTES, PULL, is_pointer, target_of

RATE = 16_000  # samples per second of every clip in this package
# the files that a folder scan takes for audio; of two with one name the earlier suffix is used
LOSSLESS = "wav wave flac aiff aif aifc caf w64 au snd sph wv tta ape"
LOSSY = (
    "ogg oga opus mp3 m4a m4b aac mp4 m4v mov webm weba mka mkv wma asf wmv amr awb 3gp 3gpp 3g2 "
    "mp2 mpga mpg mpeg ac3 eac3 spx gsm flv avi dss"
)
SUFFIXES = tuple(f".{name}" for name in f"{LOSSLESS} {LOSSY}".split())
# energy of the channels' average, as a share of what unrelated channels of this level leave, below
# which they cancel
CANCELLED = 0.1
ONE_CHANNEL = "only its louder channel is used: the channels are in opposite phase and cancel"


class AudioError(ValueError):
    """One clip cannot be used; the message is the reason, to be shown beside the clip's name."""


def read_audio(
    source: Path | bytes,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    remark: Callable[[str], object] = lambda text: None,
) -> Float32[np.ndarray, " samples"]:
    """Samples (samples,) of a file or of an encoded file's bytes, mono, at `RATE`, full scale ±1.

    `start` and `seconds` cut a segment, both in seconds; None means up to the end. `remark` is
    called with what a reader of the results should know, such as ONE_CHANNEL. Raises AudioError for
    a missing or unreadable file, no samples (in the file or in the segment), and samples that are
    NaN or infinite.
    """
    if isinstance(source, Path) and not os.path.isfile(source):
        raise AudioError(f"there is no such audio file ({source.name})")
    channels, rate = _decode(source)
    if not np.isfinite(channels).all():
        raise AudioError("the audio has samples that are NaN or infinite")
    if not len(channels):
        raise AudioError("the audio is empty (0 samples)")
    first = round(start * rate)
    last = len(channels) if seconds is None else first + round(seconds * rate)
    segment = channels[first:last]
    if not len(segment):
        raise AudioError(f"its segment has no samples (it starts at {start} s)")
    mono = segment.mean(axis=1, dtype=np.float32)
    levels = np.square(segment, dtype=np.float64).sum(axis=0)
    if np.square(mono, dtype=np.float64).sum() < CANCELLED * levels.sum() / len(levels) ** 2:
        mono = np.ascontiguousarray(segment[:, levels.argmax()])
        remark(ONE_CHANNEL)
    return resample(mono, rate)


def _decode(source: Path | bytes) -> tuple[Float32[np.ndarray, "samples channels"], int]:
    """(samples, samples per second) by libsndfile; by FFmpeg where that does not know the format.
    AudioError with both reasons.
    """
    failed = "the audio"
    if isinstance(source, Path):
        failed = f"the {source.suffix.lower() or 'unnamed'} audio"
    try:
        opened = soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else source)
    except (soundfile.SoundFileError, OSError) as error:
        unknown = error
    else:
        try:
            with opened:
                return opened.read(dtype="float32", always_2d=True), opened.samplerate
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioError(f"{failed} cannot be decoded ({_short(error)})") from error
    # a tenth of a second or more to import, and most speech is wav, flac, ogg or mp3
    import av

    try:
        # bytes without protocols: a playlist in them cannot open other files or addresses
        with (
            BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
            av.open(file, options={"protocol_whitelist": "none"}) as container,
        ):
            return _decode_stream(container)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        if text := _as_text(source):
            raise AudioError(f"{failed} cannot be decoded: {text}") from error
        suffix = source.suffix.lower() if isinstance(source, Path) else ""
        raise AudioError(
            f"{failed} cannot be decoded; if a player plays it, convert it: ffmpeg -i IN{suffix} "
            f"OUT.wav (libsndfile: {_short(unknown)}; FFmpeg: {_short(error)})"
        ) from error


def _as_text(source: Path | bytes) -> str | None:
    """What a file is that holds text where audio should be; None if it does not."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            source = file.read(POINTER_BYTES)
    if is_pointer(source):
        return f"it is a Git LFS pointer; {PULL} (it points{target_of(source)})"
    start = source[:POINTER_BYTES].decode("utf-8", "replace")[:40]
    if not start.strip() or not all(one.isprintable() or one.isspace() for one in start):
        return None
    return None if "\ufffd" in start else f"this is text, not audio (it starts {start.strip()!r})"


def _decode_stream(container) -> tuple[Float32[np.ndarray, "samples channels"], int]:
    """The main audio stream of an opened PyAV container; ValueError where there is none."""
    from av import AudioResampler

    stream = container.streams.best("audio")
    if stream is None:
        raise ValueError("it has no audio stream")
    planar = AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    frames = [frame for packed in container.decode(stream) for frame in planar.resample(packed)]
    frames += planar.resample(None)
    if not frames:
        return np.zeros((0, 1), np.float32), stream.rate
    return np.concatenate([frame.to_ndarray().T for frame in frames]), stream.rate


def _short(error: Exception) -> str:
    """What went wrong, without the address of a stream that libsndfile's messages hold."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return text.rstrip(".")


def resample(
    audio: Float32[np.ndarray, " samples"], rate: int
) -> Float32[np.ndarray, " resampled"]:
    """`audio` (samples,) at `rate` Hz → (ceil(samples · RATE / rate),) at `RATE` Hz; the same array
    if the rate is `RATE`.
    """
    if rate == RATE:
        return audio
    # half a second to import, and most speech needs no resampling
    from scipy.signal import resample_poly

    common = gcd(RATE, rate)
    return resample_poly(audio, RATE // common, rate // common).astype(np.float32)


def digest(audio: Float32[np.ndarray, " samples"]) -> str:
    """SHA-256 of the samples, hexadecimal: equal for equal audio, whatever file, name or lossless
    format it came in.
    """
    return sha256(np.ascontiguousarray(audio).tobytes()).hexdigest()
