"""How far an exported folder is from the dense model: the divergence of its teacher-forced
predictions for the evaluation clips.

PyTorch's folders and whisper.cpp's files are judged by the weights that they hold, in PyTorch;
onnxruntime by what its graphs compute, float or int8. CTranslate2 gives no probabilities for a
given text: its folders are not judged.
"""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from transformers import WhisperProcessor

from owl.config.formats import Format
from owl.config.load import Config
from owl.data.load import Dataset
from owl.evaluate import divergence
from owl.evaluate.divergence import Predictor, Teacher, text_batches, write_predictions
from owl.model.decoding import log_mel
from owl.model.loading import outline
from owl.model.whisper import Whisper
from owl.run.experiment import load_model

CLIPS = 256  # per dataset, the first ones, as in 03_evaluation


def teacher_of(
    dense: Whisper, datasets: Sequence[Dataset], batch_size: int, folder: Path
) -> Teacher:
    """The dense model's predictions for the datasets' clips that have text, kept in a temporary
    folder inside `folder` as long as this lives.
    """
    batches = [
        batch
        for dataset in datasets
        for batch in text_batches(
            dense, dataset.clips[:CLIPS], language=dataset.language, batch_size=batch_size
        )
    ]
    teacher = Teacher(batches, Path(tempfile.mkdtemp(dir=folder)))
    weakref.finalize(teacher, shutil.rmtree, teacher.folder, ignore_errors=True)
    write_predictions(dense, batches, teacher.folder)
    return teacher


def predictor(
    wanted: Format, folder: Path | None, config: Config, alike: str, vocabulary: int
) -> Predictor | None:
    """What predicts as `folder` does (None: the config's own, dense model); None for a runtime that
    gives no probabilities, and where PyTorch's weights are of another number of tokens than
    `vocabulary`. `alike` names a model of the same shape, which a ggml file does not say.
    """
    if wanted.runtime == "ctranslate2":
        return None
    if wanted.runtime == "onnxruntime":
        from owl.export.onnx import OnnxWhisper

        whisper = OnnxWhisper(folder, config.hardware.cpu_threads)
        processor = WhisperProcessor.from_pretrained(folder)
        return lambda batch: whisper.predictions(
            log_mel(processor, [clip.audio for clip in batch.clips]), batch.tokens
        )[:, batch.prompt - 1 :]
    if wanted.runtime == "whisper.cpp":
        from owl.export.ggml import load_ggml

        asr = load_ggml(folder, outline(alike, config.model.cache_dir))
    else:
        asr = load_model(config, folder)
    return divergence.predictor(asr) if asr.model.config.vocab_size == vocabulary else None
