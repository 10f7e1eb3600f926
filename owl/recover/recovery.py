"""Training what pruning kept: a run's pruned model, its dense teacher and its calibration clips →
the recovered model and what it cost.

`owl.recover.blockwise` and `owl.recover.distill` train; here are which clips they see, what is
measured before and after, and how a run asks for it. Every eighth calibration clip is held out of
the training: it chooses the best weights and says what recovery was worth. (Pruning itself counts
it in its statistics, so the number before recovery is, if anything, flattered.) Evaluation clips
are never seen.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from owl.config.load import Config
from owl.errors import DataError
from owl.model.whisper import Block, blocks, window_samples
from owl.prune import calibration
from owl.prune.calibration_text import Labels
from owl.recover import blockwise, distill, training
from owl.recover.distill import Target
from owl.recover.examples import Example, batches_per_pass
from owl.run import cache
from owl.run.files import whole_folder
from owl.run.record import Run

HELD_OUT_EVERY = 8  # one calibration clip in so many


@dataclass(frozen=True)
class Lessons:
    """The calibration clips as recovery uses them: `learned` to train on, `held_out` to choose by,
    with the teacher's answers to it.
    """

    learned: Labels
    held_out: Labels
    answers: list[Target]


def lessons_of(config: Config, teacher, processor, labels: Labels) -> Lessons | None:
    """What recovery of any round needs of the dense model; None where the config asks for no
    recovery. DataError for fewer than two clips.
    """
    if config.pruning.recovery.method == "none":
        return None
    if len(labels.clips) < 2:
        raise DataError(
            "recovery needs at least 2 calibration clips, one of them held out; raise "
            "pruning.calibration.samples"
        )
    learned, held_out = labels.hold_out(HELD_OUT_EVERY)
    examples, size = _examples(held_out, processor), config.pruning.recovery.batch_size
    return Lessons(
        learned,
        held_out,
        distill.lessons(teacher, processor, examples, language=labels.language, batch_size=size),
    )


def recover(
    run: Run,
    lessons: Lessons | None,
    student,
    teacher,
    processor,
    every: Sequence[Block],
    number: int = 1,
    *,
    sparsity: float,
) -> dict:
    """Train the model that round `number` pruned, in place (blocks `every`, with their targeted
    linears), and say what came of it.

    Training is in float32 whatever the model's precision. Before the last round it is
    `pruning_frequency` passes long. Returns {"round", "method", "sparsity", "steps", "seconds",
    "held_out_kl_before", "held_out_kl_after", "curve", "blocks"}: `curve` rows {"step", "minutes",
    "kl"} in nats per token, `blocks` the errors of blockwise recovery. Without lessons nothing is
    done: steps is 0.
    """
    row = {
        "round": number,
        "method": run.config.pruning.recovery.method,
        "sparsity": sparsity,
        "steps": 0,
        "seconds": 0.0,
        "curve": [],
        "blocks": [],
    }
    if lessons is None:
        return row | {"held_out_kl_before": None, "held_out_kl_after": None}
    precision = next(student.parameters()).dtype
    student.float()
    method = _blockwise if run.config.pruning.recovery.method == "blockwise" else _distill
    row |= method(run, lessons, student, teacher, processor, every, number)
    student.to(precision)
    return row | {"held_out_kl_after": distill.divergence(student, lessons.answers)}


def summary(lessons: Lessons | None, rounds: Sequence[dict]) -> dict:
    """All rounds of a run in one entry of `pruning.json`; the KL before is that of the last round's
    pruning, one-shot if it is the only one.
    """
    last = rounds[-1]
    return {
        "method": last["method"],
        "minutes": sum(row["seconds"] for row in rounds) / 60,
        "steps": sum(row["steps"] for row in rounds),
        "held_out_kl_before": last["held_out_kl_before"],
        "held_out_kl_after": last["held_out_kl_after"],
        "clips": len(lessons.learned.clips) if lessons else 0,
        "held_out_clips": len(lessons.held_out.clips) if lessons else 0,
        "rounds": list(rounds),
    }


def curve(rounds: Sequence[dict]) -> pd.DataFrame:
    """The held-out KL of all rounds on one clock of training minutes: round, minutes, kl, and kept
    (the round's result).
    """
    rows, spent = [], 0.0
    for one in rounds:
        told = {"round": one["round"], "kept": one["held_out_kl_after"]}
        rows += [
            told | {"minutes": spent + point["minutes"], "kl": point["kl"]}
            for point in one["curve"]
        ]
        spent += one["seconds"] / 60
    return pd.DataFrame(rows, columns=["round", "minutes", "kl", "kept"])


def sentence(result: dict) -> str:
    """What `summary` came to, for a reader."""
    if result["method"] == "none":
        return "No recovery: this is the one-shot model."
    return (
        f"Recovery by {result['method']} trained for {result['minutes']:.1f} minutes "
        f"({result['steps']} steps on {result['clips']} calibration clips); "
        f"the divergence on {result['held_out_clips']} held-out calibration clips went from "
        f"{result['held_out_kl_before']:.4f} (pruned) "
        f"to {result['held_out_kl_after']:.4f} (recovered) nats per token."
    )


def keep_round(run: Run, model, processor, number: int) -> None:
    """Save the model to `runs/<run>/checkpoints/round-<number>`, if the config asks for it."""
    if run.config.output.save_pruned_checkpoints:
        with whole_folder(run.folder / "checkpoints" / f"round-{number}") as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)


def _blockwise(
    run: Run, lessons: Lessons, student, teacher, processor, every: Sequence[Block], number: int
) -> dict:
    settings = run.config.pruning
    passes = (
        settings.recovery.epochs
        if number == settings.schedule.iterations
        else settings.schedule.frequency
    )
    return _by_block(
        run,
        lessons,
        student,
        teacher,
        processor,
        every,
        passes,
        settings.recovery.learning_rate or blockwise.RATE,
    )


def _by_block(
    run: Run,
    lessons: Lessons,
    student,
    teacher,
    processor,
    every: Sequence[Block],
    epochs: int,
    rate: float,
) -> dict:
    batches = [
        _batches(run.config, student, processor, labels)
        for labels in (lessons.learned, lessons.held_out)
    ]
    options = {"epochs": epochs, "rate": rate, "seed": run.config.pruning.calibration.seed}
    steps, seconds, rows = 0, 0.0, []
    curve = [{"step": 0, "minutes": 0.0, "kl": distill.divergence(student, lessons.answers)}]
    for block in blockwise.recover_blocks(
        student, teacher, every, blocks(teacher), *batches, **options
    ):
        steps, seconds = steps + block.steps, seconds + block.seconds
        curve.append(
            {
                "step": steps,
                "minutes": seconds / 60,
                "kl": distill.divergence(student, lessons.answers),
            }
        )
        rows.append(asdict(block))
    return {
        "steps": steps,
        "seconds": seconds,
        "held_out_kl_before": curve[0]["kl"],
        "curve": curve,
        "blocks": rows,
    }


def _distill(
    run: Run, lessons: Lessons, student, teacher, processor, every: Sequence[Block], number: int
) -> dict:
    """In the last round blockwise first: it does most of the repair in a fraction of the time; its
    result is dropped where it raises the KL.
    """
    settings, examples = run.config.pruning, _examples(lessons.learned, processor)
    steps, first = settings.recovery.steps, None
    if number < settings.schedule.iterations:
        steps = settings.schedule.frequency * batches_per_pass(
            len(examples), settings.recovery.batch_size
        )
    else:
        pruned = training.snapshot(training.trainable(every))
        first = _by_block(
            run,
            lessons,
            student,
            teacher,
            processor,
            every,
            settings.recovery.epochs,
            blockwise.RATE,
        )
        if first["curve"][-1]["kl"] > first["held_out_kl_before"]:
            training.restore(training.trainable(every), pruned)
    course = distill.distill(
        student,
        teacher,
        processor,
        every,
        examples,
        lessons.answers,
        language=lessons.learned.language,
        rate=settings.recovery.learning_rate or distill.RATE,
        batch_size=settings.recovery.batch_size,
        seed=settings.calibration.seed,
        minutes=settings.recovery.minutes,
        steps=steps,
        state_file=run.folder / "recovery" / f"round-{number}.pt",
        key=cache.key(student, [], run.config.digest(), "owl.recover.recovery"),
    )
    second = {
        "steps": course.steps,
        "seconds": course.seconds,
        "held_out_kl_before": course.kl_before,
        "curve": course.curve,
    }
    return _joined(first, second) if first else second


def _joined(first: dict, second: dict) -> dict:
    """Two trainings in a row as one, on one clock."""
    steps, minutes = first["steps"], first["seconds"] / 60
    later = [
        {"step": steps + row["step"], "minutes": minutes + row["minutes"], "kl": row["kl"]}
        for row in second["curve"]
    ]
    sums = {name: first[name] + second[name] for name in ("steps", "seconds")}
    return first | sums | {"curve": [*first["curve"], *later]}


def _examples(labels: Labels, processor) -> list[Example]:
    limit = window_samples(processor)
    return [
        Example(clip.audio[:limit], tokens) for clip, tokens in zip(labels.clips, labels.tokens)
    ]


def _batches(config: Config, student, processor, labels: Labels) -> list[calibration.Batch]:
    settings = config.pruning
    return calibration.prepare(
        student,
        processor,
        labels.clips,
        labels.tokens,
        language=labels.language,
        padding=settings.calibration.padding,
        batch_size=settings.recovery.batch_size,
    )
