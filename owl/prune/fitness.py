"""How far a changed Whisper's next-token predictions are from the dense one's, on a few clips,
without running what did not change.

Teacher-forced: the decoder reads prompt + text; KL(dense ‖ changed) in nats per token, over every
position that predicts text or its end.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from owl.kernels.teacher_forcing import kl_terms
from owl.model.whisper import Block, finish_decoder, finish_encoder, run_block
from owl.prune.calibration import Batch


class Fitness:
    """Clips with the dense model's predictions for them. `batches` come from
    `owl.prune.calibration.prepare` on the dense model.

    `advance` follows a walk over the dense blocks, so that `divergence_from` needs to run only the
    changed block and those after it.
    """

    def __init__(self, model, every: Sequence[Block], batches: Sequence[Batch], prompt: int):
        self.model, self.every, self.prompt = model, list(every), prompt
        self.states = [(batch.audio, batch.text) for batch in batches]
        self.rows = [batch.text_rows[:, prompt - 1 :] for batch in batches]
        self.first = list(self.states)
        self.encoded = [self._encode(audio, 0) for audio, _ in self.states]
        self.dense = self._decoded(self.encoded, self.states, self._decoder_start)

    @property
    def _decoder_start(self) -> int:
        return sum(not block.in_decoder for block in self.every)

    def encode(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Encoder outputs per batch with these weights (by linear name) in place of the model's
        own.
        """
        with self._replaced(weights):
            return [self._encode(audio, 0) for audio, _ in self.first]

    def divergence(
        self, weights: Mapping[str, Tensor], encoded: Sequence[Tensor] | None = None
    ) -> float:
        """With these weights in place of the model's own, for the whole model; `encoded`: what
        `encode` made of them, if it did.
        """
        encoded = self.encode(weights) if encoded is None else encoded
        with self._replaced(weights):
            return self._mean_divergence(self._decoded(encoded, self.first, self._decoder_start))

    def divergence_from(self, block: Block, weights: Mapping[str, Tensor]) -> float:
        """The same when only linears of `block`, at which `advance` has arrived, are replaced."""
        index = [one.name for one in self.every].index(block.name)
        with self._replaced(weights):
            encoded = self.encoded
            if not block.in_decoder:
                encoded = [self._encode(audio, index) for audio, _ in self.states]
            start = max(index, self._decoder_start)
            return self._mean_divergence(self._decoded(encoded, self.states, start))

    @torch.inference_mode()
    def advance(self, block: Block) -> None:
        """Go on past `block` with the dense model's own states."""
        if block.in_decoder:
            self.states = [
                (audio, run_block(block, text, encoded))
                for (audio, text), encoded in zip(self.states, self.encoded)
            ]
        else:
            self.states = [(run_block(block, audio), text) for audio, text in self.states]

    @torch.inference_mode()
    def _encode(self, audio: Tensor, start: int) -> Tensor:
        for block in self.every[start : self._decoder_start]:
            audio = run_block(block, audio)
        return finish_encoder(self.model, audio)

    @torch.inference_mode()
    def _decoded(self, encoded: Sequence[Tensor], states: Sequence, start: int) -> list[Tensor]:
        """Log probabilities (clips, positions from the prompt's last, vocabulary) per batch, from
        the text states before the block at `start`.
        """
        logs = []
        for audio, (_, text) in zip(encoded, states):
            for block in self.every[start:]:
                text = run_block(block, text, audio)
            logits = finish_decoder(self.model, text[:, self.prompt - 1 :])
            logs.append(logits.float().log_softmax(-1))
        return logs

    def _mean_divergence(self, logs: Sequence[Tensor]) -> float:
        total = count = 0.0
        for dense, changed, rows in zip(self.dense, logs, self.rows):
            total += kl_terms(dense, changed).sum(-1)[rows].double().sum().item()
            count += rows.sum().item()
        return total / count

    @contextmanager
    def _replaced(self, weights: Mapping[str, Tensor]):
        modules = {
            linear.name: linear.module
            for block in self.every
            for linear in block.linears
            if linear.name in weights
        }
        kept = {name: module.weight.data for name, module in modules.items()}
        for name, module in modules.items():
            module.weight.data = weights[name]
        try:
            yield
        finally:
            for name, module in modules.items():
                module.weight.data = kept[name]
