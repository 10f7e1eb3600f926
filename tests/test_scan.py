"""What people's folders really hold: phone recordings, names in any case, missing texts, files of
the operating system, tables with comments. Nothing vanishes: it is used, or listed with a reason.

Against a reference: sines written by FFmpeg's encoders are known in closed form, and the line
that a message names is counted here by hand. The rest is behaviour.
"""

import json
import os
import unicodedata

import av
import numpy as np
import pytest
import soundfile

from owl.data.audio import ONE_CHANNEL, RATE, AudioError, read_audio
from owl.data.load import Dataset, left_out_table, load_dataset
from owl.errors import DataError


def tone(number: int = 0, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    """(samples,) float32, level 0.5; every number is another pitch."""
    times = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * (440 + 50 * number) * times)).astype(np.float32)


def write(file, number: int = 0):
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, tone(number), RATE, format="WAV")
    return file


def encode(file, container: str, codec: str, rate: int, **options):
    """A tone as a phone or a browser would write it, mono."""
    with av.open(str(file), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, **options)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone(rate=rate)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        context = stream.codec_context
        context.open()
        cut = av.AudioResampler(context.format, "mono", rate, context.frame_size or None)
        for piece in [*cut.resample(frame), *cut.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))


def load(folder, **options):
    return load_dataset("mine", path=folder, **options)


def texts(dataset):
    return {clip.id: clip.text for clip in dataset.clips}


# Audio that libsndfile does not read


@pytest.mark.parametrize(
    ("suffix", "container", "codec", "rate"),
    [
        ("m4a", "ipod", "aac", 44_100),
        ("m4a", "ipod", "alac", 44_100),
        ("aac", "adts", "aac", 44_100),
        ("mp4", "mp4", "aac", 48_000),
        ("mov", "mov", "aac", 48_000),
        ("webm", "webm", "opus", 48_000),
        ("mka", "matroska", "opus", 48_000),
        ("wma", "asf", "wmav2", 44_100),
        ("amr", "amr", "libopencore_amrnb", 8_000),
        ("3gp", "3gp", "libopencore_amrnb", 8_000),
        ("caf", "caf", "alac", 44_100),
        ("ac3", "ac3", "ac3", 44_100),
    ],
)
def test_what_phones_and_browsers_record_is_read(tmp_path, suffix, container, codec, rate):
    file = tmp_path / f"Clip.{suffix.upper()}"
    encode(file, container, codec, rate, options={"b": "64000"} if codec == "wmav2" else {})
    (tmp_path / "clip.TXT").write_text("hello")
    (clip,) = load(tmp_path).clips
    assert clip.text == "hello" and clip.audio.dtype == np.float32
    # encoders add up to two packets of silence, the decoder of wma takes half of one away
    assert -0.04 * RATE < len(clip.audio) - RATE // 2 < 0.11 * RATE
    middle = clip.audio[2000:6000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * RATE / len(middle) == pytest.approx(440, abs=RATE / len(middle))
    assert middle.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.2)  # amr is rough
    assert np.array_equal(read_audio(file.read_bytes()), clip.audio)


def test_recordings_that_no_decoder_reads_are_listed_with_their_count_and_the_command(tmp_path):
    write(tmp_path / "0.wav")
    for name in ("0", "1", "2", "3", "4", "5"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    for name in ("1.m4a", "2.m4a", "3.webm"):
        (tmp_path / name).write_bytes(b"\0" * 200)
    (tmp_path / "4.g719").write_bytes(b"\0" * 200)
    dataset = load(tmp_path)
    assert list(texts(dataset)) == ["0"]
    assert [id for id, _ in dataset.skipped] == ["1", "2", "3", "4.g719", "4.txt", "5.txt"]
    table = left_out_table([dataset]).set_index("why")
    m4a = next(why for why in table.index if ".m4a audio cannot be decoded" in why)
    assert "ffmpeg -i IN.m4a OUT.wav" in m4a
    assert (table.clips[m4a], table.examples[m4a]) == (2, "1, 2")
    assert any(".g719 is not read" in why and "ffmpeg -i IN.g719" in why for why in table.index)
    (tmp_path / "0.wav").unlink()
    with pytest.raises(DataError, match=r"none of its 3 clips .*1, 2: the \.m4a .*3: the \.webm"):
        load(tmp_path)


def test_a_folder_without_any_audio_says_what_lies_there(tmp_path):
    for name in ("1.g719", "1.txt", "readme.md"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"no speech dataset .*1\.g719: \.g719 is not read"):
        load(tmp_path)


def test_a_wrong_suffix_does_not_hide_what_a_file_is(tmp_path):
    encode(tmp_path / "a.wav", "ipod", "aac", 44_100)
    assert read_audio(tmp_path / "a.wav").std() > 0.2


def test_a_video_without_sound_and_a_playlist_are_refused(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        out.mux(stream.encode(None))
    with pytest.raises(AudioError, match="no audio stream"):
        read_audio(tmp_path / "a.mp4")
    inner = write(tmp_path / "inner.wav")
    for text in (f"ffconcat version 1.0\nfile '{inner}'\n", f"#EXTM3U\n#EXTINF:1,\n{inner}\n"):
        (tmp_path / "a.aac").write_text(text)
        with pytest.raises(AudioError, match="cannot be decoded"):
            read_audio(tmp_path / "a.aac")


# Stereo that cancels


@pytest.mark.parametrize("gain", [-1.0, -0.8])
def test_channels_in_opposite_phase_are_not_averaged_to_silence(tmp_path, gain):
    both = np.stack([tone(), gain * tone()], axis=1)
    soundfile.write(tmp_path / "a.wav", both, RATE, subtype="FLOAT")
    (tmp_path / "a.txt").write_text("hello")
    dataset = load(tmp_path)
    np.testing.assert_array_equal(dataset.clips[0].audio, tone())
    assert dataset.clips[0].remark == ONE_CHANNEL
    row = left_out_table([dataset]).iloc[0]
    assert (row.what, row.why, row.examples) == ("used", ONE_CHANNEL, "a")


@pytest.mark.parametrize("second", [0 * tone(), 0.5 * tone(), tone(9), -0.4 * tone()])
def test_channels_that_differ_in_another_way_are_averaged(tmp_path, second):
    both = np.stack([tone(), second], axis=1)
    soundfile.write(tmp_path / "a.wav", both, RATE, subtype="FLOAT")
    remarks = []
    audio = read_audio(tmp_path / "a.wav", remark=remarks.append)
    np.testing.assert_allclose(audio, both.mean(1), atol=1e-7)  # float32 rounding
    assert not remarks


# Names


def test_names_match_whatever_their_case(tmp_path):
    write(tmp_path / "a" / "Audio" / "CLIP.WAV")
    (tmp_path / "a" / "METADATA.CSV").write_text("File_Name,Text\naudio/clip.wav,hello\n")
    assert [clip.text for clip in load(tmp_path / "a").clips] == ["hello"]
    write(tmp_path / "b" / "Test-Clean" / "84-12-0000.WAV")
    (tmp_path / "b" / "Test-Clean" / "84-12.Trans.TXT").write_text("84-12-0000 HELLO\n")
    assert texts(load(tmp_path / "b", split="test-clean")) == {"84-12-0000": "HELLO"}
    write(tmp_path / "c" / "Clips" / "x.Wav")
    (tmp_path / "c" / "TEST.TSV").write_text("path\tsentence\nX.wav\thello\n")
    assert texts(load(tmp_path / "c", split="test")) == {"X": "hello"}
    write(tmp_path / "d" / "One.Wav")
    (tmp_path / "d" / "one.Txt").write_text("hello")
    assert texts(load(tmp_path / "d")) == {"One": "hello"}


def test_paths_as_windows_writes_them_are_found(tmp_path):
    write(tmp_path / "Audio" / "a.wav")
    (tmp_path / "metadata.csv").write_text("file_name,text,,\naudio\\a.wav,hello,,\n")
    assert [clip.text for clip in load(tmp_path).clips] == ["hello"]


def test_a_manifest_in_a_subfolder_is_named_and_a_folder_of_its_name_is_none(tmp_path):
    write(tmp_path / "train" / "a.wav")
    (tmp_path / "train" / "Metadata.csv").write_text("file_name,text\na.wav,hello\n")
    (tmp_path / "metadata.jsonl").mkdir()
    with pytest.raises(DataError, match=r"train/Metadata\.csv: a manifest in a subfolder"):
        load(tmp_path)
    assert len(load(tmp_path, split="TRAIN").clips) == 1


def test_both_unicode_forms_of_a_name_are_one_name(tmp_path):
    write(tmp_path / unicodedata.normalize("NFD", "Übung.wav"))
    (tmp_path / "metadata.csv").write_text("file_name,text\nÜbung.wav,hallo\n")
    assert [clip.text for clip in load(tmp_path).clips] == ["hallo"]


def test_what_operating_systems_leave_behind_is_neither_data_nor_an_error(tmp_path):
    for layout, name in (("a", "metadata.csv"), ("b", "84-12.trans.txt"), ("c", "84-12-0.txt")):
        folder = tmp_path / layout
        write(folder / "84-12-0.wav")
        (folder / name).write_text(
            "file_name,text\n84-12-0.wav,hi\n" if layout == "a" else "84-12-0 hi"
        )
        for junk in (f"._{name}", "._84-12-0.wav", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / junk).write_bytes(b"\xff\xfe\0")
        write(folder / "@eaDir" / "84-12-0.wav")
        write(folder / "__MACOSX" / "x.wav")
        dataset = load(folder)
        assert (len(dataset.clips), dataset.skipped) == (1, []), layout


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    write(tmp_path / "elsewhere" / "a.wav")
    (tmp_path / "elsewhere" / "a.txt").write_text("hello")
    (tmp_path / "mine").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "mine" / "linked")
    os.symlink(tmp_path / "mine", tmp_path / "mine" / "loop")
    assert texts(load(tmp_path / "mine")) == {"linked/a": "hello"}


# What nothing names, and what is there twice


def test_audio_that_no_row_names_and_rows_without_audio_are_listed(tmp_path):
    write(tmp_path / "a.wav")
    write(tmp_path / "deep" / "b.M4A", 1)
    write(tmp_path / "other" / "c.wav", 2)
    (tmp_path / "other" / "metadata.csv").write_text("file_name,text\nc.wav,c\n")
    write(tmp_path / "gone.mp3", 3)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,a\ngone.wav,g\n")
    (tmp_path / "manifest.jsonl").write_text("{}")
    dataset = load(tmp_path)
    assert list(texts(dataset)) == ["a"] and dataset.skipped == [
        ("gone", "there is no such audio file (gone.wav)"),
        ("manifest.jsonl", "metadata.csv is read instead of it"),
        ("deep/b.M4A", "no row of metadata.csv names it"),
        ("gone.mp3", "no row of metadata.csv names it"),
    ]


def test_audio_beside_transcripts_that_no_line_names_is_listed(tmp_path):
    for number in range(3):
        write(tmp_path / f"1-2-{number}.wav", number)
    soundfile.write(tmp_path / "1-2-0.flac", tone(0), RATE)
    (tmp_path / "1-2.trans.txt").write_text("1-2-0 A\n1-2-1 B\n")
    dataset = load(tmp_path)
    assert texts(dataset) == {"1-2-0": "A", "1-2-1": "B"}
    assert dataset.skipped == [
        ("1-2-0.flac", "another file of the same name is used (1-2-0.wav)"),
        ("1-2-2.wav", "no line of a *.trans.txt names it"),
    ]


def test_a_converted_copy_beside_its_original_is_one_clip(tmp_path):
    write(tmp_path / "a.wav")
    encode(tmp_path / "a.m4a", "ipod", "aac", 44_100)
    (tmp_path / "a.txt").write_text("hello")
    dataset = load(tmp_path)
    assert [len(clip.audio) for clip in dataset.clips] == [RATE // 2]
    assert dataset.skipped == [("a.m4a", "another file of the same name is used (a.wav)")]


def test_the_same_audio_counts_once(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.wav")
    rows = ["a.wav,one", "a.wav,one", "b.wav,one", "c.wav,other"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    dataset = load(tmp_path)
    assert list(texts(dataset)) == ["a"] and dataset.skipped == [
        ("a#2", "the same audio as another clip (a)"),
        ("b", "the same audio as another clip (a)"),
        ("c", "the same audio as another clip, but another text (a)"),
    ]


def test_the_table_counts_every_reason_once(tmp_path):
    for number in range(9):
        write(tmp_path / f"{number}.wav", number)
    rows = [f"{number}.wav,{'text' if number < 2 else ''}" for number in range(9)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text", *rows, "x.wav,x"]))
    table = left_out_table([load(tmp_path), Dataset("other", [], [], None)])
    assert table.values.tolist() == [
        ["mine", 2, "used", "", ""],
        ["mine", 7, "left out", "it has no text", "2, 3, 4, 5, 6 and 2 more"],
        ["mine", 1, "left out", "there is no such audio file", "x"],
    ]


# Missing texts


@pytest.mark.parametrize(
    "cell", ["NaN", "null", '""', '"  "', '"nan"', '"NaN"', '"None"', '"<NA>"']
)
def test_a_missing_text_in_json_is_missing(tmp_path, cell):
    write(tmp_path / "a.wav")
    write(tmp_path / "b.wav", 1)
    rows = [f'{{"file_name": "a.wav", "text": {cell}, "speaker": {cell}}}']
    rows += ['{"file_name": "b.wav", "text": "b", "speaker": NaN}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    dataset = load(tmp_path)
    assert texts(dataset) == {"b": "b"} and dataset.clips[0].speaker is None
    assert dataset.skipped == [("a", "it has no text")]


@pytest.mark.parametrize(
    "cell", ["", " ", "nan", "NaN", "None", "null", "NULL", "N/A", "NA", "<NA>"]
)
def test_a_missing_text_in_a_table_is_missing(tmp_path, cell):
    write(tmp_path / "a.wav")
    write(tmp_path / "b.wav", 1)
    (tmp_path / "metadata.csv").write_text(f"file_name,text\na.wav,{cell}\nb.wav,b\n")
    assert load(tmp_path).skipped == [("a", "it has no text")]


@pytest.mark.parametrize("text", ["nan bread", "None.", "Null", "my nan", "0", "none", "Na"])
def test_words_that_only_look_missing_stay(tmp_path, text):
    write(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text(f"file_name,text\na.wav,{text}\n")
    assert texts(load(tmp_path)) == {"a": text}


def test_null_in_quotes_is_a_word_in_json(tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.wav", "text": "null"}))
    assert texts(load(tmp_path)) == {"a": "null"}


# Messages name the line that an editor shows


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("metadata.csv", "\ufefffile_name,text\n\n\na.wav,one, two\n", 4),
        ("metadata.csv", 'file_name,text\na.wav,"one\ntwo"\nb.wav,one, two\n', 4),
        ("metadata.csv", 'file_name,text\n\na.wav,"one\ntwo",three\n', 3),
        ("metadata.csv", 'file_name,text\na.wav,one\nb.wav,"two\nthree\n', 3),
        ("metadata.csv", "# made by hand\n#x\nfile_name,text\n# old\na.wav,one, two\n", 5),
        ("metadata.csv", "file_name,text,offset\r\n\r\na.wav,x,-1\r\n", 3),
        ("metadata.jsonl", '\n{"file_name": "a.wav"}\n\n{"file_name"}\n', 4),
        ("metadata.jsonl", '\n{"file_name": "a.wav"}\n\n["b.wav"]\n', 4),
        ("metadata.jsonl", '\n\n{"file_name": "a.wav", "text": "x", "offset": "now"}\n', 3),
        ("manifest.json", '\ufeff\n[\n{"file_name": "a.wav"},\n{"file_name"}]', 4),
    ],
)
def test_a_message_names_the_line_that_an_editor_shows(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(DataError, match=rf"line {line} of [^:]*{name}"):
        load(tmp_path)


def test_a_row_without_a_name_goes_by_its_line(tmp_path):
    write(tmp_path / "a.wav")
    rows = '# by hand\n\nfile_name,text\n# more\n#1.wav,"one\ntwo"\n,three\na.wav,four\n'
    (tmp_path / "metadata.csv").write_text(rows)
    dataset = load(tmp_path)
    assert texts(dataset) == {"a": "four"} and dataset.skipped == [
        ("#1", "there is no such audio file (#1.wav)"),
        ("line 7 of metadata.csv", "its row names no audio"),
    ]
