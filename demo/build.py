"""The demo recipe's four steps, each resumable: sentences → speech → training examples → trained checkpoint.

`notebooks/00_demo_model.ipynb` runs them in order with `make demo-model`; `data/demo` and `models/demo` are what it leaves behind.
"""

import csv
from pathlib import Path

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from demo.model import make_model, make_processor
from demo.speech import Style, opus_bytes, synthesise
from demo.text import sentences
from demo.train import Example, Schedule, prepare, train

SHIPPED = Style(flite_share=0.15, noise_db=(25.0, 45.0))  # the committed clips are cleaner than what the model trains on
COUNTS = {"evaluation": 160, "calibration": 128, "training": 12_000}  # sentences per split; split names the folder in data/demo


def write_clips(folder: Path, texts: list[str], seed: int) -> None:
    """`folder/NNN.ogg` for each text and `metadata.csv` (file_name, text, speaker); the voice is the speaker."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = synthesise(texts, seed, SHIPPED)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(["file_name", "text", "speaker"])
        for index, clip in enumerate(clips):
            name = f"{index:03d}.ogg"
            (folder / name).write_bytes(opus_bytes(clip.audio))
            rows.writerow([name, clip.text, clip.voice])


def training_examples(work: Path, texts: list[str], processor: WhisperProcessor, seed: int) -> list[Example]:
    """Synthesised and turned into features once (minutes), then read from `work/examples.pt`; sorted by length."""
    cache = work / "examples.pt"
    if not cache.exists():
        work.mkdir(parents=True, exist_ok=True)
        examples = sorted(prepare(synthesise(texts, seed), processor), key=lambda example: example.features.shape[1])
        torch.save([tuple(example) for example in examples], cache.with_suffix(".tmp"))
        cache.with_suffix(".tmp").replace(cache)
    return [Example(*example) for example in torch.load(cache)]


def build(data: Path, target: Path, work: Path, seed: int = 0, counts: dict[str, int] = COUNTS, schedule: Schedule = Schedule()) -> None:
    """Write the clips to `data` and the trained checkpoint (fp16) to `target`; `work` keeps what an interrupted run resumes from."""
    texts = sentences(counts, seed)
    for offset, split in enumerate(("evaluation", "calibration")):
        if not (data / split / "metadata.csv").exists():
            write_clips(data / split, texts[split], seed=1000 + seed + offset)
    processor = make_processor(texts["training"])
    model = make_model(processor, seed)
    train(model, training_examples(work, texts["training"], processor, seed), work, seed, schedule)
    save(model, processor, target)


def save(model: WhisperForConditionalGeneration, processor: WhisperProcessor, target: Path) -> None:
    """An ordinary Whisper folder, fp16; `preprocessor_config.json` too, which other runtimes want."""
    model.half().save_pretrained(target)
    processor.save_pretrained(target)
    processor.feature_extractor.save_pretrained(target)
