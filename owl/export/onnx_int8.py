"""The ONNX folder with int8 weights: onnxruntime's dynamic quantisation (weights once, activations
as they come) of matrix products and of the token embedding.

Only `MatMul` and `Gather`: integer convolutions are slower than float ones here, and norms, biases
and positions are small. The logits' product reads the token embedding transposed; the transposed
matrix is stored (as int8 both together take what one float16 matrix does), because onnxruntime
quantises weights only where they are constants. Rows are rounded separately in matrix products.

Weights are unsigned like activations: a processor without VNNI adds up unsigned times signed bytes
in 16 bits, which overflow (tiny.en's encoder is then off by 17 % instead of 7 %).
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from owl.export.onnx_graphs import (
    DECODER,
    ENCODER,
    EXTERNAL_BYTES,
    WITH_PAST,
    save_graph,
    share_weights,
)


def quantise_folder(folder: Path) -> None:
    """Round the weights of the graphs in `folder`, which `owl.export.onnx.export_onnx` wrote."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        for name in (ENCODER, DECODER, WITH_PAST):
            quantise(folder / name, Path(aside) / name)
        for path in folder.glob("*.onnx*"):
            path.unlink()
        for path in Path(aside).iterdir():
            path.replace(folder / path.name)
    share_weights([folder / DECODER, folder / WITH_PAST], folder / f"{DECODER}_data")


def quantise(source: Path, target: Path) -> None:
    """The graph `source` with int8 weights as `target`; `source` stays as it is."""
    proto = onnx.load(source)
    # ByteSize fails beyond 2 GB
    large = sum(len(one.raw_data) for one in proto.graph.initializer) > EXTERNAL_BYTES
    fold_transpose(proto)
    logging.getLogger().addFilter(_QUIET)
    try:
        quantize_dynamic(
            proto,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            use_external_data_format=large,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.getLogger().removeFilter(_QUIET)
    if large:  # onnxruntime has a name of its own for the file beside the graph
        rounded = onnx.load(target)
        target.with_name(f"{target.name}.data").unlink()
        save_graph(rounded, target, large)


def fold_transpose(proto: onnx.ModelProto) -> None:
    """Replace every Transpose of a constant by the transposed constant, in place."""
    constants = {one.name: one for one in proto.graph.initializer}
    for node in [
        node
        for node in proto.graph.node
        if node.op_type == "Transpose" and node.input[0] in constants
    ]:
        (axes,) = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
        turned = np.ascontiguousarray(
            onnx.numpy_helper.to_array(constants[node.input[0]]).transpose(axes)
        )
        proto.graph.initializer.append(onnx.numpy_helper.from_array(turned, node.output[0]))
        proto.graph.node.remove(node)


def _QUIET(record: logging.LogRecord) -> bool:
    """Not the quantiser's advice to run another tool before it."""
    return "pre-processing" not in record.getMessage()
