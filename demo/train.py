"""Train the demo Whisper from scratch on two CPU cores: cross-entropy plus an auxiliary CTC loss on
the encoder.

With cross-entropy alone the decoder ignores the audio for thousands of steps; a CTC loss on the
encoder output, through a linear head that is thrown away, makes the two align. Most batches see a
window cropped to their longest clip (Whisper's encoder positions are sinusoids, so a prefix of them
is a shorter window); some see the full 30 s, and late in the first of two cosine cycles many do.
Deterministic by seed (the batch of step n depends on seed and n alone), checkpointed, and resumed
where it stopped.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput

from demo.model import TEXT_TOKENS
from demo.speech import RATE, Clip, through_opus
from owl.run.files import whole_file

FULL_WINDOW = 3000  # mel frames in 30 s
OPUS_EVERY = 6  # one training clip in six is heard through the codec of the shipped clips


class Example(NamedTuple):
    """`features` (80, frames) float16 log-mel without window padding, `floor` the value that pads
    it, `tokens` the text's token ids.
    """

    features: torch.Tensor
    floor: float
    tokens: list[int]


class Schedule(NamedTuple):
    """How long and how fast: steps, clips a step, peak learning rate, and the share of steps that
    is for alignment or for 30 s.
    """

    steps: int = 11_000
    batch: int = 16
    full_window_batch: int = 6
    peak: float = 1.2e-3
    warmup: int = 400
    align_share: float = 0.25  # first share of the steps: 0.3 CE + 1.5 CTC; after it CE + 0.3 CTC
    full_window_chance: float = 0.05  # of a step to see the full window
    final_share: float = 0.12  # last share of the first cycle's steps
    final_full_window_chance: float = 0.35
    second_steps: int = 1600  # a second, lower cosine cycle after `steps`
    second_peak: float = 4e-4


def prepare(clips: list[Clip], processor: WhisperProcessor) -> list[Example]:
    """Log-mel features and token ids of every clip."""
    examples = []
    for index, clip in enumerate(tqdm(clips, desc="features", unit="clip")):
        audio = through_opus(clip.audio) if index % OPUS_EVERY == 0 else clip.audio
        features = processor.feature_extractor(
            np.pad(audio, (0, 800)),
            sampling_rate=RATE,
            padding="longest",
            truncation=False,
            return_tensors="pt",
        ).input_features[0]
        # the extractor clamps 8 decades below the maximum, then divides by 4
        floor = features.max().item() - 2.0
        tokens = processor.tokenizer(clip.text, add_special_tokens=False).input_ids
        examples.append(Example(features.half(), floor, tokens))
    return examples


def train(
    model: WhisperForConditionalGeneration,
    examples: list[Example],
    folder: Path,
    seed: int,
    schedule: Schedule = Schedule(),
) -> None:
    """Train `model` in place; a file in `folder` holds the state every 500 steps and is resumed by
    the same seed, schedule and texts only.
    """
    head = nn.Linear(model.config.d_model, TEXT_TOKENS + 1)  # the last class is CTC's blank
    parameters = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=schedule.peak, betas=(0.9, 0.98), weight_decay=0.01
    )
    asked = fingerprint(
        seed,
        schedule,
        [example.tokens for example in examples],
        [example.floor for example in examples],
    )
    checkpoint, first = folder / f"training-{asked}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        (
            model.load_state_dict(state["model"]),
            head.load_state_dict(state["head"]),
            optimiser.load_state_dict(state["optimiser"]),
        )
        first = state["step"]
    model.train()
    total = schedule.steps + schedule.second_steps
    bar = tqdm(
        range(first, total), desc="training", unit="step", initial=first, total=total, mininterval=5
    )
    for step in bar:
        full = np.random.default_rng((seed, step)).random() < _full_window_chance(step, schedule)
        batch = _batch(examples, step, seed, schedule.full_window_batch if full else schedule.batch)
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(step, schedule)
        cross_entropy, ctc = _losses(
            model, head, batch, full, np.random.default_rng((seed, step, 1))
        )
        aligning = step < schedule.align_share * schedule.steps
        loss = 0.3 * cross_entropy + 1.5 * ctc if aligning else cross_entropy + 0.3 * ctc
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 50 == 0:
            bar.set_postfix(ce=f"{cross_entropy.item():.3f}", ctc=f"{ctc.item():.3f}")
        if (step + 1) % 500 == 0 or step + 1 == total:
            state = {
                "model": model.state_dict(),
                "head": head.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
            }
            with whole_file(checkpoint) as path:
                torch.save(state, path)
    model.eval()


def fingerprint(*facts) -> str:
    """Eight hex digits of what a file in the work folder was made for."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def _learning_rate(step: int, schedule: Schedule) -> float:
    if step < schedule.steps:
        peak, done = schedule.peak * min(1.0, (step + 1) / schedule.warmup), step / schedule.steps
    else:
        peak, done = schedule.second_peak, (step - schedule.steps) / schedule.second_steps
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _full_window_chance(step: int, schedule: Schedule) -> float:
    final = (1 - schedule.final_share) * schedule.steps <= step < schedule.steps
    return schedule.final_full_window_chance if final else schedule.full_window_chance


def _batch(examples: list[Example], step: int, seed: int, size: int) -> list[Example]:
    """A random clip and its neighbours in length, so that little of a batch is padding. `examples`
    are sorted by length.
    """
    draw = np.random.default_rng((seed, step, 2))
    pool = np.sort(draw.choice(len(examples), size=min(len(examples), 40 * size), replace=False))
    start = draw.integers(0, len(pool) - size + 1)
    return [examples[index] for index in pool[start : start + size]]


def _losses(
    model, head, batch: list[Example], full: bool, draw: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the decoder (label smoothing 0.05) and CTC of the encoder, both per
    token.
    """
    longest = max(example.features.shape[1] for example in batch)
    window = (
        FULL_WINDOW
        if full
        else min(FULL_WINDOW, int(longest * draw.uniform(1.0, 1.4))) // 2 * 2 + 2
    )
    features = torch.stack([_pad(example, min(window, FULL_WINDOW)) for example in batch])
    prompt = [model.config.decoder_start_token_id, model.generation_config.no_timestamps_token_id]
    end = model.config.eos_token_id
    width = max(len(example.tokens) for example in batch)
    inputs = torch.tensor(
        [prompt + example.tokens + [end] * (width - len(example.tokens)) for example in batch]
    )
    labels = torch.tensor(
        [
            [-100] + example.tokens + [end] + [-100] * (width - len(example.tokens))
            for example in batch
        ]
    )
    states = encode(model, features)
    logits = model(encoder_outputs=BaseModelOutput(states), decoder_input_ids=inputs).logits
    frames = head(states)
    cross_entropy = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.05
    )
    lengths = torch.tensor([len(example.tokens) for example in batch])
    valid = torch.tensor(
        [min(frames.shape[1], -(-example.features.shape[1] // 2)) for example in batch]
    )
    targets = torch.tensor([token for example in batch for token in example.tokens])
    ctc = F.ctc_loss(
        frames.log_softmax(-1).transpose(0, 1),
        targets,
        valid,
        lengths,
        blank=TEXT_TOKENS,
        zero_infinity=True,
    )
    return cross_entropy, ctc


def _pad(example: Example, window: int) -> torch.Tensor:
    features = example.features[:, :window].float()
    return F.pad(features, (0, window - features.shape[1]), value=example.floor)


def encode(model: WhisperForConditionalGeneration, features: torch.Tensor) -> torch.Tensor:
    """The encoder on a window of any even length: (clips, 80, frames) → (clips, frames / 2, d). The
    stock forward refuses short ones.
    """
    encoder = model.model.encoder
    states = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2)
    states = states + encoder.embed_positions.weight[: states.shape[1]]
    for layer in encoder.layers:
        states = layer(states, None)
    return encoder.layer_norm(states)
