"""Transcripts on disk: raw, with what decided them in their name, read again where nothing that
decides them changed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from owl.config.load import Config
from owl.data.load import Dataset
from owl.evaluate.transcribe import Transcript, Transcription, transcribe
from owl.kernels.texts import is_latin
from owl.model.decoding import States, torch_decoder
from owl.model.whisper import Whisper, text_language
from owl.model.windows import Window
from owl.run import cache, provenance
from owl.run.experiment import slug
from owl.run.files import whole_file
from owl.run.provenance import acceleration
from owl.run.record import Run


def save(path: Path, transcription: Transcription, provenance: Mapping) -> None:
    """Raw JSONL, one clip a line, the wall time and where it all comes from on the first; written
    whole or not at all.
    """
    lines = [
        {"seconds": transcription.seconds, "provenance": provenance},
        *(asdict(one) for one in transcription.transcripts),
    ]
    with whole_file(path) as temporary:
        temporary.write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
        )


def read(path: Path) -> Transcription:
    """What `save` wrote."""
    head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return Transcription([Transcript(**line) for line in lines], head["seconds"])


def hear(
    config: Config,
    asr: Whisper,
    dataset: Dataset,
    states: States | None = None,
    description: str = "transcribe",
    window: Window | None = None,
) -> Transcription:
    """Transcribe a dataset as the config says, or in another `window`; `states` keeps the encoder's
    outputs of full windows.
    """
    settings = config.evaluation
    decode = torch_decoder(
        asr,
        language=dataset.language,
        max_new_tokens=settings.max_new_tokens,
        states=states,
        window=window or settings.window,
    )
    # a first call compiles and allocates; it is not part of the speed
    decode([dataset.clips[0].audio])
    return transcribe(
        decode,
        asr.processor,
        dataset.clips,
        batch_size=settings.batch_size,
        description=description,
    )


def transcripts(
    run: Run,
    name: str,
    asr: Whisper,
    dataset: Dataset,
    states: States | None = None,
    window: Window | None = None,
) -> Transcription:
    """Transcribe a dataset and keep it in `runs/<run>/transcripts/`; read what is there if nothing
    differs that decides text or speed.

    `states` keeps the encoder's outputs where it does transcribe; `window` as in `hear`.
    """
    settings = run.config.evaluation
    facts = [
        window or settings.window,
        dataset.language,
        settings.batch_size,
        settings.max_new_tokens,
        [list(one) for one in acceleration(run.config)],
    ]
    processing = [
        asr.processor.feature_extractor.to_json_string(),
        sorted(asr.processor.tokenizer.get_vocab().items()),
    ]
    key = cache.key(
        asr.model,
        dataset.clips,
        [facts, processing, torch.get_num_threads()],
        "owl.evaluate.stored",
    )
    path = run.folder / "transcripts" / f"{slug(dataset.name)}-{name}-{key}.jsonl"
    if not path.exists():
        said = hear(run.config, asr, dataset, states, f"{dataset.name}, {name}", window)
        save(path, said, provenance.collect(run.config))
    return read(path)


def normalizer_of(config: Config, model, dataset: Dataset) -> str:
    """Whisper's English normaliser for English, basic for other languages (also where nobody says
    the language, and the references are in another script), or what the config says.
    """
    wanted = config.evaluation.normalizer
    if wanted != "auto":
        return wanted
    english = text_language(model, dataset.language) == "en"
    return "english" if english and is_latin([one.text or "" for one in dataset.clips]) else "basic"
