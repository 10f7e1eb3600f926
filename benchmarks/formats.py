"""Exported formats, side by side: how fast the compact file is written and read, and every runtime
beside dense PyTorch and beside itself dense.

The model is pruned by magnitude to the config's sparsity: speed does not depend on which weights
are zero.
"""

import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from owl.config.formats import FORMATS
from owl.config.load import load
from owl.export import formats
from owl.export.measure import in_fresh_process, measure
from owl.export.table import pooled_rtfx
from owl.kernels.solvers import prune_weight
from owl.model import compact, whisper
from owl.model.whisper import Whisper
from owl.run import experiment, record

# blocks, width and feed-forward width of a random model: a file's speed shows only in gigabytes
SHAPES = (24, 1280, 5120)
MEASURED = ("hf", "compact", "onnx", "onnx-int8", "ct2", "ct2-int8")


def main(path: str) -> None:
    print("\nthe compact file, GB of dense float16 per second, with its checksum")
    print(
        pd.DataFrame([in_fresh_process(file_speed, sparsity) for sparsity in (0.5, 0.7)]).to_string(
            index=False, float_format="{:.2f}".format
        )
    )
    rows = pd.DataFrame(runtimes(path))
    print(
        "\nspeed of every format; 1 means as fast as dense. Bytes: of the dense model's float16 "
        "weights"
    )
    print(rows.to_string(index=False, float_format="{:.2f}".format))


def file_speed(sparsity: float) -> dict:
    """Write and read the matrices of a large random model once."""
    blocks, width, inner = SHAPES
    torch.manual_seed(0)
    tensors = {}
    for block in range(blocks):
        weight = torch.randn(width, inner).half()
        weight[torch.rand(width, inner) < sparsity] = 0
        tensors[f"block.{block}"] = weight
    dense = sum(2 * tensor.numel() for tensor in tensors.values())
    with tempfile.TemporaryDirectory() as folder:
        before, started = record.peak_rss_bytes(), time.perf_counter()
        size = compact.write(Path(folder) / "x", tensors)
        written, grown = time.perf_counter(), record.peak_rss_bytes() - before
        for _ in compact.read(Path(folder) / "x"):
            pass
        ended = time.perf_counter()
    gigabytes = dense / 1e9
    write, read = gigabytes / (written - started), gigabytes / (ended - written)
    return {
        "sparsity": sparsity,
        "dense GB": gigabytes,
        "ratio": size / dense,
        "write GB/s": write,
        "read GB/s": read,
        "extra GB": grown / 1e9,
    }


def runtimes(path: str) -> list[dict]:
    """One row per format: bytes, first token and speed of the pruned model as ratios to dense
    PyTorch and to dense in the same runtime.
    """
    config = load(path)
    datasets = experiment.evaluation_sets(config)
    dense, processor = experiment.load_model(config)
    pruned, _ = experiment.load_model(config)
    sparsity, linears = (
        config.pruning.sparsity,
        [linear for block in whisper.blocks(pruned) for linear in block.linears],
    )
    with torch.no_grad():
        for linear in linears:
            gram = torch.eye(linear.module.in_features)
            linear.module.weight.copy_(
                prune_weight(linear.module.weight, gram, method="magnitude", sparsity=sparsity)
            )
    papers = {"metadata": {}, "metrics": {}, "card": ""}
    rows, speeds = [], {}
    with tempfile.TemporaryDirectory() as aside:
        for name in MEASURED:
            found, runtime = {}, FORMATS[name].runtime
            for kind, model in (("dense", dense), ("pruned", pruned)):
                folder = Path(aside) / kind / name
                folder.mkdir(parents=True)
                formats.save(
                    name, Whisper(model, processor), folder, dtype=torch.float16, papers=papers
                )
                found[kind] = in_fresh_process(
                    measure, FORMATS[name], str(folder), config, datasets, torch.float16
                )
            speeds.setdefault(runtime, pooled_rtfx(found["dense"].said))
            size = record.folder_bytes(folder) / formats.dense_bytes(dense)
            rows.append(
                {"format": name, "bytes": size, "× real time": pooled_rtfx(found["pruned"].said)}
            )
            rows[-1] |= {
                "first token ms": 1e3 * found["pruned"].first_token_seconds,
                "same format dense": pooled_rtfx(found["dense"].said),
            }
            rows[-1] |= {"/ dense same runtime": rows[-1]["× real time"] / speeds[runtime]}
            rows[-1] |= {"/ dense PyTorch": rows[-1]["× real time"] / speeds["pytorch"]}
    return rows
