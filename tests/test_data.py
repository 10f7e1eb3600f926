"""Datasets: local folders, Hub streams, what is skipped, and what is refused.

Against a reference: the real LibriSpeech clips beside the repository (texts and counts as its
README states them), and parquet files read through the real `datasets` streaming reader, which
stand for the Hub (no test touches the network). Behaviour: everything else, on small files made
here; every clip's level encodes its number, so a mix-up shows.
"""

import json

import datasets
import numpy as np
import pytest
import soundfile

from owl.data import hub
from owl.data import load as load_module
from owl.data.load import RATE, check_disjoint, load_dataset
from owl.errors import DataError

REAL_LOAD = datasets.load_dataset


def write_clip(file, number: int) -> None:
    """A tenth of a second at the constant level (number + 1) / 100."""
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.full(1600, (number + 1) / 100, np.float32), RATE)


def number_of(clip) -> int:
    """The number that `write_clip` wrote into the audio."""
    return round(float(np.median(clip.audio)) * 100) - 1


def csv_folder(folder, count: int = 3, header: str = "file_name,text,speaker"):
    for i in range(count):
        write_clip(folder / f"c{i}.wav", i)
    (folder / "metadata.csv").write_text(
        "\n".join([header] + [f"c{i}.wav,text {i},voice {i % 2}" for i in range(count)])
    )
    return folder


def load(folder, **options):
    return load_dataset("mine", path=folder, **options)


# Manifests


def test_metadata_csv_gives_clips_in_order_with_text_and_speaker(tmp_path):
    dataset = load(csv_folder(tmp_path), language="en")
    assert [(clip.id, clip.text, clip.speaker, number_of(clip)) for clip in dataset.clips] == [
        ("c0", "text 0", "voice 0", 0),
        ("c1", "text 1", "voice 1", 1),
        ("c2", "text 2", "voice 0", 2),
    ]
    assert dataset.clips[0].seconds == 0.1 and (
        dataset.name,
        dataset.language,
        dataset.skipped,
    ) == ("mine", "en", [])


@pytest.mark.parametrize("text_column", ["text", "transcription", "transcript", "sentence"])
@pytest.mark.parametrize("speaker_column", ["speaker", "speaker_id", "client_id"])
def test_text_and_speaker_columns_go_by_several_names(tmp_path, text_column, speaker_column):
    clip = load(csv_folder(tmp_path, header=f"file_name,{text_column},{speaker_column}")).clips[1]
    assert (clip.text, clip.speaker) == ("text 1", "voice 1")


@pytest.mark.parametrize("name", ["metadata.jsonl", "manifest.json", "manifest.jsonl"])
def test_json_lines_manifests_load_with_relative_and_absolute_files(tmp_path, name):
    write_clip(tmp_path / "audio" / "a.wav", 0)
    write_clip(tmp_path / "b.wav", 1)
    column = "file_name" if name == "metadata.jsonl" else "audio_filepath"
    files = ["audio/a.wav", str(tmp_path / "b.wav")]
    rows = [
        {column: file, "text": text, "duration": 0.1} for file, text in zip(files, ["Grüße", "b"])
    ]
    (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert [(clip.id, clip.text, number_of(clip)) for clip in load(tmp_path).clips] == [
        ("audio/a", "Grüße", 0),
        ("b", "b", 1),
    ]


def test_a_json_list_is_a_manifest_too_and_numbers_become_text(tmp_path):
    write_clip(tmp_path / "a.wav", 0)
    (tmp_path / "manifest.json").write_text(
        json.dumps([{"audio_filepath": "a.wav", "text": 7, "speaker": 12}])
    )
    assert [(clip.text, clip.speaker) for clip in load(tmp_path).clips] == [("7", "12")]


def test_offset_and_duration_cut_segments_with_ids_of_their_own(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.repeat([0.01, 0.02], RATE).astype(np.float32), RATE)
    rows = [
        {"audio_filepath": "long.wav", "text": "x", "offset": start, "duration": 0.5}
        for start in (0.25, 1.25)
    ]
    (tmp_path / "manifest.json").write_text("\n".join(map(json.dumps, rows)))
    assert [(clip.id, clip.seconds, number_of(clip)) for clip in load(tmp_path).clips] == [
        ("long", 0.5, 0),
        ("long#2", 0.5, 1),
    ]


def test_files_outside_the_folder_may_be_named(tmp_path):
    write_clip(tmp_path / "other" / "a.wav", 4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metadata.csv").write_text(
        '\ufefffile_name,text\r\n../other/a.wav,"one, two"\r\n'
    )
    clip = load(tmp_path / "mine").clips[0]
    assert (clip.text, number_of(clip)) == ("one, two", 4)


def test_a_name_that_is_a_folder_needs_no_path(tmp_path):
    folder = csv_folder(tmp_path)
    assert len(load_dataset(str(folder)).clips) == 3


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("a  b.wav", "a  b.wav"),
        (" lead.wav", " lead.wav"),
        ("plain.wav", " plain.wav "),
        ("in/deep.wav", "in\\deep.wav"),
    ],
)
def test_a_file_is_found_as_the_table_writes_it(tmp_path, file, written):
    write_clip(tmp_path / file, 3)
    (tmp_path / "metadata.csv").write_text(f"text,file_name\nhello,{written}\n")
    dataset = load(tmp_path)
    assert [number_of(clip) for clip in dataset.clips] == [3] and not dataset.skipped


def test_a_file_whose_row_reads_as_a_comment_is_told_so(tmp_path):
    for number, file in enumerate(["# 1.wav", "2.wav"]):
        write_clip(tmp_path / file, number)
    (tmp_path / "metadata.csv").write_text("file_name,text\n# 1.wav,a\n2.wav,b\n")
    dataset = load(tmp_path)
    comment = "a line of metadata.csv that starts with '# ' is a comment; rename the file"
    assert [number_of(clip) for clip in dataset.clips] == [1]
    assert ("# 1.wav", comment) in dataset.skipped


def test_a_quote_that_is_never_closed_is_named(tmp_path):
    csv_folder(tmp_path)
    (tmp_path / "metadata.csv").write_text('file_name,text\nc0.wav,"a\n' + "b c\n" * 40_000)
    with pytest.raises(DataError, match="line 2 .*field limit.*Close the double quote"):
        load(tmp_path)


# Other layouts


def test_real_librispeech_clips_load_with_their_texts(shared):
    folder = shared / "speech" / "LibriSpeech"
    dataset = load(folder)
    texts = {clip.id: clip.text for clip in dataset.clips}
    assert (
        len(dataset.clips) == 50
        and len({clip.speaker for clip in dataset.clips}) == 5
        and not dataset.skipped
    )
    assert texts["2609-156975-0003"] == "THE EGYPTIAN BACKGROUND OF THE BONDAGE"
    assert all(
        1 < clip.seconds <= 36 and clip.id.startswith(f"{clip.speaker}-") for clip in dataset.clips
    )
    assert [clip.id for clip in load(folder, split="test-other", subset="other").clips] == list(
        texts
    )


def test_librispeech_split_and_subset_choose_the_part(tmp_path):
    for number, part in enumerate(["test-clean", "test-other"]):
        folder = tmp_path / part / "84" / "12"
        write_clip(folder / "84-12-0000.flac", number)
        (folder / "84-12.trans.txt").write_text("84-12-0000 SOME TEXT\n84-12-0001 NO AUDIO\n")
    chosen = load(tmp_path, split="test", subset="other")
    assert [number_of(clip) for clip in chosen.clips] == [1]
    assert chosen.skipped == [("84-12-0001", "there is no such audio file (84-12-0001.flac)")]
    assert [
        number_of(clip)
        for clip in load(tmp_path / "test-clean", split="test-clean", subset="clean").clips
    ] == [0]
    with pytest.raises(DataError, match="no subfolder .*test-clean, test-other"):
        load(tmp_path, split="dev-clean")


def common_voice(folder):
    for i in range(4):
        write_clip(folder / "clips" / f"common_voice_xx_{i}.mp3", 10 * i)
    for split, chosen in (("test", [0, 2]), ("validated", [0, 1, 2, 3])):
        rows = [f'speaker{i}\tcommon_voice_xx_{i}.mp3\tShe said "{i}".\t2' for i in chosen]
        (folder / f"{split}.tsv").write_text(
            "\n".join(["client_id\tpath\tsentence\tup_votes"] + rows) + "\n"
        )
    return folder


def test_a_common_voice_release_loads_the_test_split_or_the_one_asked_for(tmp_path):
    folder = common_voice(tmp_path)
    assert [(clip.id, clip.text, clip.speaker) for clip in load(folder).clips] == [
        ("common_voice_xx_0", 'She said "0".', "speaker0"),
        ("common_voice_xx_2", 'She said "2".', "speaker2"),
    ]
    assert [number_of(clip) for clip in load(folder, split="validated").clips] == [0, 10, 20, 30]
    with pytest.raises(DataError, match="no dev.tsv.*test, validated"):
        load(folder, split="dev")


def test_two_names_that_differ_in_case_are_two_clips(tmp_path):
    write_clip(tmp_path / "a.wav", 0)
    if (tmp_path / "A.wav").exists():
        pytest.skip("this disk does not tell upper from lower case")
    write_clip(tmp_path / "A.wav", 1)
    write_clip(tmp_path / "b.wav", 2)
    for file, text in {"a.txt": "first", "A.txt": "second", "B.txt": "third"}.items():
        (tmp_path / file).write_text(text)
    dataset = load(tmp_path)
    found = {(clip.text, number_of(clip)) for clip in dataset.clips}
    assert found == {("first", 0), ("second", 1), ("third", 2)} and not dataset.skipped


def test_audio_beside_text_files_loads_from_any_depth(tmp_path):
    for i, file in enumerate(["a.ogg", "deep/er/b.flac", "c.mp3"]):
        write_clip(tmp_path / file, 10 * i)
    (tmp_path / "a.txt").write_text("first\nline\n")
    (tmp_path / "deep" / "er" / "b.txt").write_text("second")
    dataset = load(tmp_path)
    assert [(clip.id, clip.text) for clip in dataset.clips] == [
        ("a", "first line"),
        ("deep/er/b", "second"),
    ]
    assert dataset.skipped == [("c", "it has no text")]
    assert [clip.text for clip in load(tmp_path, require_text=False).clips] == [
        "first line",
        None,
        "second",
    ]


def test_a_subfolder_is_chosen_by_split_and_an_unknown_one_is_refused(tmp_path):
    csv_folder(tmp_path / "train", 2)
    csv_folder(tmp_path / "test", 3)
    assert len(load(tmp_path, split="train").clips) == 2
    assert len(load(tmp_path / "train", split="train").clips) == 2
    with pytest.raises(DataError, match="no subfolder for split 'dev'; subfolders: test, train"):
        load(tmp_path, split="dev")


# Choosing clips


def test_max_samples_counts_usable_clips_only(tmp_path):
    folder = csv_folder(tmp_path, 5)
    (folder / "c1.wav").write_text("broken")
    dataset = load(folder, max_samples=3)
    assert [number_of(clip) for clip in dataset.clips] == [0, 2, 3] and [
        id for id, _ in dataset.skipped
    ] == ["c1"]


def test_a_seeded_shuffle_is_repeatable_and_draws_from_the_whole_folder(tmp_path):
    folder = csv_folder(tmp_path, 40)
    draws = [
        [clip.id for clip in load(folder, max_samples=8, shuffle_seed=seed).clips]
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2] and len(set(draws[0])) == 8
    assert max(int(id[1:]) for id in draws[0]) >= 20


def test_a_shuffle_decodes_no_more_clips_than_asked_for(tmp_path, monkeypatch):
    folder = csv_folder(tmp_path, 20)
    reads, real = [], load_module.read_audio
    monkeypatch.setattr(
        load_module,
        "read_audio",
        lambda file, **options: reads.append(file) or real(file, **options),
    )
    load(folder, max_samples=4, shuffle_seed=0)
    assert len(reads) == 4


def test_bad_clips_are_skipped_by_name_with_a_reason_each(tmp_path):
    folder = csv_folder(tmp_path, 7)
    (folder / "c0.wav").unlink()
    (folder / "c1.wav").write_text("broken")
    soundfile.write(folder / "c2.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(folder / "c3.wav", np.full(9, np.nan, np.float32), RATE, subtype="FLOAT")
    table = (folder / "metadata.csv").read_text().replace("text 4", "  ").replace("c5.wav", "")
    (folder / "metadata.csv").write_text(table)
    dataset = load(folder)
    assert [clip.id for clip in dataset.clips] == ["c6"]
    reasons = [
        "no such audio file (c0.wav)",
        "cannot be decoded",
        "0 samples",
        "NaN",
        "no text",
        "names no audio",
        "no row of metadata.csv names it",
    ]
    assert [id for id, _ in dataset.skipped] == [
        "c0",
        "c1",
        "c2",
        "c3",
        "c4",
        "line 7 of metadata.csv",
        "c5.wav",
    ]
    assert all(part in reason for part, (_, reason) in zip(reasons, dataset.skipped, strict=True))


def test_clips_in_both_calibration_and_evaluation_are_an_error_whatever_their_names(tmp_path):
    first, second = (
        load(csv_folder(tmp_path / "a", 3)).clips,
        load(csv_folder(tmp_path / "b", 4)).clips,
    )
    check_disjoint(first, second[3:])
    with pytest.raises(DataError, match=r"2 of 2 evaluation clips: c1 \(calibration: c1\), c2"):
        check_disjoint(first, second[1:3])


# Folders that are refused


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "holds no speech dataset.*metadata.csv.*trans.txt"),
        ({"metadata.csv": ""}, "empty manifest"),
        ({"metadata.csv": "file_name,text\n"}, "empty manifest"),
        ({"manifest.jsonl": "\n"}, "empty manifest"),
        ({"manifest.json": "[]"}, "empty manifest"),
        (
            {"metadata.csv": "name,words\na.wav,hello\n"},
            "no column for the audio file; columns found: name, words",
        ),
        (
            {"metadata.csv": "file_name,words\na.wav,hello\n"},
            "no text column; columns found: file_name, words",
        ),
        (
            {"metadata.csv": "file_name,text\na.wav,hello, you\n"},
            "line 2 .*more cells than columns.*double quotes",
        ),
        ({"metadata.csv": b"file_name,text\na.wav,\xff\xfe\n"}, "not UTF-8"),
        ({"manifest.jsonl": '{"audio_filepath": "a.wav"\n'}, "line 1 .*not JSON"),
        ({"manifest.json": '[{"a": 1},\n oops]'}, "line 2 .*not JSON"),
        ({"manifest.json": '["a.wav"]'}, "row 1 .*not an object"),
        (
            {"manifest.json": '{"audio_filepath": "a.wav", "text": "x", "offset": -1}'},
            "line 1 .*offset '-1'",
        ),
        (
            {"metadata.csv": "file_name,text\na.wav,\nb.wav,\n"},
            "none of its 2 clips .*a, b: it has no text",
        ),
        (
            {"metadata.csv": "file_name,text\na.wav,hello\n"},
            r"none of its 1 clips .*no such audio file \(a.wav\)",
        ),
        ({"a.wav": b"x", "b.wav": b"x"}, "the 2 audio files .* have no texts"),
    ],
)
def test_a_folder_that_cannot_be_used_says_what_was_found_and_what_to_do(tmp_path, files, reason):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"(?s)dataset 'mine': .*{reason}"):
        load(tmp_path)


def test_a_missing_folder_a_file_and_no_samples_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a file, not a folder"):
        load(tmp_path / "file")
    with pytest.raises(DataError, match="max_samples is 0"):
        load(tmp_path, max_samples=0)


# The Hub


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """Calls to the Hub's loader are noted and answered by a streamed parquet file, whose audio type
    says: decode me.
    """
    calls = []

    def write(
        count: int = 6,
        broken: tuple[int, ...] = (),
        text: str = "text",
        known_features: bool = True,
        splits=("test",),
    ):
        files = [tmp_path / "wav" / f"{i}.flac" for i in range(count)]
        for i, file in enumerate(files):
            write_clip(file, i)
        audio = [
            {"bytes": b"broken" if i in broken else file.read_bytes(), "path": file.name}
            for i, file in enumerate(files)
        ]
        table = datasets.Dataset.from_dict(
            {
                "audio": audio,
                text: [f"TEXT {i}" for i in range(count)],
                "speaker_id": [i // 3 for i in range(count)],
            }
        )
        if known_features:
            types = {"audio": datasets.Audio(sampling_rate=RATE), text: datasets.Value("string")}
            table = table.cast(datasets.Features({**types, "speaker_id": datasets.Value("int64")}))
        table.to_parquet(tmp_path / "data.parquet")

        def answer(*args, split, streaming, cache_dir):
            calls.append((*args, split))
            assert streaming
            files = {name: str(tmp_path / "data.parquet") for name in splits}
            return REAL_LOAD(
                "parquet",
                data_files=files,
                split=split,
                streaming=True,
                cache_dir=str(tmp_path / "cache"),
            )

        monkeypatch.setattr(datasets, "load_dataset", answer)
        monkeypatch.setattr(hub, "unreachable", lambda: None)
        return calls

    return write


@pytest.mark.parametrize("known_features", [True, False])
def test_a_stream_gives_the_first_clips_in_order_without_decoding_by_the_library(
    fake_hub, known_features
):
    calls = fake_hub(known_features=known_features)
    clips = load_dataset("librispeech", split="test-clean", subset="clean", max_samples=2).clips
    assert calls == [("openslr/librispeech_asr", "clean", "test")]
    assert [(clip.id, clip.text, clip.speaker, number_of(clip)) for clip in clips] == [
        ("0", "TEXT 0", "0", 0),
        ("1", "TEXT 1", "0", 1),
    ]


def test_broken_clips_of_a_stream_are_replaced_by_the_next_ones(fake_hub):
    fake_hub(broken=(1,))
    dataset = load_dataset("some/speech", split="test", max_samples=3)
    assert [number_of(clip) for clip in dataset.clips] == [0, 2, 3] and dataset.skipped[0][0] == "1"


def test_a_stream_is_shuffled_by_seed(fake_hub, monkeypatch):
    fake_hub(count=60)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # datasets waits 5 s for its threads
    draws = [
        [clip.text for clip in load_dataset("some/speech", max_samples=6, shuffle_seed=seed).clips]
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2] and max(int(text.split()[1]) for text in draws[0]) >= 6


def test_no_more_rows_are_streamed_than_clips_asked_for(fake_hub, monkeypatch):
    fake_hub()
    rows, real = [], hub._row_entry
    monkeypatch.setattr(hub, "_row_entry", lambda *args: rows.append(args) or real(*args))
    load_dataset("some/speech", max_samples=2)
    assert len(rows) == 2


def test_a_stream_without_any_usable_clip_is_given_up(fake_hub, monkeypatch):
    fake_hub(broken=tuple(range(6)))
    monkeypatch.setattr("owl.data.load.PATIENCE", 4)
    with pytest.raises(DataError, match="none of its 4 clips can be used"):
        load_dataset("some/speech")


def test_a_stream_without_a_text_column_is_refused_only_if_text_is_needed(fake_hub):
    fake_hub(text="words")
    with pytest.raises(DataError, match="no text column; columns found: audio, words, speaker_id"):
        load_dataset("some/speech")
    assert load_dataset("some/speech", require_text=False).clips[0].text is None


def test_a_stream_without_audio_is_refused(fake_hub, monkeypatch, tmp_path):
    fake_hub()
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(DataError, match="no audio column; columns found: text"):
        load_dataset("some/speech")


def test_without_a_split_the_test_split_is_taken_and_several_others_are_refused(fake_hub):
    fake_hub(splits=("train", "test"))
    assert len(load_dataset("some/speech", max_samples=1).clips) == 1
    fake_hub(splits=("first", "second"))
    with pytest.raises(DataError, match="Set `split` to one of: first, second"):
        load_dataset("some/speech")


@pytest.mark.parametrize(
    ("split", "subset", "config", "hub_split"),
    [
        (None, None, "clean", "test"),
        ("test-clean", "clean", "clean", "test"),
        ("test.clean", None, "clean", "test"),
        ("test", "clean", "clean", "test"),
        ("test-other", None, "other", "test"),
        ("test", "other", "other", "test"),
        ("validation", None, "clean", "validation"),
        ("dev-other", "other", "other", "validation"),
        ("train.100", "clean", "clean", "train.100"),
        ("train.360", None, "clean", "train.360"),
        ("train-clean-100", "all", "clean", "train.100"),
        ("train.500", None, "other", "train.500"),
    ],
)
def test_librispeech_parts_go_by_all_their_names(split, subset, config, hub_split):
    assert hub.resolve("librispeech", split, subset) == (
        "openslr/librispeech_asr",
        config,
        hub_split,
    )


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        (
            "librispeech",
            {"split": "test-clean", "subset": "other"},
            "no part with split 'test-clean' and subset 'other'",
        ),
        ("librispeech", {"split": "train"}, "Set `split` to one of: test-clean"),
        ("librispeach", {}, "neither a known name.*`librispeech`"),
        ("../no/such/folder", {}, "neither a known name.*set `path`"),
        (
            "mozilla-foundation/common_voice_17_0",
            {"subset": "en"},
            "has left the Hugging Face Hub.*set `path`",
        ),
        ("common_voice", {}, "has left the Hugging Face Hub"),
    ],
)
def test_names_that_mean_no_dataset_are_refused_before_any_request(name, options, reason):
    with pytest.raises(DataError, match=f"dataset '{name}': .*{reason}"):
        load_dataset(name, **options)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError(
            "Couldn't reach 'some/speech' on the Hub (OfflineModeIsEnabled)\nwith more lines"
        ),
        datasets.exceptions.DatasetNotFoundError(
            "Dataset 'some/speech' doesn't exist on the Hub or cannot be accessed."
        ),
        ValueError("BuilderConfig 'xx' not found. Available: ['en']"),
    ],
)
def test_what_the_hub_client_raises_becomes_one_message_with_a_way_out(
    fake_hub, monkeypatch, error
):
    fake_hub()

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="local folder") as caught:
        load_dataset("some/speech", split="test")
    message = str(caught.value)
    assert message.startswith("dataset 'some/speech': " + str(error).splitlines()[0].rstrip("."))
    assert "more lines" not in message and caught.value.__cause__ is error


def test_offline_mode_asks_nobody_and_says_how_to_leave_it(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    # a request would fail with another message
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match="'no-such-owner/speech': .*unset HF_HUB_OFFLINE.*local folder"
    ):
        load_dataset("no-such-owner/speech", split="test")


def test_an_unreachable_hub_is_an_error_at_once_instead_of_minutes_of_retries(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # the discard port: nothing listens
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *args, **options: pytest.fail("the Hub was asked all the same"),
    )
    with pytest.raises(
        DataError, match="'librispeech': http://127.0.0.1:9 cannot be reached .*local folder"
    ):
        load_dataset("librispeech", split="test-clean", subset="clean", max_samples=20)
