"""Audio bytes or files in, 16 kHz mono float32 samples out.

What libsndfile reads (wav, flac, ogg Vorbis and Opus, mp3; integer or float samples; any rate; any
number of channels) is averaged over channels and resampled with a polyphase filter. Silence is a
valid input. A wav, ogg or mp3 file that was cut off reads as the part that exists, as in every
player; a flac file that was cut off is an error, because its decoder notices. Not here: where clips
come from (`owl.data.folders`, `owl.data.hub`), windows and features (`owl.model.whisper`).
"""

from hashlib import sha256
from io import BytesIO
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32

RATE = 16_000  # samples per second of every clip in this package
# lower case; the files that a folder scan takes for audio
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")


class AudioError(ValueError):
    """One clip cannot be used; the message is the reason, to be shown beside the clip's name."""


def read_audio(
    source: Path | bytes, *, start: float = 0.0, seconds: float | None = None
) -> Float32[np.ndarray, " samples"]:
    """Samples (samples,) of a file or of an encoded file's bytes, mono, at `RATE`, full scale ±1.

    `start` and `seconds` cut a segment, both in seconds; None means up to the end. Raises
    AudioError for a missing or unreadable file, no samples (in the file or in the segment), and
    samples that are NaN or infinite.
    """
    if isinstance(source, Path) and not source.is_file():
        raise AudioError(f"there is no audio file {source.name}")
    try:
        channels, rate = soundfile.read(
            BytesIO(source) if isinstance(source, bytes) else source,
            dtype="float32",
            always_2d=True,
        )
    except (soundfile.SoundFileError, OSError) as error:
        detail = getattr(error, "error_string", str(error))
        raise AudioError(
            f"the audio cannot be decoded as wav, flac, ogg or mp3 ({detail})"
        ) from error
    if not np.isfinite(channels).all():
        raise AudioError("the audio has samples that are NaN or infinite")
    first = round(start * rate)
    last = len(channels) if seconds is None else first + round(seconds * rate)
    mono = channels[first:last].mean(axis=1, dtype=np.float32)
    if not len(mono):
        raise AudioError(
            "the audio is empty (0 samples)"
            if not len(channels)
            else f"the segment at {start} s has no samples"
        )
    return resample(mono, rate)


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
