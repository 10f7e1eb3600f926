"""Exported folders against the model in memory: the same tensors, logits and zeros after a round
trip through the disk.

Only behaviour: the card, what else lies in the folder, refusals. ONNX has its own file.
"""

import json

import pytest
import torch

import owl
from owl.errors import ModelError
from owl.export import formats, huggingface
from owl.model import whisper
from owl.model.whisper import Whisper
from tests.conftest import ROOT

ONE_ROW = [{"dataset": "demo", "clips": 3, "words": 20, "dense": 0.02, "pruned": 0.0525}]
FACTS = dict(
    source="SparseGPT",
    targets=["encoder.layers"],
    sparsity_prunable=0.5,
    sparsity_model=0.4,
    results=ONE_ROW,
)
CARD = huggingface.model_card(base="models/demo", recipe="Pruned", **FACTS)


def test_the_card_says_whether_kept_weights_were_trained():
    recovered = huggingface.model_card(base="m", recipe="Pruned", **FACTS, recovered=True)
    assert "WER pruned" in CARD and "convolutions and norms are untouched" in CARD
    assert (
        "WER recovered" in recovered
        and "WER pruned" not in recovered
        and "norms were trained" in recovered
    )


def test_the_card_says_what_loops():
    loops = "2 of 3 clips loop and end there; 7 of 9 insertions are theirs."
    one = FACTS | {"results": [ONE_ROW[0] | {"broken": loops}]}
    assert f"\n\nOn demo: {loops}\n\n" in huggingface.model_card(base="m", recipe="P", **one)
    assert "\n\nOn demo" not in CARD and " |\n\n`metrics.json`" in CARD


def test_the_card_of_a_smaller_model_claims_no_zeros_and_loads_with_what_can_load_it():
    card = huggingface.model_card(base="m", recipe="Pruned", **FACTS, smaller=True, stock=False)
    assert (
        "are gone" in card
        and "zeros" not in card
        and "owl.load" in card
        and "from transformers" not in card
    )
    assert "the linears of encoder.layers" in card and "Method: SparseGPT." in card
    assert "zeros are stored as zeros" in CARD and "from_pretrained" in CARD


@pytest.fixture(scope="module")
def pruned():
    model, processor = whisper.load(str(ROOT / "models" / "demo"))
    with torch.no_grad():
        for block in whisper.blocks(model):
            for linear in block.linears:
                linear.module.weight[:, ::2] = 0
    return Whisper(model, processor)


@pytest.fixture(scope="module")
def folder(pruned, tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "hf"
    huggingface.save_hf(
        pruned,
        target,
        dtype=torch.float16,
        metadata={"recovery": "none"},
        metrics={"datasets": []},
        card=CARD,
    )
    return target


def test_a_plain_transformers_user_gets_the_same_logits(pruned, folder):
    from transformers import WhisperForConditionalGeneration

    loaded = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    features, tokens = torch.randn(1, 80, 3000), torch.tensor([[600, 601, 5, 6]])
    with torch.no_grad():  # the demo's weights were float16 to begin with, so nothing is rounded
        assert torch.equal(
            loaded(features, decoder_input_ids=tokens).logits,
            pruned[0](features, decoder_input_ids=tokens).logits,
        )


def test_owl_load_gives_model_and_processor(pruned, folder):
    model, processor = owl.load(folder)
    assert all(
        torch.equal(tensor, model.state_dict()[name])
        for name, tensor in pruned[0].state_dict().items()
    )
    assert processor.tokenizer.get_vocab() == pruned[1].tokenizer.get_vocab()


def test_owl_load_refuses_a_folder_without_weights(tmp_path):
    with pytest.raises(ModelError, match="cannot load the model"):
        owl.load(tmp_path)


def test_zeros_on_disk_are_the_zeros_in_memory(pruned, folder):
    assert formats.same_zeros(folder, pruned[0])
    names = ["model.encoder.layers.0.fc1.weight"]
    assert huggingface.zeros_on_disk(folder, names) == {
        names[0]: pruned[0].model.encoder.layers[0].fc1.weight.numel() // 2
    }
    dense, _ = whisper.load(str(ROOT / "models" / "demo"))
    assert not formats.same_zeros(folder, dense)


def test_the_weights_are_stored_in_the_asked_precision_and_the_model_stays_as_it_is(pruned, folder):
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert (folder / "model.safetensors").stat().st_size < 1.05 * formats.dense_bytes(pruned[0])
    assert (
        next(pruned[0].parameters()).dtype == torch.float32
        and pruned[0].config.dtype != torch.float16
    )


def test_the_folder_holds_what_other_runtimes_and_readers_look_for(folder):
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    assert names >= {"pruning_metadata.json", "metrics.json", "README.md"}


def test_the_card_states_the_measured_numbers():
    assert "| demo | 3 | 20 | 2.00% | 5.25% |" in CARD
    assert "50.0% of the prunable weights" in CARD and "40.0% of\nthe whole model" in CARD
    assert "base_model: models/demo" in CARD and "SparseGPT" in CARD
