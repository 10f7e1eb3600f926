"""The three ONNX graphs of a Whisper: the encoder, the decoder's first step (it also makes the
cross-attention keys and values) and its later steps with a KV cache. File, input and output names
are the ones that optimum writes for Whisper.

They come from PyTorch's TorchScript exporter, about a second where the newer one takes ten.
`owl.export.onnx` loads and runs them.
"""

import hashlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from owl.model.whisper import encode_audio

ENCODER, DECODER, WITH_PAST = (
    "encoder_model.onnx",
    "decoder_model.onnx",
    "decoder_with_past_model.onnx",
)
OPSET = 17  # the oldest with LayerNormalization, so that older runtimes read the files too
EXTERNAL_BYTES = (
    1_500_000_000  # larger graphs keep their weights in a file beside them; protobuf ends at 2 GB
)


@torch.inference_mode()
def write_graphs(model: WhisperForConditionalGeneration, folder: Path) -> None:
    """Trace `model` (float32, CPU, eval mode, eager attention) into the three files; cache shapes
    are what its weights give.

    Both decoders read their weights from one file beside them.
    """
    config, blocks = model.config, model.config.decoder_layers
    decoder, tokens = _Decoder(model), torch.full((2, 3), config.decoder_start_token_id)
    features = torch.zeros(2, config.num_mel_bins, 2 * config.max_source_positions)
    states = torch.zeros(2, config.max_source_positions, config.d_model)
    _, *past = decoder(tokens, states)
    present = _cache_names("present", blocks)
    own = [name for name in present if ".decoder." in name]
    _write(
        _Encoder(model), (features,), folder / ENCODER, ["input_features"], ["last_hidden_state"]
    )
    _write(
        decoder,
        (tokens, states),
        folder / DECODER,
        ["input_ids", "encoder_hidden_states"],
        ["logits", *present],
    )
    inputs = ["input_ids", *_cache_names("past_key_values", blocks)]
    _write(_DecoderWithPast(model), (tokens, *past), folder / WITH_PAST, inputs, ["logits", *own])
    share_weights([folder / DECODER, folder / WITH_PAST], folder / f"{DECODER}_data")


class _Encoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        """(clips, mel bins, 2·frames) → (clips, frames, d)."""
        return encode_audio(self.model, features)


class _Decoder(nn.Module):
    """Without `past` the first step, on the encoder's output; with it (four tensors per block) a
    later one, from the cache.
    """

    def __init__(self, model):
        super().__init__()
        self.decoder, self.proj_out = model.model.decoder, model.proj_out

    def forward(self, tokens: Tensor, states: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """tokens (clips, new), states (clips, frames, d), past (clips, heads, old or frames, head)
        → logits, what to cache.
        """
        own, cross = DynamicCache(), DynamicCache()
        cache = EncoderDecoderCache(own, cross)
        for layer in range(len(past) // 4):
            own.update(*past[4 * layer : 4 * layer + 2], layer)
            cross.update(*past[4 * layer + 2 : 4 * layer + 4], layer)
            cache.is_updated[layer] = True
        old = past[0].shape[2] if past else 0
        new = torch.arange(tokens.shape[1]) + old
        future = torch.arange(tokens.shape[1] + old) > new[:, None]
        mask = torch.where(future, torch.finfo(torch.float32).min, 0.0)[None, None]
        given = dict(
            attention_mask=mask, position_ids=new[None], past_key_values=cache, use_cache=True
        )
        hidden = self.decoder(tokens, encoder_hidden_states=states, **given).last_hidden_state
        kept = [
            [(one.keys, one.values) for one in part.layers]
            for part in ((own,) if past else (own, cross))
        ]
        return self.proj_out(hidden), *(
            tensor for block in zip(*kept) for pair in block for tensor in pair
        )


class _DecoderWithPast(_Decoder):
    def forward(self, tokens: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        # a block attends across only if it is given states, and then takes the cached keys: any
        # tensor will do
        return super().forward(tokens, past[2], *past)


def _cache_names(prefix: str, blocks: int) -> list[str]:
    parts = [f"{stack}.{which}" for stack in ("decoder", "encoder") for which in ("key", "value")]
    return [f"{prefix}.{block}.{part}" for block in range(blocks) for part in parts]


def _axes(name: str) -> dict[int, str]:
    """The free axes of an input or output, by its name."""
    if name.startswith(("present", "past_key_values")):
        row = "encoder_sequence_length" if ".encoder." in name else "past_decoder_sequence_length"
        return {
            0: "batch_size",
            2: row
            + " + decoder_sequence_length" * (name.startswith("present") and ".decoder." in name),
        }
    text, frames = "decoder_sequence_length", "encoder_sequence_length"
    free = dict.fromkeys(["input_ids", "logits"], {1: text})
    free |= dict.fromkeys(["encoder_hidden_states", "last_hidden_state"], {1: frames})
    free |= {"input_features": {2: "mel_frames"}}
    return {0: "batch_size"} | free[name]


def _write(
    graph: nn.Module, values: tuple, path: Path, inputs: list[str], outputs: list[str]
) -> None:
    """Trace `graph` with `values` and save it as `path`, the weights in `path`_data where they are
    too large for one protobuf.
    """
    with (
        tempfile.TemporaryDirectory(dir=path.parent) as aside,
        warnings.catch_warnings(),
        torch.inference_mode(),
    ):
        # the exporter is called legacy, and the tracer remarks on transformers' own constants
        warnings.simplefilter("ignore")
        traced = str(Path(aside) / path.name)  # beyond 2 GB the exporter takes only a str
        options = {
            "input_names": inputs,
            "output_names": outputs,
            "dynamic_axes": {name: _axes(name) for name in inputs + outputs},
        }
        torch.onnx.export(graph, values, traced, dynamo=False, opset_version=OPSET, **options)
        large = sum(file.stat().st_size for file in Path(aside).iterdir()) > EXTERNAL_BYTES
        proto = onnx.load(traced)
    _tie(proto)
    save_graph(proto, path, large)


def _tie(proto: onnx.ModelProto) -> None:
    """Store the token embedding once where it makes the logits too: the exporter adds a transposed
    copy; a runtime can make it when it loads.
    """
    weights = {one.name: one for one in proto.graph.initializer}
    for index, node in enumerate(proto.graph.node):
        if "logits" in node.output:
            embedding = next(name for name in weights if name.endswith("embed_tokens.weight"))
            output, tokens = (
                onnx.numpy_helper.to_array(weights[name]) for name in (node.input[1], embedding)
            )
            if not np.array_equal(output.T, tokens):
                return  # this checkpoint's output layer has weights of its own
            proto.graph.initializer.remove(weights[node.input[1]])
            proto.graph.node.insert(
                index, onnx.helper.make_node("Transpose", [embedding], [node.input[1]], perm=[1, 0])
            )
            return


SMALL = 1024  # bytes below which a constant stays in its graph
ALIGNMENT = 64  # bytes


def save_graph(proto: onnx.ModelProto, path: Path, large: bool) -> None:
    """Write a graph, its weights in `path`_data where they are too `large` for one protobuf."""
    onnx.save_model(proto, path, save_as_external_data=large, location=f"{path.name}_data")
    if large:
        # onnx makes it readable for its owner alone
        path.with_name(f"{path.name}_data").chmod(path.stat().st_mode)


def share_weights(graphs: Sequence[Path], data: Path) -> None:
    """Move the constants of `graphs` into the one file `data` beside them, equal ones once.
    Runtimes find them through the graphs.
    """
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


def _stored_outside(
    tensor: onnx.TensorProto, raw: bytes, location: str, offset: int, length: int
) -> onnx.TensorProto:
    """The tensor with a reference instead of its values."""
    outside = onnx.TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=raw
    )
    set_external_data(outside, location, offset=offset, length=length)
    outside.ClearField("raw_data")
    return outside
