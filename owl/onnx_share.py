"""One copy of the weights that several ONNX graphs have in common: both decoders of a Whisper hold the same ones."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

SMALL = 1024  # bytes below which a constant stays in its graph
ALIGNMENT = 64  # bytes


def save_graph(proto: onnx.ModelProto, path: Path, large: bool) -> None:
    """Write a graph, its weights in `path`_data where they are too `large` for one protobuf."""
    onnx.save_model(proto, path, save_as_external_data=large, location=f"{path.name}_data")
    if large:
        path.with_name(f"{path.name}_data").chmod(path.stat().st_mode)  # onnx makes it readable for its owner alone


def share_weights(graphs: Sequence[Path], data: Path) -> None:
    """Move the constants of `graphs` into the one file `data` beside them, equal ones once. Runtimes find them through the graphs."""
    places: dict[bytes, tuple[int, int]] = {}
    written = data.with_name(data.name + ".tmp")
    with written.open("wb") as file:
        for path in graphs:
            proto = onnx.load(path)
            for tensor in proto.graph.initializer:
                raw = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(raw) < SMALL:
                    continue
                key = hashlib.sha256(raw).digest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    places[key] = file.tell(), len(raw)
                    file.write(raw)
                tensor.CopyFrom(_stored_outside(tensor, raw, data.name, *places[key]))
            path.with_name(f"{path.name}_data").unlink(missing_ok=True)
            onnx.save_model(proto, path)
    written.replace(data)


def _stored_outside(tensor: onnx.TensorProto, raw: bytes, location: str, offset: int, length: int) -> onnx.TensorProto:
    """The tensor with a reference instead of its values."""
    outside = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=raw)
    set_external_data(outside, location, offset=offset, length=length)
    outside.ClearField("raw_data")
    return outside
