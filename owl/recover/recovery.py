"""Training what pruning kept: a run's pruned model, its dense teacher and its calibration clips →
the recovered model and what it cost.

`owl.recover.blockwise`, `distill` and `norms` train; here are which clips they see, what is
measured before and after, and how a run asks for it. Every eighth calibration clip is held out of
the training, as it was of the solvers (allocations and structured pruning see all clips): it
chooses the best weights and says what recovery was worth. Evaluation clips are never seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from owl.errors import DataError
from owl.model.decoding import input_features
from owl.model.whisper import Block, Whisper, blocks, window_samples
from owl.model.windows import SILENCE
from owl.prune.calibration import Batch, prepare
from owl.prune.calibration_text import Labels, calibration_batches
from owl.recover import blockwise, distill, norms, training
from owl.recover.blockwise import RecoveredBlock
from owl.recover.distill import Target
from owl.recover.examples import Example, batches_per_pass
from owl.recover.training import Course, Point
from owl.run import cache
from owl.run.files import whole_folder
from owl.run.record import Run


@dataclass(frozen=True)
class Lessons:
    """What every round of a run's recovery shares: the dense model as `teacher`, and the
    calibration clips, `learned` to train on, `held_out` to choose by, with the teacher's `answers`
    to these where the method asks for probabilities. `silence`: a silent window's features where
    the run reads short windows. No clips where the run asks for no recovery.
    """

    run: Run
    teacher: Whisper
    learned: Labels
    held_out: Labels
    answers: list[Target]
    silence: Tensor | None = None


@dataclass(frozen=True)
class Round:
    """What recovery made of the model that round number `round` pruned to `sparsity`. KL in nats
    per token, None and 0 steps where the run asks for no recovery; `blocks` if blockwise.
    """

    round: int
    method: str
    sparsity: float
    steps: int = 0
    seconds: float = 0.0
    held_out_kl_before: float | None = None
    held_out_kl_after: float | None = None
    curve: Sequence[Point] = ()
    blocks: Sequence[RecoveredBlock] = ()


@dataclass(frozen=True)
class Recovered:
    """All rounds of a run, as `pruning.json` keeps them; the KL before is that of the last round's
    pruning, one-shot if it is the only one.
    """

    method: str
    minutes: float
    steps: int
    held_out_kl_before: float | None
    held_out_kl_after: float | None
    clips: int
    held_out_clips: int
    rounds: Sequence[Round]


def lessons_of(run: Run, teacher: Whisper, labels: Labels) -> Lessons:
    """What recovery of any round needs of the dense model. DataError for fewer than two clips."""
    settings = run.config.pruning
    if settings.recovery.method == "none":
        return Lessons(run, teacher, labels.pick([]), labels.pick([]), [])
    if len(labels.clips) < 2:
        raise DataError(
            "recovery needs at least 2 calibration clips, one of them held out; raise "
            "pruning.calibration.samples"
        )
    learned, held_out = labels.hold_out()
    if settings.recovery.method == "norms":
        return Lessons(run, teacher, learned, held_out, [])
    silence = None
    if run.config.evaluation.window == "speech":
        silence = input_features(teacher, [SILENCE])
        # a batch has one window, which its longest clip decides
        learned, held_out = learned.by_length(), held_out.by_length()
    answers = distill.lessons(
        teacher,
        _examples(held_out, teacher.processor),
        language=labels.language,
        batch_size=settings.recovery.batch_size,
    )
    return Lessons(run, teacher, learned, held_out, answers, silence)


def recover(
    lessons: Lessons, student, every: Sequence[Block], number: int = 1, *, sparsity: float
) -> Round:
    """Train the model that round `number` pruned, in place (blocks `every`, with their targeted
    linears), and say what came of it.

    Training is in float32 whatever the model's precision. Before the last round it is
    `pruning_frequency` passes long.
    """
    method = lessons.run.config.pruning.recovery.method
    if method == "none":
        return Round(number, method, sparsity)
    precision = next(student.parameters()).dtype
    student.float().requires_grad_(True)  # a compact folder is loaded without
    train = {"blockwise": _blockwise, "distill": _distill, "norms": _norms}[method]
    course, repaired = train(lessons, student, every, number)
    student.to(precision)
    return Round(
        number,
        method,
        sparsity,
        course.steps,
        course.seconds,
        held_out_kl_before=course.kl_before,
        held_out_kl_after=course.kept,
        curve=course.curve,
        blocks=repaired,
    )


def summary(lessons: Lessons, rounds: Sequence[Round]) -> Recovered:
    """All rounds of a run in one."""
    last = rounds[-1]
    return Recovered(
        method=last.method,
        minutes=sum(one.seconds for one in rounds) / 60,
        steps=sum(one.steps for one in rounds),
        held_out_kl_before=last.held_out_kl_before,
        held_out_kl_after=last.held_out_kl_after,
        clips=len(lessons.learned.clips),
        held_out_clips=len(lessons.held_out.clips),
        rounds=list(rounds),
    )


def curve(rounds: Sequence[Round]) -> pd.DataFrame:
    """The held-out KL of all rounds on one clock of training minutes: round, minutes, kl, and kept
    (the round's result).
    """
    rows, spent = [], 0.0
    for one in rounds:
        rows += [
            (one.round, spent + point.minutes, point.kl, one.held_out_kl_after)
            for point in one.curve
        ]
        spent += one.seconds / 60
    return pd.DataFrame(rows, columns=["round", "minutes", "kl", "kept"])


def sentence(result: Recovered) -> str:
    """What `summary` came to, for a reader."""
    if result.method == "none":
        return "No recovery: this is the one-shot model."
    return (
        f"Recovery by {result.method} trained for {result.minutes:.1f} minutes "
        f"({result.steps} steps on {result.clips} calibration clips); "
        f"the divergence on {result.held_out_clips} held-out calibration clips went from "
        f"{result.held_out_kl_before:.4f} (pruned) "
        f"to {result.held_out_kl_after:.4f} (recovered) nats per token."
    )


def keep_round(run: Run, asr: Whisper, number: int) -> None:
    """Save the model to `runs/<run>/checkpoints/round-<number>`, if the config asks for it."""
    if run.config.output.save_pruned_checkpoints:
        with whole_folder(run.folder / "checkpoints" / f"round-{number}") as folder:
            asr.model.save_pretrained(folder)
            asr.processor.save_pretrained(folder)


Trained = tuple[Course, list[RecoveredBlock]]


def _blockwise(lessons: Lessons, student, every: Sequence[Block], number: int) -> Trained:
    rate = lessons.run.config.pruning.recovery.learning_rate or blockwise.RATE
    return _by_block(lessons, student, every, _epochs(lessons, number), rate)


def _norms(lessons: Lessons, student, every: Sequence[Block], number: int) -> Trained:
    settings, teacher = lessons.run.config.pruning, lessons.teacher
    course = norms.train(
        teacher._replace(model=student),
        teacher,
        every,
        _examples(lessons.learned, teacher.processor),
        _examples(lessons.held_out, teacher.processor),
        language=lessons.learned.language,
        window=lessons.run.config.evaluation.window,
        epochs=_epochs(lessons, number),
        rate=settings.recovery.learning_rate or norms.RATE,
        batch_size=settings.recovery.batch_size,
        seed=settings.calibration.seed,
    )
    return course, []


def _epochs(lessons: Lessons, number: int) -> int:
    settings = lessons.run.config.pruning
    last = number == settings.schedule.iterations
    return settings.recovery.epochs if last else settings.schedule.frequency


def _by_block(
    lessons: Lessons, student, every: Sequence[Block], epochs: int, rate: float
) -> Trained:
    measure = lambda: distill.divergence(student, lessons.answers, lessons.silence)
    asr, teacher = lessons.teacher._replace(model=student), lessons.teacher.model
    batches = [_batches(lessons, asr, labels) for labels in (lessons.learned, lessons.held_out)]
    steps, seconds, rows, points = 0, 0.0, [], [Point(0, 0.0, measure())]
    for row in blockwise.recover_blocks(
        student,
        teacher,
        every,
        blocks(teacher),
        *batches,
        silence=lessons.silence,
        epochs=epochs,
        rate=rate,
        seed=lessons.run.config.pruning.calibration.seed,
    ):
        steps, seconds = steps + row.steps, seconds + row.seconds
        points.append(Point(steps, seconds / 60, measure()))
        rows.append(row)
    return Course(steps, seconds, points, points[-1].kl), rows


def _batches(lessons: Lessons, asr: Whisper, labels: Labels) -> list[Batch]:
    """What blockwise recovery reads: the windows of the calibration, or where the run's are short,
    clip by clip, since packed windows are hardly ever short and counted padding fills every one.
    """
    config, size = lessons.run.config, lessons.run.config.pruning.recovery.batch_size
    if lessons.silence is None:
        return calibration_batches(config, asr, labels, size)
    clips, tokens, language = labels.clips, labels.tokens, labels.language
    return prepare(asr, clips, tokens, language=language, padding="exclude", batch_size=size)


def _distill(lessons: Lessons, student, every: Sequence[Block], number: int) -> Trained:
    """In the last round blockwise first: it does most of the repair in a fraction of the time; its
    result is dropped where it raises the KL.
    """
    settings, examples = (
        lessons.run.config.pruning,
        _examples(lessons.learned, lessons.teacher.processor),
    )
    steps, first, rows = settings.recovery.steps, None, []
    if number < settings.schedule.iterations:
        passes = batches_per_pass(len(examples), settings.recovery.batch_size)
        steps = settings.schedule.frequency * passes
    else:
        pruned = training.snapshot(training.trainable(every))
        first, rows = _by_block(lessons, student, every, settings.recovery.epochs, blockwise.RATE)
        if first.curve[-1].kl > first.kl_before:
            training.restore(training.trainable(every), pruned)
    course = distill.distill(
        student,
        lessons.teacher,
        every,
        examples,
        lessons.answers,
        language=lessons.learned.language,
        silence=lessons.silence,
        rate=settings.recovery.learning_rate or distill.RATE,
        batch_size=settings.recovery.batch_size,
        seed=settings.calibration.seed,
        minutes=settings.recovery.minutes,
        steps=steps,
        state_file=lessons.run.folder / "recovery" / f"round-{number}.pt",
        key=cache.key(student, [], lessons.run.config.digest(), "owl.recover.recovery"),
    )
    return first.then(course) if first else course, rows


def _examples(labels: Labels, processor) -> list[Example]:
    limit = window_samples(processor)
    return [
        Example(clip.audio[:limit], tokens) for clip, tokens in zip(labels.clips, labels.tokens)
    ]
