"""The allocation `fisher`: what each weight's loss would do to the model's predictions, to second
order, from one forward and one backward pass over a few calibration windows.

Near the dense model the divergence of the predictions is half a quadratic form with the Fisher
information, so removing weight W_ij costs about W_ij² · E[x_j²] · E[Σ g_i²]: x the inputs of its
linear, g the gradients at its outputs of −log p of tokens drawn from the model's own predictions.
That is optimal brain damage (LeCun et al., 1989) with the Fisher as the curvature and its two
factors taken as independent (K-FAC, arXiv 1503.05671). All weights compete; a linear's share of the
losers is its sparsity. Which of its weights go is still the solver's business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from owl.config.load import Config
from owl.kernels.allocation import by_saliency
from owl.model.whisper import (
    Block,
    Whisper,
    finish_decoder,
    finish_encoder,
    frozen,
    prompt_tokens,
    run_block,
)
from owl.prune.calibration import Batch
from owl.prune.calibration_text import Labels, calibration_batches

CLIPS = 16  # calibration clips, some three minutes of speech


@dataclass
class Sensitivity:
    """Of one linear: `inputs` (in,) summed squares over `rows` token rows, `gradients` (out,)
    summed squares.
    """

    inputs: Tensor | float = 0.0
    rows: int = 0
    gradients: Tensor | float = 0.0

    def saliency(self, weight: Tensor) -> Tensor:
        """What the loss of each weight (out, in) costs, in nats summed over the windows."""
        return weight.square() * (self.inputs / self.rows) * self.gradients[:, None] / 2


def allocate(
    config: Config, asr: Whisper, every: Sequence[Block], labels: Labels
) -> dict[str, float]:
    """Sparsity by linear name at the config's target."""
    chosen = labels.pick(range(min(CLIPS, len(labels.clips))))
    batches = calibration_batches(config, asr, chosen, batch_size=1)
    seen = sensitivities(
        asr, every, batches, len(prompt_tokens(asr.model, labels.language)),
        config.pruning.calibration.seed,
    )  # fmt: skip
    linears = [linear for block in every for linear in block.linears]
    saliencies = (
        seen[linear.name].saliency(linear.module.weight.detach().float()) for linear in linears
    )
    shares = by_saliency(saliencies, config.pruning.sparsity)
    return {linear.name: share for linear, share in zip(linears, shares)}


def sensitivities(
    asr: Whisper, every: Sequence[Block], batches: Sequence[Batch], prompt: int, seed: int
) -> Mapping[str, Sensitivity]:
    """By linear name, of the model as it is; `prompt` tokens come before the text, `seed` draws the
    tokens.
    """
    seen = {linear.name: Sensitivity() for block in every for linear in block.linears}
    draw = torch.Generator().manual_seed(seed)
    with frozen(asr.model):
        for prepared in tqdm(batches, desc="sensitivity", unit="window"):
            # autograd takes no tensors of inference mode
            batch = Batch(*(tensor.clone() for tensor in vars(prepared).values()))
            hooks = [
                linear.module.register_forward_hook(_listener(seen[linear.name], rows))
                for block in every
                for linear in block.linears
                for rows in [batch.audio_rows if linear.sees_audio else batch.text_rows]
            ]
            try:
                logits = _logits(asr.model, every, batch)[:, prompt - 1 :]
                logs = logits[batch.text_rows[:, prompt - 1 :]].float().log_softmax(-1)
                said = torch.multinomial(logs.detach().exp().cpu(), 1, generator=draw)
                (-logs.gather(1, said.to(logs.device)).sum()).backward()
            finally:
                for hook in hooks:
                    hook.remove()
    return seen


def _listener(seen: Sensitivity, rows: Tensor):
    def listen(module, inputs, output: Tensor) -> None:
        heard = inputs[0].detach()[rows].float()
        seen.inputs, seen.rows = seen.inputs + heard.square().sum(0), seen.rows + len(heard)
        output.register_hook(learn)

    def learn(gradient: Tensor) -> None:
        seen.gradients = seen.gradients + gradient[rows].float().square().sum(0)

    return listen


def _logits(model, every: Sequence[Block], batch: Batch) -> Tensor:
    """Of all text positions, with gradients down to the first block."""
    audio, text = batch.audio.requires_grad_(), batch.text.requires_grad_()
    for block in every:
        if not block.in_decoder:
            audio = run_block(block, audio)
    audio = finish_encoder(model, audio)
    for block in every:
        if block.in_decoder:
            text = run_block(block, text, audio)
    return finish_decoder(model, text)
