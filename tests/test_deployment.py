"""The deployment table: sentences from small tables written out by hand, and one real row measured
in a fresh process. All of it is behaviour.
"""

import copy
import subprocess
import sys
from dataclasses import replace
from pkgutil import resolve_name

import numpy as np
import pytest
import torch

from owl.config.formats import FORMATS, Format
from owl.config.load import load as load_config
from owl.errors import UnsupportedFormat
from owl.evaluate.transcribe import Transcript, Transcription
from owl.export import advice, formats, frontier, onnx_graphs, onnx_int8, table
from owl.export.advice import Row
from owl.export.measure import in_fresh_process, measure, weights_digest
from owl.export.onnx import OnnxWhisper, export_onnx, onnx_decoder
from owl.export.onnx_int8 import fold_transpose
from owl.model.loading import COMPACT_FILE
from owl.model.loading import load as load_saved
from owl.model.whisper import Whisper, load
from owl.run import experiment
from owl.run.cache import closure
from owl.run.record import Run, peak_rss_bytes
from tests.conftest import ROOT
from tests.tiny import make_model, make_processor


def row(name: str, size: int, wer: float, rtfx: float, runtime: str = "pytorch", **more) -> Row:
    """A row as the files hold it: "dense …" is in their list of the dense model's."""
    given = {"format": name, "runtime": runtime, "bytes": size, "ratio": size / 1000, "wer": wer}
    given |= {"device": "cpu", "rtfx": rtfx, "loads_in": "it"}
    return Row.read(given | more, dense=name.startswith("dense"))


DENSE = row("dense fp16", 1000, 0.10, 50.0)
ONNX = row("dense onnx", 2000, 0.10, 40.0, "onnxruntime")


def test_a_row_is_what_the_files_hold():
    exported = row("onnx-int8", 600, 0.1, 61.0, "onnxruntime", wer_interval=[0.05, 0.15])
    for one, dense in ((exported, False), (DENSE, True), (row("dense model x", 1, 1, 1), True)):
        assert Row.read(one.public(), dense=dense) == replace(one, loads_in=None if dense else "it")
    assert exported.public()["format"] == "onnx-int8" and exported.public()["path"] is None
    assert DENSE.public()["format"] == "dense fp16"
    assert not {"name", "dense", "path", "loads_in", "same_text"} & set(DENSE.public())
    rounded = [one.rounded for one in (exported, ONNX, row("dense ggml-q5_0", 1, 1, 1))]
    assert rounded == [True, False, True]
    table = advice.frame([exported])
    assert table[["format", "dense", "low", "high"]].values.tolist() == [
        ["onnx-int8", False, 0.05, 0.15]
    ]


def test_rows_in_short_windows_say_so_and_are_compared_with_full_ones():
    short = row("dense fp16", 1000, 0.10, 150.0, window="speech")
    hf = row("hf", 1010, 0.105, 140.0, window="speech")
    rows = [DENSE, short, hf]
    assert [one.format for one in rows] == [
        "dense fp16",
        "dense fp16, speech only",
        "hf, speech only",
    ]
    assert [one.public()["format"] for one in rows] == ["dense fp16", "dense fp16", "hf"]
    assert Row.read(short.public(), dense=True) == replace(short, loads_in=None)
    assert [advice.speedup(one, rows) for one in rows] == [1.0, 3.0, 2.8]
    # full and short windows are not the same work
    assert advice.apart(rows) == advice.FASTER
    said = " ".join(advice.recommendation(rows))
    assert "2.80 times dense fp16 in PyTorch" in said
    assert "Without pruning, dense fp16, speech only is as fast" in said


def test_pages_are_drawn_without_torch():
    code = "import owl.export.advice, owl.report.pages, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_smallest_and_the_fastest_within_a_point_are_named():
    rows = [
        DENSE,
        ONNX,
        row("compact", 400, 0.1099, 50.0),
        row("onnx-int8", 600, 0.105, 80.0, "onnxruntime"),
        row("ct2-int8", 300, 0.12, 99.0, "ctranslate2"),
    ]
    small, fast = advice.recommendation(rows)
    assert (
        small
        == "Smallest within +1 % WER: compact, 400 bytes, 0.40 of dense fp16, WER 10.99% against "
        "10.00%."
    )
    assert (
        fast
        == "Fastest within +1 % WER: onnx-int8, 80.0× real time, 1.60 times dense fp16 in PyTorch, "
        "WER 10.50%."
    )


def test_what_lies_within_the_spread_of_the_same_work_is_not_called_faster():
    rows = [
        DENSE,
        row("hf", 1000, 0.1, 50.0),
        row("compact", 400, 0.1, 60.0),
        row("dense model hf", 300, 0.3, 200.0),
    ]
    _, fast, spread = advice.recommendation(rows)
    assert fast.endswith(
        "60.0× real time, 1.20 times dense fp16 in PyTorch, WER 10.00%; it is not faster than "
        "dense."
    )
    assert spread.startswith("Timings of the same work lie up to 1.20 times apart in this table")
    assert "not faster than dense in pytorch (1.20 times)" in advice.facts(rows[2], rows)
    # another model, other words: other work
    others = [row("dense model hf", 300, 0.1, 200.0), row("compact-int8", 300, 0.11, 300.0)]
    assert advice.apart([*rows, *others]) == 1.2
    fast = advice.recommendation([*rows, row("onnx-int8", 600, 0.1, 61.0, "onnxruntime")])[1]
    assert "onnx-int8, 61.0× real time, 1.22 times" in fast and not fast.endswith("dense.")


PEERS = [
    DENSE,
    row("dense compact-int4", 250, 0.10, 50.0),  # ours, without pruning
    row("dense ggml-q5_0", 400, 0.11, 50.0, "whisper.cpp"),
    row("dense ggml-q4_0", 300, 0.15, 50.0, "whisper.cpp"),
    row("dense model small", 320, 0.16, 90.0),
]


def test_the_frontier_is_what_no_peer_beats_at_its_size():
    assert [one.name for one in PEERS if not one.peer] == ["compact-int4"]
    assert frontier.steps(PEERS) == [(300, 0.15), (400, 0.11), (1000, 0.10)]
    ours = [
        row("compact", 390, 0.12, 50.0, wer_interval=[0.1, 0.14]),  # q4_0 is smaller and worse
        row("hf", 1000, 0.105, 50.0),  # the dense model is as large and better
        row("compact-int4", 200, 0.9, 50.0),
    ]
    peers = [replace(one, wer_interval=[0.13, 0.2]) for one in PEERS]
    assert frontier.sentences([*peers, *ours]) == [
        "No peer beats in both bytes and WER: compact-int4 (200 bytes, WER 90.00%), smaller than "
        "all of them; compact (390 bytes, WER 12.00%), the best of no larger ones being dense "
        "ggml-q4_0 (300 bytes, WER 15.00%), whose 95 % intervals overlap."
    ]
    assert frontier.sentences([*PEERS, ours[1]]) == [
        "There is no file here that no peer beats in both bytes and WER: beside hf (1,000 bytes, "
        "WER 10.50%) there is dense fp16 (1,000 bytes, WER 10.00%)."
    ]
    assert frontier.sentences([DENSE, *ours]) == []  # nothing to compare with
    equal = row("compact", 400, 0.11, 50.0)  # as good and as large is not better
    assert frontier.sentences([*PEERS, equal])[0].startswith("There is no file")


@pytest.mark.slow
def test_peers_are_measured_or_refused_and_every_row_has_its_divergence(
    demo, tmp_path, monkeypatch
):
    settings, model, processor, datasets = demo
    run, asr = run_in(tmp_path, settings, peers=True), Whisper(model, processor)
    monkeypatch.setattr(table, "in_fresh_process", lambda function, *given: function(*given))
    teacher = table.teacher(run, asr, datasets)
    kept = list(run.folder.glob("tmp*/*.safetensors"))
    assert kept
    rows, refused = table.dense_rows(["compact-int8"], run, asr, datasets, teacher)
    assert {one["format"] for one in refused} == {
        *("dense ggml", "dense ggml-q8_0", "dense ggml-q5_0", "dense ggml-q4_0")
    }
    assert all("vocabular" in one["reason"] or "window" in one["reason"] for one in refused)
    by = {one.name: one.kl for one in rows}
    assert list(by) == ["fp16", "compact-int8", "ct2-int8", "onnx-int8"]
    assert by["fp16"] == 0 and by["ct2-int8"] is None
    assert 0 < by["compact-int8"] < 0.05 and 0 < by["onnx-int8"] < 0.5
    del teacher
    assert not any(path.exists() for path in kept)
    assert table.teacher(run_in(tmp_path, settings), asr, datasets) is None


def test_where_no_format_qualifies_the_nearest_is_named_with_its_gap():
    (text,) = advice.recommendation(
        [DENSE, row("hf", 1000, 0.3, 50.0), row("ct2", 900, 0.25, 60.0, "ctranslate2")]
    )
    assert (
        text
        == "No format is within +1 % WER of dense (10.00%); the nearest is ct2, +15.00%. Prune "
        "less, or recover."
    )
    both = advice.recommendation(
        [DENSE, row("dense ct2-int8", 550, 0.105, 60.0, "ctranslate2"), row("hf", 1000, 0.3, 50.0)]
    )
    assert both[1:] == [
        "Without pruning, dense ct2-int8 is: 550 bytes, 0.55 of dense fp16, WER 10.50%."
    ]


def test_what_is_neither_smaller_nor_faster_is_said_to_be_neither():
    small, fast = advice.recommendation([DENSE, row("hf", 1010, 0.1, 52.0)])
    assert small.endswith("; it is not smaller than dense.") and fast.endswith(
        "; it is not faster than dense."
    )


def test_an_unpruned_format_that_does_as_well_is_named_too():
    unpruned = row("dense onnx-int8", 350, 0.101, 79.0, "onnxruntime")
    said = advice.recommendation(
        [
            DENSE,
            ONNX,
            unpruned,
            row("compact", 400, 0.1, 50.0),
            row("onnx-int8", 600, 0.1, 80.0, "onnxruntime"),
        ]
    )
    assert said[2:] == [
        "Without pruning, dense onnx-int8 is no larger: 350 bytes, WER 10.10%.",
        "Without pruning, dense onnx-int8 is not told apart from it by speed: 79.0× real time, WER "
        "10.10%.",
    ]


def test_nothing_exported_is_said():
    assert advice.recommendation([DENSE]) == ["Nothing was exported."]


def test_speed_is_compared_within_a_runtime_and_slower_is_called_not_faster():
    onnx, hf = row("onnx-int8", 600, 0.1, 80.0, "onnxruntime"), row("hf", 1000, 0.1, 52.0)
    rows = [DENSE, ONNX, onnx, hf]
    assert advice.speedup(onnx, rows) == 2.0
    assert "2.00 times as fast as dense in onnxruntime" in advice.facts(onnx, rows)
    assert "not faster than dense in pytorch (1.04 times)" in advice.facts(hf, rows)
    alone = row("ct2", 1000, 0.1, 80.0, "ctranslate2")
    assert advice.speedup(alone, rows) is None and "faster" not in advice.facts(alone, rows)


def test_advice_goes_by_characters_where_the_rows_do():
    """By words the int8 form would be ruled out, by characters it is within a point."""
    by = dict(unit="characters", cer=0.05, cer_interval=[0.04, 0.06])
    dense = replace(DENSE, wer=0.8, **by)
    small = replace(row("hf", 600, 0.9, 52.0), **by | {"cer": 0.055})
    said = advice.recommendation([dense, small])
    assert said[0].startswith("Smallest within +1 % CER: hf, 600 bytes")
    assert "CER 5.50% against 5.00%" in said[0] and "WER" not in " ".join(said)
    assert "CER 5.50%" in advice.facts(small, [dense, small])
    text = advice.table([dense, small]).to_html()
    assert "CER" in text and "WER" not in text and "5.50%" in text and "4.0–6.0" in text
    assert advice.frame([dense, small])[["wer", "low", "high"]].values.tolist()[1] == [
        0.055,
        0.04,
        0.06,
    ]
    assert advice.Row.read(small.public(), dense=False) == small


def test_formats_that_were_not_written_are_named_by_reason():
    refused = [
        {"format": "ct2", "reason": "heads"},
        {"format": "onnx", "reason": "size"},
        {"format": "ct2-int8", "reason": "heads"},
    ]
    said = advice.recommendation([DENSE], refused)
    assert said == [
        "Nothing was exported.",
        "Not written: ct2, ct2-int8 (heads).",
        "Not written: onnx (size).",
    ]


def test_the_table_shows_gaps_for_what_was_not_measured():
    measured = row(
        "hf",
        1010,
        0.12,
        52.0,
        wer_interval=[0.101, 0.144],
        first_token_seconds=0.0345,
        peak_rss_bytes=500_000_000,
        same_text=1.0,
    )
    text = advice.table(
        [replace(DENSE, first_token_seconds=None), replace(measured, loads_in="<it>")]
    ).to_html()
    assert all(
        words in text
        for words in ("12.00%", "10.1–14.4", ">34<", ">500<", "100%", "1,010", "&lt;it&gt;")
    )
    assert "nan" not in text.lower() and "None" not in text


PRUNING = {"calibration_clips": 1, "sparsity_prunable": 0.0, "sparsity_model": 0.0, "linears": []}
PRUNING["recovery"] = {"method": "none", "rounds": [{}]}


def run_in(folder, settings, **output) -> Run:
    changed = settings.output.model_copy(update={"dir": str(folder), **output})
    return Run("mine", folder, settings.model_copy(update={"output": changed}))


@pytest.fixture(scope="module")
def demo():
    """(config, model, processor, datasets) with two clips."""
    settings = load_config(ROOT / "configs" / "demo.json", {"samples": 2})
    return settings, *load(settings.model.name), experiment.evaluation_sets(settings)


@pytest.mark.slow
def test_a_fresh_process_measures_the_model_that_lies_on_disk(demo):
    settings, model, _, datasets = demo
    # this process is larger than the one that measures; its peak must not count there
    ballast = np.ones(400_000_000, np.uint8)
    found = in_fresh_process(
        measure, FORMATS["hf"], None, settings, datasets, torch.float16, {}, "full"
    )
    assert (
        found.weights
        == weights_digest(model, torch.float16)
        != weights_digest(model.half(), torch.bfloat16)
    )
    assert found.parameters == sum(one.numel() for one in model.parameters())
    assert 1e8 < found.idle_rss_bytes < found.peak_rss_bytes < peak_rss_bytes() - len(ballast) / 2
    assert 0 < found.first_token_seconds < found.said[0].seconds and found.load_seconds > 0
    assert [one.id for one in found.said[0].transcripts] == [clip.id for clip in datasets[0].clips]


@pytest.mark.slow
def test_a_model_that_was_heard_is_not_asked_again_where_one_pass_is_enough(demo, monkeypatch):
    settings, model, _, datasets = demo
    said = [Transcription([], 7.0)]
    given = FORMATS["hf"], None, settings, datasets, torch.float16
    heard = {weights_digest(model, torch.float32): said}
    assert measure(*given, heard, "full").said != said  # so little audio takes three passes
    monkeypatch.setattr("owl.export.measure.SHORT", 0.0)
    known = measure(*given, heard, "full")
    assert known.said == said and known.first_token_seconds > 0
    assert measure(*given, {"another model": said}, "full").said != said


@pytest.mark.slow
def test_a_run_writes_measures_and_refuses_format_by_format(demo, tmp_path, monkeypatch):
    settings, model, processor, datasets = demo
    run = run_in(tmp_path, settings, compare_with=[settings.model.name])

    def refuse(*_):
        raise UnsupportedFormat("it has lost heads")

    monkeypatch.setattr("owl.export.ct2.export_ct2", refuse)
    asr = Whisper(model, processor)
    facts = run, asr, PRUNING, {"datasets": []}
    assert formats.write("ct2", *facts)[1] == "it has lost heads"
    assert not (tmp_path / "mine" / "ct2").exists()
    folder, reason = formats.write("compact", *facts)
    assert (folder, reason) == (tmp_path / "mine" / "compact", None)
    found = table.measure_row("compact", folder, run, asr, asr, datasets)
    assert found.same_weights is True and found.same_text == 1.0
    assert (
        (ROOT / found.path).resolve() == folder.resolve()
        and found.loads_in == "owl.load"
        and found.wer_interval[0] <= found.wer
    )
    # the first one showed that
    monkeypatch.setattr(
        table, "in_fresh_process", lambda function, *arguments: function(*arguments)
    )
    rows, refused = table.dense_rows(["compact"], run, Whisper(model, processor), datasets)
    assert not refused
    assert [one.format for one in rows] == ["dense fp16", "dense compact-int8", "dense model demo"]
    assert [rows[0].bytes, rows[2].bytes] == [formats.dense_bytes(model)] * 2
    assert rows[1].bytes < 0.7 * rows[0].bytes
    assert rows[0].wer == rows[2].wer == found.wer and {one.device for one in rows} == {"cpu"}
    other, _ = load(settings.model.name)
    with torch.no_grad():
        other.model.encoder.layers[0].fc1.weight[0, 0] += 1
    with pytest.raises(RuntimeError, match="did not hold the weights that are in memory"):
        table.measure_row("compact", folder, run, asr._replace(model=other), asr, datasets)
    assert not folder.exists()
    (tmp_path / "mine" / "onnx").mkdir()  # of an earlier config
    formats.remove_others([], run)
    assert not (tmp_path / "mine" / "onnx").exists()


@pytest.mark.slow
def test_a_calibrated_format_is_the_plain_ones_size_and_leaves_the_model_as_it_was(demo, tmp_path):
    settings, model, processor, _ = demo
    clips = experiment.calibration_set(settings).clips[:8]
    run = run_in(tmp_path, settings)
    run.write("calibration", {"clips": [{"id": one.id, "tokens": [5, 6, 7]} for one in clips]})
    before, asr = copy.deepcopy(model.state_dict()), Whisper(model, processor)
    written = {}
    for name in ("compact-int4", "compact-int4-calibrated"):
        folder, reason = formats.write(name, run, asr, PRUNING, {"datasets": []})
        assert reason is None
        written[name] = folder / COMPACT_FILE
    sizes = [path.stat().st_size for path in written.values()]
    assert max(sizes) < 1.1 * min(sizes)  # but for the coding of their levels
    plain, ours = (load_saved(str(path.parent)).model.state_dict() for path in written.values())
    rounded = [name for name in plain if not torch.equal(plain[name], ours[name])]
    assert {name.rpartition(".")[2] for name in rounded} == {"weight"}
    assert "model.encoder.layers.0.fc1.weight" in rounded
    assert "model.decoder.embed_positions.weight" in rounded  # which takes the mean token row
    left = ("norm", "conv", "encoder.embed_positions")
    assert not any(part in name for name in rounded for part in left)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_dense_twins_have_the_runtime_of_what_they_stand_beside_in_float_too():
    assert table.dense_twins(["hf"]) == []
    assert table.dense_twins(["hf", "onnx-int8", "compact"]) == [
        "onnx",
        "onnx-int8",
        "compact-int8",
    ]
    assert table.dense_twins(["ct2", "ct2-int8", "compact-int8"]) == [
        "ct2",
        "ct2-int8",
        "compact-int8",
    ]


def test_a_dense_model_that_was_not_timed_is_not_compared_by_speed():
    dense, hf = replace(DENSE, rtfx=None), row("hf", 1010, 0.1, 52.0)
    assert advice.speedup(hf, [dense, hf]) is None
    fast = advice.recommendation([dense, hf])[1]
    assert (
        fast
        == "Fastest within +1 % WER: hf, 52.0× real time, WER 10.00%; dense was not timed beside "
        "it, 03_evaluation times both."
    )


def test_rows_of_several_devices_are_told_apart():
    dense, onnx = replace(DENSE, device="cuda"), row("onnx", 2000, 0.1, 80.0, "onnxruntime")
    assert (
        "80.0× real time on cpu, 1.60 times dense fp16 in PyTorch on cuda"
        in advice.recommendation([dense, onnx])[1]
    )


def test_a_structured_folder_is_not_said_to_load_in_plain_transformers():
    model = make_model()
    assert formats.loads_in("hf", model) == "transformers"
    model.config.owl_shapes = {}
    assert formats.loads_in("hf", model) == formats.loads_in("compact-int8", model) == "owl.load"


def test_large_int8_graphs_leave_no_copies_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_int8, "EXTERNAL_BYTES", 0)
    monkeypatch.setattr(onnx_graphs, "EXTERNAL_BYTES", 0)
    model, processor = (
        make_model(d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64),
        make_processor(),
    )
    export_onnx(Whisper(model, processor), tmp_path, int8=True)
    names = {path.name for path in tmp_path.iterdir() if ".onnx" in path.name}
    assert names == {
        "encoder_model.onnx",
        "decoder_model.onnx",
        "decoder_with_past_model.onnx",
        "encoder_model.onnx_data",
        "decoder_model.onnx_data",
    }
    assert len({(tmp_path / name).stat().st_mode for name in names}) == 1
    audio = [np.random.default_rng(0).standard_normal(4000).astype(np.float32)] * 2
    assert len(onnx_decoder(OnnxWhisper(tmp_path), processor, max_new_tokens=5)(audio)) == 2


@pytest.mark.slow
def test_what_a_fresh_process_raises_is_raised_here(demo, tmp_path):
    settings, _, _, datasets = demo
    with pytest.raises(Exception, match="no complete ONNX Whisper") as caught:
        given = FORMATS["onnx"], str(tmp_path), settings, datasets, torch.float16, {}, "full"
        in_fresh_process(measure, *given)
    assert type(caught.value).__name__ == "ModelError"


def test_pooled_wer_counts_errors_and_words_of_all_datasets():
    def said(pairs):
        return Transcription(
            [Transcript(str(i), a, b, 1.0, None, 1, "end", 1) for i, (a, b) in enumerate(pairs)],
            0.5,
        )

    found = table.pooled(
        [said([("a b", "a c")]), said([("d e f g", "d e f g")])], ["basic", "basic"]
    )
    (low, high), wer = found["wer_interval"], found["wer"]
    assert wer == pytest.approx(1 / 6) and low <= wer <= high
    assert (found["unit"], found["cer"]) == ("words", pytest.approx(1 / 10))
    mixed = [said([("a b", "a c")]), said([("今天天气", "今天天汽")])]
    found = table.pooled(mixed, ["basic", "basic"])
    assert (found["unit"], found["cer"], found["wer"]) == ("characters", 2 / 7, 2 / 3)
    assert table.pooled(mixed, ["basic", "basic"], ["wer"])["unit"] == "words"
    assert table.pooled_rtfx([said([("a", "a")]), said([("a", "a"), ("b", "b")])]) == pytest.approx(
        3.0
    )


@pytest.mark.slow
def test_the_transposed_embedding_becomes_a_constant_and_the_int8_folder_decodes_as_onnx_whisper(
    tmp_path,
):
    import onnx

    model, processor = (
        make_model(d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64),
        make_processor(),
    )
    plain, rounded = tmp_path / "onnx", tmp_path / "onnx-int8"
    for folder, int8 in ((plain, False), (rounded, True)):
        folder.mkdir()
        export_onnx(Whisper(model, processor), folder, int8=int8)
    proto = onnx.load(plain / "decoder_model.onnx")
    fold_transpose(proto)
    constants = {one.name for one in proto.graph.initializer}
    assert not [
        node
        for node in proto.graph.node
        if node.op_type == "Transpose" and node.input[0] in constants
    ]
    (logits,) = [node for node in proto.graph.node if "logits" in node.output]
    assert logits.op_type == "MatMul" and logits.input[1] in constants
    for name in ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"):
        graph = onnx.load(rounded / name).graph
        assert "MatMulInteger" in {node.op_type for node in graph.node}
        assert not [
            node.name
            for node in graph.node
            if node.op_type == "MatMul" and node.input[1] in {one.name for one in graph.initializer}
        ]
    assert sorted(path.name for path in rounded.iterdir()) == sorted(
        path.name for path in plain.iterdir()
    )
    features = torch.randn(3, 8, 40)
    difference = OnnxWhisper(rounded).encode(features) - OnnxWhisper(plain).encode(features)
    # of values of about 1: int8 rounds to half a percent, through two blocks
    assert 0 < difference.abs().mean() < 0.05
    audio = [np.random.default_rng(0).standard_normal(4000).astype(np.float32)] * 2
    assert len(onnx_decoder(rounded, processor, max_new_tokens=5)(audio)) == 2


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_names_code_that_make_sees_a_runtime_and_float_forms(name):
    one = FORMATS[name]
    assert one.runtime in ("pytorch", "onnxruntime", "ctranslate2", "whisper.cpp")
    assert one.name == name and set(one.dense) <= set(FORMATS)
    assert one.rounds is None or FORMATS[one.rounds].rounds is None
    seen = closure("import owl.export.table")
    for code in (one.save, one.loads_in):
        if ":" in code:
            assert callable(resolve_name(code)) and code.partition(":")[0] in seen


def save_toy(asr: Whisper, folder):
    """A format of this test: an ordinary folder in float16, of models with few blocks only."""
    if asr.model.config.encoder_layers > 4:
        raise UnsupportedFormat("it is too deep")
    copy.deepcopy(asr.model).half().save_pretrained(folder)
    asr.processor.save_pretrained(folder)


def toy_loads_in(model) -> str:
    return f"a toy with {model.config.encoder_layers} blocks"


@pytest.mark.slow
def test_a_new_format_is_one_record(demo, tmp_path, monkeypatch):
    settings, original, processor, datasets = demo
    model, run = copy.deepcopy(original), run_in(tmp_path, settings)
    code = {"save": f"{__name__}:save_toy", "loads_in": f"{__name__}:toy_loads_in"}
    monkeypatch.setitem(FORMATS, "toy", Format("toy", "pytorch", **code, dense=("toy",)))
    asr = Whisper(model, processor)
    facts = run, asr, PRUNING, {"datasets": []}
    folder, reason = formats.write("toy", *facts)
    assert reason is None
    found = table.measure_row("toy", folder, run, asr, Whisper(original, processor), datasets)
    assert (found.same_weights, found.same_text) == (True, 1.0) and found.rtfx > 0
    monkeypatch.setattr(table, "in_fresh_process", lambda function, *given: function(*given))
    dense, _ = table.dense_rows(["toy"], run, Whisper(original, processor), datasets)
    assert [one.format for one in dense] == ["dense fp16", "dense toy"]
    assert advice.facts(found, [*dense, found]).endswith("Loads in a toy with 4 blocks.")
    model.config.encoder_layers = 5
    assert formats.write("toy", *facts) == (folder, "it is too deep")
    assert not folder.exists()
