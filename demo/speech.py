"""Demo speech: text → 16 kHz mono float32, with espeak-ng (accents × variants) and flite (four
voices), plus noise.

Both synthesisers are deterministic; every random choice (voice, speed, pitch, level, noise) comes
from the clip's own seed. Needs the programs `espeak-ng` and `flite` (Debian packages of the same
names) and nothing from a network.
"""

import io
import random
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import resample_poly

RATE = 16_000  # samples per second
ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)
VARIANTS = (
    "",
    "f1",
    "f2",
    "f3",
    "f4",
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m7",
    "Alicia",
    "Andrea",
    "Lee",
    "Mike",
    "Gene",
    "adam",
    "steph",
)
FLITE_VOICES = ("slt", "rms", "awb", "kal16")


class Clip(NamedTuple):
    """One synthesised clip: `audio` (samples,) float32 in [-1, 1] at 16 kHz, what it says, and
    which voice says it.
    """

    audio: np.ndarray
    text: str
    voice: str


def require_synthesisers() -> None:
    """RuntimeError that names the missing program and its package."""
    for program in ("espeak-ng", "flite"):
        if shutil.which(program) is None:
            raise RuntimeError(
                f"'{program}' is not installed; on Debian or Ubuntu: apt-get install {program}, on "
                f"macOS: brew install {program}"
            )


class Style(NamedTuple):
    """What a set of clips sounds like: how often flite speaks instead of espeak-ng, and how far
    (dB) its noise is below the speech.
    """

    flite_share: float = 0.2
    noise_db: tuple[float, float] = (12.0, 40.0)


def synthesise(texts: list[str], seed: int, style: Style = Style(), workers: int = 2) -> list[Clip]:
    """One clip per text, in order. Clip i depends on (seed, i, text, style) alone, whatever
    `workers` is.
    """
    require_synthesisers()
    with ThreadPoolExecutor(workers) as pool:
        return list(
            pool.map(
                lambda item: _clip(item[1], random.Random(f"{seed}/{item[0]}"), style),
                enumerate(texts),
            )
        )


def opus_bytes(audio: np.ndarray) -> bytes:
    """Ogg Opus of a clip, about 3.5 KB per second (the bytes differ between runs by the stream's
    serial number).
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, RATE, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def through_opus(audio: np.ndarray) -> np.ndarray:
    """The clip as a listener of the compressed file hears it."""
    return soundfile.read(io.BytesIO(opus_bytes(audio)), dtype="float32")[0]


def _clip(text: str, draw: random.Random, style: Style) -> Clip:
    if draw.random() < style.flite_share:
        voice = draw.choice(FLITE_VOICES)
        audio = _flite(text, voice, stretch=draw.uniform(0.85, 1.15))
        voice = f"flite/{voice}"
    else:
        accent, variant = draw.choice(ACCENTS), draw.choice(VARIANTS)
        audio = _espeak(
            text,
            f"{accent}+{variant}" if variant else accent,
            speed=draw.randint(140, 200),
            pitch=draw.randint(30, 70),
        )
        voice = f"espeak/{accent}/{variant or 'plain'}"
    return Clip(_room(audio, draw, style), text, voice)


def _espeak(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    audio, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return resample_poly(audio, RATE, rate).astype(np.float32)


def _flite(text: str, voice: str, stretch: float) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        command = [
            "flite",
            "-voice",
            voice,
            "--setf",
            f"duration_stretch={stretch:.3f}",
            "-t",
            text,
            "-o",
            str(path),
        ]
        subprocess.run(command, capture_output=True, check=True)
        audio, rate = soundfile.read(path, dtype="float32")
    return resample_poly(audio, RATE, rate).astype(np.float32)


def _room(audio: np.ndarray, draw: random.Random, style: Style) -> np.ndarray:
    """Trim the synthesiser's own silence, set the level, lead in with silence, add noise as far
    below the speech as `style` says.
    """
    loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
    audio = audio[loud[0] : loud[-1] + 1]
    audio = audio * (draw.uniform(0.03, 0.12) / np.sqrt(np.mean(audio**2)))
    audio = np.pad(
        audio, (int(RATE * draw.uniform(0.02, 0.3)), int(RATE * draw.uniform(0.05, 0.25)))
    )
    noise = np.random.default_rng(draw.getrandbits(64)).standard_normal(len(audio))
    if draw.random() < 0.5:  # brownish instead of white
        noise = np.convolve(noise, np.exp(-np.arange(64) / 8), mode="same")
    speech_rms, noise_rms = np.sqrt(np.mean(audio**2)), np.sqrt(np.mean(noise**2))
    noise *= speech_rms / noise_rms * 10 ** (-draw.uniform(*style.noise_db) / 20)
    return np.clip(audio + noise, -1, 1).astype(np.float32)
