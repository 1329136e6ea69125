"""INT8 quantization of an exported detector. Needs onnx and onnxruntime, not torch."""

import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from slab_det.deploy.onnx_detector import OnnxDetector, read_image
from slab_det.errors import InputError
from slab_det.files import whole_file

#: Endings of the files that are taken for calibration images.
ENDINGS = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff')

METHODS = ('minmax', 'percentile', 'entropy')


def calibration_images(folder: str | os.PathLike, number: int) -> list[Path]:
    """Return up to ``number`` images below ``folder``, evenly spread over their sorted names.

    Raises:
        InputError: there is no folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise InputError(f'{folder} is not a folder; give one with images.')
    files = sorted(path for path in Path(folder).rglob('*') if path.suffix.lower() in ENDINGS)
    if not files:
        raise InputError(
            f'{folder} holds no image ({", ".join(ENDINGS)}); give a folder with images.'
        )
    if not 0 < number < len(files):
        return files
    return [files[i * len(files) // number] for i in range(number)]


def quantize(
    source: str | os.PathLike,
    target: str | os.PathLike,
    images: Sequence[Path],
    method: str = 'minmax',
    keep: str | None = None,
) -> int:
    """Write a detector with its linear and convolution layers in INT8; see :func:`quantize_graph`.

    Args:
        source: a file of :func:`slab_det.mm.onnx.export.export_onnx`.
        target: the file to write; whole or not at all.
        images: what the ranges of the activations are measured on.
        method, keep: see :func:`quantize_graph`.

    Returns:
        The number of layers that were quantized.

    Raises:
        InputError: a file, an image, the method or the expression cannot be used.
    """
    detector = OnnxDetector(source)
    return quantize_graph(
        source,
        target,
        (dict(image=detector.preprocess(read_image(path))[None]) for path in images),
        method,
        keep,
    )


def quantize_graph(
    source: str | os.PathLike,
    target: str | os.PathLike,
    inputs: Iterable[dict[str, np.ndarray]],
    method: str = 'minmax',
    keep: str | None = None,
) -> int:
    """Write the graph ``source`` with the products of its linear and convolution layers in INT8.

    What a layer takes gets 8 bits with a scale per tensor from the ``inputs``, its weights 8 bits with
    a scale per output channel. What a linear layer returns stays float32, as its sum is: rounding it
    would cost accuracy and time and save neither. Products of two activations, as in attention, stay in
    float32: their sums run over thousands of tokens. So do norms, softmax and everything behind the
    heads.

    Args:
        source: an ONNX file.
        target: the file to write; whole or not at all.
        inputs: by name, for a run each.
        method: 'minmax', or 'percentile' or 'entropy', which cut off rare values.
        keep: layers stay in float32 where this regular expression is found in their name.

    Returns:
        The number of layers that were quantized.

    Raises:
        InputError: the method or the expression cannot be used, or nothing is left to quantize.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if method not in METHODS:
        raise InputError(f'method must be one of {", ".join(METHODS)}, but got {method!r}.')
    target = Path(target)
    try:
        pattern = None if keep is None else re.compile(keep)
    except re.error as error:
        raise InputError(
            f'keep must be a regular expression, but got {keep!r}: {error}.'
        ) from error
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f'.{target.name}.') as folder:
        prepared, result = Path(folder, 'prepared.onnx'), Path(folder, 'result.onnx')
        # Constant parts are computed first, so that every weight is one.
        quant_pre_process(
            os.fspath(source),
            os.fspath(prepared),
            skip_symbolic_shape=True,
            skip_optimization=False,
        )
        model = onnx.load(prepared)
        layers = _layers(model)
        kept = [name for name in layers if pattern is not None and pattern.search(name)]
        if len(kept) == len(layers):
            raise InputError(
                f'keep={keep!r} fits all of the {len(layers)} layers; nothing is left to quantize.'
            )
        quantize_static(
            os.fspath(prepared),
            os.fspath(result),
            _Inputs(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=['MatMul', 'Gemm', 'Conv'],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[name for name in layers if name not in kept],
            calibrate_method={
                'minmax': CalibrationMethod.MinMax,
                'percentile': CalibrationMethod.Percentile,
                'entropy': CalibrationMethod.Entropy,
            }[method],
            extra_options=dict(
                MatMulConstBOnly=True, OpTypesToExcludeOutputQuantization=['MatMul', 'Gemm']
            ),
        )
        model = onnx.load(result)
        properties = {
            entry.key: entry.value
            for entry in onnx.load(source, load_external_data=False).metadata_props
        }
        onnx.helper.set_model_props(model, properties)
        _use_standard_domains(model)
        onnx.checker.check_model(model)
        with whole_file(target, 'target') as part:
            onnx.save(model, part)
    return len(layers) - len(kept)


def _layers(model) -> list[str]:
    """Return the names of the nodes that multiply with a constant weight."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ('MatMul', 'Gemm', 'Conv') and node.input[1] in constants
    ]


def _use_standard_domains(model) -> None:
    """Drop the imports of operator sets of which no node is; onnxruntime adds all that it knows."""
    used = {node.domain for node in model.graph.node} | {''}
    wanted = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(wanted)


class _Inputs:
    """Hands inputs one by one to onnxruntime's calibration."""

    def __init__(self, inputs: Iterable[dict[str, np.ndarray]]) -> None:
        self.inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs of the next run, or None."""
        return next(self.inputs, None)

    def __iter__(self):
        return self.inputs
