"""How far an exported folder is from the dense model: the divergence of its teacher-forced
predictions for the evaluation clips.

PyTorch's folders and whisper.cpp's files are judged by the weights that they hold, in PyTorch;
onnxruntime by what its graphs compute, float or int8. CTranslate2 gives no probabilities for a
given text: its folders are not judged.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import WhisperProcessor

from owl.config.formats import Format
from owl.config.load import Config
from owl.data.load import Dataset
from owl.evaluate.divergence import TextBatch, predictions, text_batches
from owl.kernels.teacher_forcing import kl_terms
from owl.model.decoding import log_mel
from owl.model.loading import outline
from owl.model.whisper import Whisper
from owl.run.experiment import load_model

Predictor = Callable[[TextBatch], Tensor]  # to log probabilities (clips, text + 1, vocabulary)
CLIPS = 256  # per dataset, the first ones, as in 03_evaluation


class Teacher:
    """The dense model's predictions for the datasets' clips that have text, kept in a temporary
    folder inside `folder` as long as this lives: together they may be larger than the memory.
    """

    def __init__(self, dense: Whisper, datasets: Sequence[Dataset], batch_size: int, folder: Path):
        self._vocabulary = dense.model.config.vocab_size
        self._batches = [
            batch
            for dataset in datasets
            for batch in text_batches(
                dense, dataset.clips[:CLIPS], language=dataset.language, batch_size=batch_size
            )
        ]
        self._kept = Path(tempfile.mkdtemp(dir=folder))
        weakref.finalize(self, shutil.rmtree, self._kept, ignore_errors=True)
        for index, batch in enumerate(tqdm(self._batches, desc="dense predictions", unit="batch")):
            save_file({"logs": predictions(dense, batch)}, self._file(index))

    def divergence(self, predict: Predictor) -> float | None:
        """KL(dense ‖ other) in nats per token; None where no clip has text, or the other has
        another vocabulary.
        """
        total, tokens = 0.0, 0
        for index, batch in enumerate(tqdm(self._batches, desc="divergence", unit="batch")):
            other = predict(batch)
            if other.shape[-1] != self._vocabulary:
                return None
            each = kl_terms(load_file(self._file(index))["logs"], other.cpu()).sum(-1)
            total += sum(row[:count].sum().item() for row, count in zip(each, batch.counts))
            tokens += sum(batch.counts)
        return total / tokens if tokens else None

    def _file(self, index: int) -> Path:
        return self._kept / f"{index}.safetensors"


def predictor(wanted: Format, folder: Path | None, config: Config, alike: str) -> Predictor | None:
    """What predicts as `folder` does (None: the config's own, dense model); None for a runtime that
    gives no probabilities. `alike` names a model of the same shape, which a ggml file does not say.
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
    return lambda batch: predictions(asr, batch)
