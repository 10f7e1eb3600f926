"""Reading audio.

Against a reference: a sine's frequency, level and length are known in closed form, and the wav
files here hold exact samples. Behaviour: which files are refused, and with which reason.
"""

import numpy as np
import pytest
import soundfile

from owl.data.audio import RATE, AudioError, digest, read_audio, resample


def sine(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    """(samples,) float32, level 0.5."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(
        np.float32
    )


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_any_sample_rate_becomes_16_khz_with_pitch_level_and_length_kept(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", sine(rate), rate, subtype="FLOAT")
    audio = read_audio(tmp_path / "a.wav")
    assert audio.dtype == np.float32 and abs(len(audio) - RATE // 2) <= 1
    inner = slice(500, 7500)  # the polyphase filter has no signal beyond the edges to average
    # 2 % of the level: the filter's ripple and, at 8 and 11 kHz, its shallow slope
    np.testing.assert_allclose(audio[inner], sine(RATE)[inner], atol=0.01)


@pytest.mark.parametrize(
    ("suffix", "subtype", "error"),
    [
        ("wav", "PCM_16", 1e-4),  # one step of 16 bits is 3e-5
        ("wav", "PCM_24", 1e-6),
        ("wav", "PCM_U8", 1e-2),  # one step of 8 bits is 8e-3
        ("wav", "DOUBLE", 1e-7),
        ("flac", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.05),  # lossy: the wave is the same one, not the same samples
        ("ogg", "OPUS", 0.05),
        ("mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_every_format_yields_the_wave_that_was_written(tmp_path, suffix, subtype, error):
    soundfile.write(tmp_path / f"a.{suffix}", sine(RATE), RATE, subtype=subtype)
    audio = read_audio(tmp_path / f"a.{suffix}")
    assert len(audio) == RATE // 2
    np.testing.assert_allclose(audio[1000:7000], sine(RATE)[1000:7000], atol=error)


def test_stereo_is_averaged_over_its_channels(tmp_path):
    left = sine(RATE)
    soundfile.write(tmp_path / "a.wav", np.stack([left, 0.5 * left], axis=1), RATE, subtype="FLOAT")
    # float32 rounding
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), 0.75 * left, atol=1e-7)


def test_bytes_and_their_file_read_equal(tmp_path):
    soundfile.write(tmp_path / "a.flac", sine(RATE), RATE)
    assert np.array_equal(
        read_audio((tmp_path / "a.flac").read_bytes()), read_audio(tmp_path / "a.flac")
    )


def test_a_segment_is_cut_in_seconds_of_the_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(8_000), 8_000, subtype="FLOAT")
    assert len(read_audio(tmp_path / "a.wav", start=0.1, seconds=0.2)) == 3200
    assert len(read_audio(tmp_path / "a.wav", start=0.1)) == 6400
    with pytest.raises(AudioError, match="no samples"):
        read_audio(tmp_path / "a.wav", start=2.0)


def test_silence_and_a_single_sample_are_valid_audio(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100, np.float32), RATE)
    soundfile.write(tmp_path / "b.wav", np.zeros(1, np.float32), 48_000)
    assert not read_audio(tmp_path / "a.wav").any() and len(read_audio(tmp_path / "b.wav")) == 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: None, r"there is no such audio file \(a.wav\)"),
        (
            lambda file: file.write_text("<!DOCTYPE html>\n<title>Wählen</title>"),
            r"cannot be decoded: this is text, not audio \(it starts '<!DOCTYPE html>",
        ),
        (
            lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\nsize 4000\n"),
            "it is a Git LFS pointer; .*git lfs pull .* to a file of 4,000 bytes",
        ),
        (lambda file: file.write_bytes(b""), "cannot be decoded"),
        (lambda file: soundfile.write(file, np.zeros(0, np.float32), RATE), "empty"),
        (
            lambda file: soundfile.write(
                file, np.full(9, np.nan, np.float32), RATE, subtype="FLOAT"
            ),
            "NaN or infinite",
        ),
        (
            lambda file: soundfile.write(
                file, np.full(9, np.inf, np.float32), RATE, subtype="FLOAT"
            ),
            "NaN or infinite",
        ),
    ],
)
def test_audio_that_cannot_be_used_says_why(tmp_path, make, reason):
    make(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=reason):
        read_audio(tmp_path / "a.wav")


def test_a_flac_file_that_was_cut_off_is_refused(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(tmp_path / "a.flac", noise, RATE)
    data = (tmp_path / "a.flac").read_bytes()
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_audio(data[: len(data) // 2])


def test_digests_agree_exactly_when_samples_do(tmp_path):
    # written as integers: from floats, wav and flac round differently
    steps = (sine(RATE) * 2**15).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", steps, RATE)
    soundfile.write(tmp_path / "b.flac", steps, RATE)
    first = read_audio(tmp_path / "a.wav")
    other = first.copy()
    other[7] += 1e-6
    assert digest(first) == digest(read_audio(tmp_path / "b.flac")) != digest(other)


def test_resampling_at_the_target_rate_changes_nothing():
    audio = sine(RATE)
    assert resample(audio, RATE) is audio
