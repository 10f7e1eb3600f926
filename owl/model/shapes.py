"""Blocks of unequal width: what can be made smaller in a Whisper layer, doing it, and how a saved
model remembers it.

With `owl.model.whisper` the file that knows a layer's layout. Stock transformers builds every layer
of a stack alike, from `encoder_ffn_dim` and the like, and always all heads (head_dim = d / heads).
Where that suffices the config says it; where not, `remember` adds the widths to the config as
`owl_shapes`, which `save_pretrained` keeps and `ShapedWhisper` reads. A plain transformers user
then gets its error about mismatched sizes, never a wrong model.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from owl.kernels.structured import columns_of
from owl.model import lowrank

STACKS = ("encoder", "decoder")


@dataclass(frozen=True)
class Part:
    """A part of a layer that can lose groups: `rows` are the linears that lose outputs, `columns`
    the one that loses the inputs they feed.

    A group is one feed-forward neuron, or one attention head of `size` = head_dim consecutive rows.
    """

    name: str  # "self_attn", "encoder_attn", "ffn"
    owner: nn.Module
    rows: tuple[str, ...]
    columns: str
    size: int

    @property
    def structure(self) -> str:
        return "neurons" if self.name == "ffn" else "heads"

    @property
    def linears(self) -> list[nn.Linear]:
        return [getattr(self.owner, name) for name in (*self.rows, self.columns)]

    @property
    def output(self) -> nn.Linear:
        """The linear that loses inputs: fc2, out_proj."""
        return getattr(self.owner, self.columns)

    @property
    def path(self) -> str:
        """That linear's name in the layer: "fc2", "self_attn.out_proj"."""
        return self.columns if self.name == "ffn" else f"{self.name}.{self.columns}"

    @property
    def width(self) -> int:
        """Neurons or heads."""
        return self.output.in_features // self.size

    @property
    def group_weights(self) -> int:
        """Weights that go with one group, biases not counted."""
        return sum(linear.weight.numel() for linear in self.linears) // self.width

    def keep(self, groups: Tensor) -> None:
        """Replace the linears by smaller ones with only `groups` (indices, ascending); their
        weights are copied, not refit.
        """
        index = columns_of(groups, self.size)
        for name in self.rows:
            old = getattr(self.owner, name)
            self._replace(name, old.weight[index], None if old.bias is None else old.bias[index])
        self._replace(self.columns, self.output.weight[:, index], self.output.bias)
        if self.structure == "heads":
            self.owner.num_heads = self.width

    def resize(self, width: int) -> None:
        """Linears for `width` groups, values undefined: a checkpoint is about to fill them."""
        if not 1 <= width <= self.width:
            wanted = f"{self.name} is to have {width} {self.structure}"
            raise ValueError(
                f"owl_shapes in config.json: {wanted}, but 1 to {self.width} are possible"
            )
        self.keep(torch.arange(width, device=self.output.weight.device))

    def _replace(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        smaller = nn.Linear(*weight.shape[::-1], bias=bias is not None, device="meta")
        smaller.weight = nn.Parameter(weight.detach().clone())
        smaller.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        setattr(self.owner, name, smaller.train(self.owner.training))


def parts(layer: nn.Module) -> list[Part]:
    """What can lose groups in an encoder or decoder layer: its attentions, then its feed-forward
    part.
    """
    attentions = [
        (name, getattr(layer, name))
        for name in ("self_attn", "encoder_attn")
        if hasattr(layer, name)
    ]
    heads = [
        Part(name, module, ("q_proj", "k_proj", "v_proj"), "out_proj", module.head_dim)
        for name, module in attentions
    ]
    return [*heads, Part("ffn", layer, ("fc1",), "fc2", 1)]


def silence(layer: nn.Module) -> None:
    """Make a layer return its input: every part adds zero to the residual stream."""
    with torch.no_grad():
        for part in parts(layer):
            part.output.weight.zero_()
            part.output.bias.zero_()


def drop_layers(model: WhisperForConditionalGeneration, names: Collection[str]) -> None:
    """Take whole layers ("encoder.3") out of the model; the KV cache of the decoder's others is
    numbered anew.
    """
    for stack in STACKS:
        part = getattr(model.model, stack)
        part.layers = nn.ModuleList(
            layer for index, layer in enumerate(part.layers) if f"{stack}.{index}" not in names
        )
    for index, layer in enumerate(model.model.decoder.layers):
        layer.self_attn.layer_idx = layer.encoder_attn.layer_idx = index


def align(model: WhisperForConditionalGeneration, kept: Mapping[str, Sequence[int]]) -> None:
    """Renumber the (layer, head) pairs whose cross-attention times words: `kept` cross-attention
    heads by decoder block, [] for a block that is about to be dropped, absent: all. Without any
    pair left the setting goes, and asking for word times is an error, not a wrong answer."""
    pairs = getattr(model.generation_config, "alignment_heads", None)
    if not pairs:
        return
    numbers = [
        index
        for index in range(len(model.model.decoder.layers))
        if kept.get(f"decoder.{index}") != []
    ]
    heads = {
        index: kept.get(f"decoder.{index}", range(model.config.decoder_attention_heads))
        for index in numbers
    }
    found = [
        [numbers.index(layer), list(heads[layer]).index(head)]
        for layer, head in pairs
        if layer in heads and head in heads[layer]
    ]
    if found:
        model.generation_config.alignment_heads = found
    else:
        del model.generation_config.alignment_heads


def widths(model: WhisperForConditionalGeneration) -> dict[str, list[dict[str, int]]]:
    """{"encoder": [{"self_attn": heads, "ffn": neurons}, …], "decoder": […]}, one entry per
    layer.
    """
    return {
        stack: [
            {part.name: part.width for part in parts(layer)}
            for layer in getattr(model.model, stack).layers
        ]
        for stack in STACKS
    }


def remember(model: WhisperForConditionalGeneration) -> None:
    """Write the model's depths and widths into its config: as stock keys where these suffice, else
    as `owl_shapes`.
    """
    config, shapes = model.config, widths(model)
    config.owl_shapes, stock = shapes, []
    for stack, layers in shapes.items():
        setattr(config, f"{stack}_layers", len(layers))
        neurons, heads = (
            {one["ffn"] for one in layers},
            {width for one in layers for name, width in one.items() if name != "ffn"},
        )
        if len(neurons) == 1:
            setattr(config, f"{stack}_ffn_dim", *neurons)
        stock += [len(neurons) == 1, heads == {getattr(config, f"{stack}_attention_heads")}]
    if all(stock):
        del config.owl_shapes


def kind_of(config) -> type[WhisperForConditionalGeneration]:
    """The class whose layers have the widths and ranks that a config tells."""
    ours = hasattr(config, "owl_shapes") or hasattr(config, "owl_ranks")
    return ShapedWhisper if ours else WhisperForConditionalGeneration


def is_stock(config) -> bool:
    """Can plain transformers load it?"""
    return kind_of(config) is WhisperForConditionalGeneration


class ShapedWhisper(WhisperForConditionalGeneration):
    """A Whisper whose layers have the widths that its config's `owl_shapes` names, and linears of
    the ranks in its `owl_ranks`. ValueError where these cannot be.
    """

    def __init__(self, config):
        super().__init__(config)
        for stack in STACKS if hasattr(config, "owl_shapes") else ():
            layers, wanted = getattr(self.model, stack).layers, config.owl_shapes.get(stack, [])
            if len(layers) != len(wanted):
                raise ValueError(
                    f"owl_shapes in config.json: {len(wanted)} {stack} layers, but {stack}_layers "
                    f"is {len(layers)}"
                )
            for layer, shape in zip(layers, wanted):
                for part in parts(layer):
                    part.resize(shape.get(part.name, 0))
        lowrank.outline(self, getattr(config, "owl_ranks", {}))
