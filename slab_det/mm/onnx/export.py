"""Export of whole detectors to ONNX."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slab_det.deploy import place_twins, temporarily
from slab_det.deploy.onnx.ops import traceable_padding
from slab_det.errors import InputError
from slab_det.files import replaced_file

from .metadata import KEY
from .model import DetectorGraph

#: Version of ONNX's operators; the first with GELU as one operator.
OPSET = 20

#: Height and width with which a graph of any size is traced: no side divides into windows.
TRACE_SIZE = (203, 277)


def export_onnx(
    detector: nn.Module,
    path: str | os.PathLike,
    metadata: Mapping[str, Any],
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Write ``detector`` to one ONNX file of standard operators.

    The graph takes one image ``(1, H, W, 3)`` of bytes, blue, green and red; see
    :class:`slab_det.mm.onnx.model.DetectorGraph` for what it returns.

    It is traced by torch's TorchScript exporter. The newer exporter, which interprets Python, would
    need every size that depends on the data, such as the number of boxes, to be declared.

    Args:
        detector: an mmdet detector, re-parameterized where it can be. The twins of its blocks are
            in place while it is traced.
        path: the file; it is written whole or not at all.
        metadata: see :func:`slab_det.mm.onnx.metadata.file_metadata`.
        size: height and width of every image, for a file of that size only; by default any.

    Returns:
        The ``metadata`` that was written, with the ``size``.

    Raises:
        InputError: the detector has a part that cannot be exported.
        OSError: the file cannot be written.
    """
    import onnx

    path = Path(path)
    graph = DetectorGraph(detector).eval().cpu().float()
    image = torch.randint(
        0,
        256,
        (1, *(size or TRACE_SIZE), 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    axes = {name: {0: 'detections'} for name in graph.output_names}
    if size is None:
        axes['image'] = {1: 'height', 2: 'width'}
    twins = temporarily(place_twins, graph)
    with replaced_file(path) as part:
        with torch.no_grad(), _quiet(), traceable_padding(graph), twins:
            torch.onnx.export(
                graph,
                (image,),
                str(part),
                dynamo=False,
                opset_version=OPSET,
                input_names=['image'],
                output_names=list(graph.output_names),
                dynamic_axes=axes,
            )
        model = onnx.load(part)
        metadata = dict(metadata, size=None if size is None else list(size))
        onnx.helper.set_model_props(model, {KEY: json.dumps(metadata)})
        model.producer_name = 'slab_det'
        check_model(model)
        onnx.save(model, part)
    return metadata


def check_model(model) -> None:
    """Check an ONNX model with onnx's checker, and that it holds standard operators only.

    Raises:
        InputError: an operator is of another domain.
        onnx.checker.ValidationError: the model is not valid.
    """
    import onnx

    onnx.checker.check_model(model, full_check=True)
    foreign = {
        f'{node.domain}::{node.op_type}'
        for node in model.graph.node
        if node.domain not in ('', 'ai.onnx')
    }
    if foreign or model.functions:
        raise InputError(
            f'the graph holds operators that are not standard ONNX: {sorted(foreign)}.'
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what tracing warns of: sizes of weights are constants on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        warnings.filterwarnings('ignore', category=UserWarning, module='torch')
        yield
