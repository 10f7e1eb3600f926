"""The demo recipe's four steps, each resumable: sentences → speech → training examples → trained
checkpoint.

`notebooks/00_demo_model.ipynb` runs them in order with `make demo-model`; `data/demo` and
`models/demo` are what it leaves behind.
"""

import csv
import shutil
from pathlib import Path

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from demo.model import make_model, make_processor
from demo.speech import Style, opus_bytes, synthesise
from demo.text import sentences
from demo.train import Example, Schedule, fingerprint, prepare, train
from owl.run.files import whole_file, whole_folder

# the committed clips are cleaner than what the model trains on
SHIPPED = Style(flite_share=0.15, noise_db=(25.0, 45.0))
# sentences per split; split names the folder in data/demo
COUNTS = {"evaluation": 160, "calibration": 128, "training": 12_000}


def write_clips(folder: Path, texts: list[str], seed: int) -> None:
    """`folder/NNN.ogg` for each text and `metadata.csv` (file_name, text, speaker), whole or not at
    all; the voice is the speaker.
    """
    with (
        whole_folder(folder) as half,
        open(half / "metadata.csv", "w", newline="", encoding="utf-8") as handle,
    ):
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(["file_name", "text", "speaker"])
        for index, clip in enumerate(synthesise(texts, seed, SHIPPED)):
            name = f"{index:03d}.ogg"
            (half / name).write_bytes(opus_bytes(clip.audio))
            rows.writerow([name, clip.text, clip.voice])


def training_examples(
    work: Path, texts: list[str], processor: WhisperProcessor, seed: int
) -> list[Example]:
    """Synthesised and turned into features once (minutes) per texts and seed, then read from
    `work`; sorted by length.
    """
    cache = work / f"examples-{fingerprint(texts, seed)}.pt"
    if not cache.exists():
        work.mkdir(parents=True, exist_ok=True)
        examples = sorted(
            prepare(synthesise(texts, seed), processor),
            key=lambda example: example.features.shape[1],
        )
        with whole_file(cache) as path:
            torch.save([tuple(example) for example in examples], path)
    return [Example(*example) for example in torch.load(cache)]


def build(
    data: Path,
    target: Path,
    work: Path,
    seed: int = 0,
    counts: dict[str, int] = COUNTS,
    schedule: Schedule = Schedule(),
) -> None:
    """Make clips and a trained checkpoint (fp16) in `work`, then put them in the place of `data`
    and `target`.

    `work` keeps what an interrupted run resumes from, each thing under a name that follows from all
    that decides it: another seed, other counts or another schedule never resume this one's.
    """
    texts = sentences(counts, seed)
    made = {}
    for offset, split in enumerate(("evaluation", "calibration")):
        made[split] = work / f"{split}-{fingerprint(texts[split], seed)}"
        if not made[split].exists():
            write_clips(made[split], texts[split], seed=1000 + seed + offset)
    processor = make_processor(texts["training"])
    model = make_model(processor, seed)
    train(model, training_examples(work, texts["training"], processor, seed), work, seed, schedule)
    for split, folder in made.items():
        with whole_folder(data / split) as half:
            shutil.copytree(folder, half, dirs_exist_ok=True)
    save(model, processor, target)


def save(model: WhisperForConditionalGeneration, processor: WhisperProcessor, target: Path) -> None:
    """An ordinary Whisper folder, fp16; `preprocessor_config.json` too, which other runtimes
    want.
    """
    with whole_folder(target) as half:
        model.half().save_pretrained(half)
        processor.save_pretrained(half)
        processor.feature_extractor.save_pretrained(half)
