"""Distillation: the whole pruned model trained to its dense teacher, masks frozen, nothing
labelled.

The teacher reads the same audio and the same text and its distribution over the next token is the
target, so changed audio (clips joined, speed, gain, noise) is as good an example as recorded audio.
The loss is KL(teacher ‖ student) per token plus the relative error of the hidden states after every
block, which reaches each weight more directly (TinyBERT, arXiv 1909.10351).

Where a run reads short windows (`owl.model.windows`) so does the student, and the teacher full
ones: what is pruned and what is cut short are recovered together.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from owl.kernels.teacher_forcing import kl_terms
from owl.model.decoding import encode_silence
from owl.model.whisper import Block, Whisper, teacher_forced
from owl.model.windows import end_of, window_of
from owl.recover import training
from owl.recover.examples import Example, Padded, altered, batches_per_pass, order, pad
from owl.recover.training import Course, Point

# peak learning rate after a blockwise recovery: lowest held-out KL of 1e-4, 2e-4, 5e-4 and 1e-3;
# the last two undo that first
RATE = 2e-4
HIDDEN_WEIGHT = 1.0  # of the mean relative error of a stack's states, beside the KL
STACKS = {"encoder", "decoder"}  # the states that two models of different depth share
FULL_EVERY = 5  # every fifth batch sees the full window, as transcription does
EVALUATIONS = 20  # looks at the held-out clips per training


@dataclass(frozen=True)
class Target:
    """A padded batch and what the teacher makes of it."""

    batch: Padded
    states: dict[str, Tensor]  # as from `owl.model.whisper.teacher_forced`
    logs: Tensor  # (counted positions, vocabulary) log probabilities


def answer(model, batch: Padded, silent: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """(states as from `owl.model.whisper.teacher_forced`, log probabilities (counted positions,
    vocabulary)) of a model on a batch.

    With the model's output for a silent window (`owl.model.decoding.encode_silence`), in a short
    one that holds the batch's longest clip.
    """
    features, behind = batch.features.to(next(model.parameters())), None
    if silent is not None:
        window = window_of(int(batch.frames.sum(1).max()), len(silent))
        features, behind = features[:, :, : 2 * window], end_of(silent, window)
    states, logits = teacher_forced(model, features, batch.tokens, behind)
    return states, logits[batch.counted].float().log_softmax(-1)


@torch.no_grad()
def target(teacher, batch: Padded) -> Target:
    """The dense teacher's answer."""
    return Target(batch, *answer(teacher, batch))


def losses(student, wanted: Target, silence: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(KL summed over the counted tokens, relative error of the hidden states: the encoder's mean
    plus the decoder's mean). With a silent window's features, in short windows.
    """
    batch = wanted.batch
    states, logs = answer(student, batch, encode_silence(student, silence))
    kl = kl_terms(wanted.logs, logs).sum()
    shared = states.keys() if states.keys() == wanted.states.keys() else STACKS
    hidden = torch.zeros((), device=kl.device)
    for stack, rows in (("encoder", batch.frames), ("decoder", batch.counted)):
        names = [name for name in shared if name.startswith(stack)]
        hidden = hidden + sum(
            relative_error(states[name], wanted.states[name], rows) for name in names
        ) / len(names)
    return kl, hidden


def relative_error(states: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
    """‖a − b‖² / ‖b‖² over the `rows` (clips, positions) of two (clips, positions, d), of which
    `states` may end earlier, behind the rows.
    """
    wanted, rows = wanted[rows].float(), rows[:, : states.shape[1]]
    return (states[rows].float() - wanted).square().sum() / wanted.square().sum()


@torch.no_grad()
def divergence(student, held_out: Sequence[Target], silence: Tensor | None = None) -> float:
    """KL(teacher ‖ student) in nats per token; `silence` as for `losses`."""
    silent = encode_silence(student, silence)
    answers = [(wanted.logs, answer(student, wanted.batch, silent)[1]) for wanted in held_out]
    total = sum(kl_terms(logs, own).sum().item() for logs, own in answers)
    return total / sum(len(logs) for logs, _ in answers)


def lessons(
    teacher: Whisper, examples: Sequence[Example], *, language: str | None, batch_size: int
) -> list[Target]:
    """What `divergence` is measured on: the examples as they are, in full windows, with the
    teacher's probabilities (states are not kept).
    """
    parts = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
    padded = [pad(teacher, part, language=language, crop=False) for part in parts]
    return [replace(target(teacher.model, batch), states={}) for batch in padded]


def distill(
    student,
    teacher: Whisper,
    every: Sequence[Block],
    examples: Sequence[Example],
    held_out: Sequence[Target],
    *,
    language: str | None,
    silence: Tensor | None = None,
    rate: float,
    batch_size: int,
    seed: int,
    minutes: float | None = None,
    steps: int | None = None,
    state_file: Path | None = None,
    key: str = "",
    save_every: float = 60.0,
) -> Course:
    """Train the blocks `every` of `student` in place for `steps`, or else `minutes`; the weights of
    the best held-out KL are kept. `silence` as for `losses`.

    With a `state_file` the state is written every `save_every` seconds, resumed by a later call
    with the same `key`, and removed at the end. With `steps` the result depends on nothing but the
    arguments, interrupted or not.
    """
    parameters, pruned = training.trainable(every), training.masks(every)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    state = _resume(state_file, key, parameters, optimiser)
    if state is None:
        state = {"step": 0, "seconds": 0.0, "curve": []}
        _look(state, student, parameters, held_out, silence)
    began, saved = time.monotonic() - state["seconds"], time.monotonic()
    per_epoch = batches_per_pass(len(examples), batch_size)
    lengths = [len(one.audio) for one in examples]
    bar = tqdm(total=steps, initial=state["step"], desc="distill", unit="step")
    while (progress := _progress(state, minutes, steps)) < 1:
        number = state["step"]
        chosen = order(lengths, batch_size, seed, number // per_epoch)[number % per_epoch]
        heard = altered(
            [examples[index] for index in chosen], examples, teacher.processor, seed, number
        )
        wanted = target(
            teacher.model,
            pad(
                teacher._replace(model=student),
                heard,
                language=language,
                crop=number % FULL_EVERY != 0 and silence is None,
            ),
        )
        kl, hidden = losses(student, wanted, silence)
        loss = kl / wanted.batch.counted.sum() + HIDDEN_WEIGHT * hidden
        training.step(optimiser, loss, pruned, training.learning_rate(rate, progress))
        state["step"], state["seconds"] = number + 1, time.monotonic() - began
        bar.update()
        if int(EVALUATIONS * _progress(state, minutes, steps)) > int(EVALUATIONS * progress):
            _look(state, student, parameters, held_out, silence)
            bar.set_postfix(held_out_kl=f"{state['curve'][-1]['kl']:.4f}")
        if state_file and time.monotonic() - saved >= save_every:
            training.save_state(
                state_file,
                key,
                state | {"now": training.snapshot(parameters), "optimiser": optimiser.state_dict()},
            )
            saved = time.monotonic()
    bar.close()
    training.restore(parameters, state["best"])
    if state_file:
        state_file.unlink(missing_ok=True)
    curve = [Point(**row) for row in state["curve"]]
    return Course(state["step"], state["seconds"], curve, min(point.kl for point in curve))


def _progress(state: dict, minutes: float | None, steps: int | None) -> float:
    return state["step"] / steps if steps is not None else state["seconds"] / (60 * minutes)


def _look(
    state: dict,
    student,
    parameters: Sequence[nn.Parameter],
    held_out: Sequence[Target],
    silence: Tensor | None,
) -> None:
    kl = divergence(student, held_out, silence)
    if not state["curve"] or kl < min(row["kl"] for row in state["curve"]):
        state["best"] = training.snapshot(parameters)
    state["curve"].append({"step": state["step"], "minutes": state["seconds"] / 60, "kl": kl})


def _resume(
    path: Path | None,
    key: str,
    parameters: Sequence[nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> dict | None:
    state = training.load_state(path, key) if path else None
    if state is not None:
        training.restore(parameters, state.pop("now"))
        optimiser.load_state_dict(state.pop("optimiser"))
    return state
